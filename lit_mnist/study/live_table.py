"""What a study shows while it runs: a table that redraws itself in a terminal, plain lines elsewhere."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lit_mnist.study.ending import FAILED, OUTCOMES
from lit_mnist.study.estimate import spoken
from lit_mnist.study.watch import ELSEWHERE, RUNNING, WAITING, Row, Watch

REDRAWS_PER_SECOND = 1.0
COLOURS = {RUNNING: "cyan", "collapsed": "yellow", "diverged": "yellow", FAILED: "red", WAITING: "dim"}
FRAME_LINES = 5  # the table's own lines and the line below it


def summary(watch: Watch, rows: Sequence[Row]) -> str:
    """ "3 of 15 runs done, 2 running, about 12 min left"."""
    running = sum(row.state == RUNNING for row in rows)
    done = sum(row.state in OUTCOMES for row in rows)
    left = spoken(watch.seconds_left(rows))
    return f"{done} of {len(rows)} runs done, {running} running, about {left} left"


def most_telling(rows: Sequence[Row], height: int) -> list[Row]:
    """At most `height` rows, in their order: running ones before ended ones before waiting ones."""
    urgency = [RUNNING, ELSEWHERE, *reversed(OUTCOMES), WAITING]
    chosen = sorted(range(len(rows)), key=lambda index: urgency.index(rows[index].state))[: max(1, height)]
    return [rows[index] for index in sorted(chosen)]


def draw(watch: Watch, height: int) -> Group:
    """The table, cut to `height` terminal lines, with the summary below."""
    rows = watch.rows()
    table = Table("run", "epoch", "train loss", "state", "time left")
    for column in table.columns[1:3]:
        column.justify = "right"
    for row in most_telling(rows, height - FRAME_LINES):
        table.add_row(
            str(row.run),
            f"{row.epoch}/{row.epochs}" if row.epoch else "",
            "" if row.loss is None else f"{row.loss:.4f}",
            Text(row.state, style=COLOURS.get(row.state, "green")),
            spoken(row.seconds_left) if row.state == RUNNING else "",
        )
    return Group(table, Text(summary(watch, rows)))


class PlainLines(threading.Thread):
    """Prints a line whenever a run starts, ends an epoch or ends."""

    def __init__(self, watch: Watch, console: Console) -> None:
        super().__init__(daemon=True)
        self.watch = watch
        self.console = console
        self.ended = threading.Event()
        self.said: dict[str, str] = {str(row.run): row.state for row in watch.rows()}

    def run(self) -> None:
        while not self.ended.wait(1 / REDRAWS_PER_SECOND):
            self.say()
        self.say()

    def say(self) -> None:
        """Prints what is new."""
        rows = self.watch.rows()
        for row in rows:
            words = row.state
            if row.state == RUNNING and row.epoch:
                words += f", epoch {row.epoch}/{row.epochs}"
            if row.loss is not None:
                words += f", train loss {row.loss:.4f}"
            if self.said[str(row.run)] != words:
                self.said[str(row.run)] = words
                line = f"{row.run}: {words} ({summary(self.watch, rows)})"
                self.console.print(line, soft_wrap=True, highlight=False)


@contextmanager
def shown(watch: Watch, console: Console) -> Iterator[None]:
    """Shows the runs on `console` as long as the block lasts."""
    if console.is_terminal:
        with Live(
            get_renderable=lambda: draw(watch, console.height),
            console=console,
            refresh_per_second=REDRAWS_PER_SECOND,
        ):
            yield
        return
    lines = PlainLines(watch, console)
    lines.start()
    try:
        yield
    finally:
        lines.ended.set()
        lines.join()
