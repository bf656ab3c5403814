"""Status of a study's runs, read from their folders alone, wherever the workers are; shown while it goes on and at its end."""

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lit_mnist.record.printable import one_line
from lit_mnist.record.result import FAILED_OUTCOMES, OUTCOMES, Result, read_result
from lit_mnist.study.plan import RunSpec

WAITING, RUNNING, ELSEWHERE = "waiting", "running", "elsewhere"  # elsewhere: another process trains this run
STOPPED = "stopped"  # with the study
FAILED = "failed"  # without a result: `fit` refused, crashed or was killed; the same command tries again
ENDED = (FAILED, *FAILED_OUTCOMES, *(outcome for outcome in OUTCOMES if outcome not in FAILED_OUTCOMES))

LOOK_SECONDS = 1.0  # between two looks at the folders
TAIL = 4096  # bytes at the end of a run's output, which hold its last epoch
EPOCH = re.compile(rb"^epoch +(\d+)(?:/(\d+))? +loss ([\d.]+)", re.MULTILINE)  # as `fit` prints it
COLOURS = {RUNNING: "cyan", FAILED: "red", WAITING: "dim"} | dict.fromkeys(FAILED_OUTCOMES, "yellow")
FRAME_LINES = 5  # of the table, with the line below it


@dataclass(frozen=True)
class Status:
    """State of a run: an outcome of `fit`, or one of the words above; the reason, if it is not plain; the result."""

    state: str
    reason: str = ""
    result: Result | None = None


def read_status(folder: Path) -> Status | None:
    """Reads how the run in `folder` ended; None while it has no result."""
    try:
        result = read_result(folder)
    except ValueError as mistake:
        return Status(FAILED, f"{one_line(f'{folder}: {mistake}')}: delete the folder to run it again.")
    return None if result is None else Status(result.outcome, one_line(result.reason), result)


@dataclass(frozen=True)
class Row:
    """One line of the live table; `loss` is the mean training loss (nats) of the last epoch, 0 epochs are not known."""

    run: RunSpec
    state: str
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    seconds_left: float | None = None  # at the pace seen so far; None while no epoch was seen to end


class Progress:
    """Rows of the live table, in the order of the runs.

    Args:
        runs: All runs of the study.
        workers: Runs at once.
        statuses: What is known of each run that has ended; the study adds to it while it goes on.
    """

    def __init__(self, runs: Sequence[RunSpec], workers: int, statuses: Mapping[RunSpec, Status]) -> None:
        self.runs, self.workers, self.statuses = runs, workers, statuses
        self._sizes = {run: _output(run)[0] for run in runs}
        self._seen: dict[RunSpec, list[tuple[float, int]]] = {}  # time and epoch: at the first look, at the last new epoch
        self._durations: dict[str, float] = {}  # seconds of a whole run, by configuration

    def rows(self) -> list[Row]:
        """Looks at the folders."""
        return [self._row(run) for run in self.runs]

    def _row(self, run: RunSpec) -> Row:
        status = self.statuses.get(run)
        if status and status.state in ENDED:
            done, loss = (status.result.epochs, status.result.final_train_loss) if status.result else (0, None)
            return Row(run, status.state, done, done, loss)
        state = ELSEWHERE if status and status.state == ELSEWHERE else RUNNING
        size, end = _output(run)
        if state == RUNNING and size == self._sizes[run]:
            return Row(run, WAITING)
        if not (found := EPOCH.findall(end)):
            return Row(run, state, seconds_left=self._left(run, 0, 0))
        epoch, epochs = (int(number or 0) for number in found[-1][:2])
        return Row(run, state, epoch, epochs, float(found[-1][2]), self._left(run, epoch, epochs))

    def _left(self, run: RunSpec, epoch: int, epochs: int) -> float | None:
        now = time.monotonic()
        first, last = self._seen.setdefault(run, [(now, epoch), (now, epoch)])
        if epoch > last[1]:
            last = self._seen[run][1] = (now, epoch)
        if not epochs or last[1] == first[1]:
            return None
        pace = (last[0] - first[0]) / (last[1] - first[1])
        self._durations[run.name] = pace * epochs
        return max(0.0, pace * (epochs - epoch) - (now - last[0]))

    def summary(self, rows: Sequence[Row]) -> str:
        """Counts runs: "3 of 15 runs done, 2 running, about 12 min left"."""
        done = sum(row.state in ENDED for row in rows)
        running = sum(row.state == RUNNING for row in rows)
        counts = f"{done} of {len(rows)} runs done, {running} running"
        if done == len(rows) or not self._durations:
            return counts
        usual = fmean(self._durations.values())
        left = [
            self._durations.get(row.run.name, usual) if row.seconds_left is None else row.seconds_left
            for row in rows
            if row.state not in ENDED
        ]
        return f"{counts}, about {format_duration(max(max(left), sum(left) / self.workers))} left"

    def table(self, height: int) -> Group:
        """Draws the most telling rows on at most `height` lines: running ones before ended ones before waiting ones."""
        rows = self.rows()
        order = (RUNNING, ELSEWHERE, *ENDED, WAITING)
        chosen = sorted(range(len(rows)), key=lambda index: order.index(rows[index].state))[: max(1, height - FRAME_LINES)]
        table = Table("run", "epoch", "train loss", "state", "time left")
        for row in (rows[index] for index in sorted(chosen)):
            table.add_row(
                Text(str(row.run)),
                f"{row.epoch}/{row.epochs or '?'}" if row.epoch else "",
                "" if row.loss is None else f"{row.loss:.4f}",
                Text(row.state, style=COLOURS.get(row.state, "green")),
                "" if row.seconds_left is None else format_duration(row.seconds_left),
            )
        return Group(table, Text(self.summary(rows)))

    def news(self, said: dict[RunSpec, str]) -> Iterator[str]:
        """Gives a line for each run that started, ended an epoch or ended since `said` was filled, and fills it."""
        rows = self.rows()
        for row in rows:
            words = row.state + (f", epoch {row.epoch}/{row.epochs or '?'}" if row.state == RUNNING and row.epoch else "")
            words += "" if row.loss is None else f", train loss {row.loss:.4f}"
            if said.get(row.run, WAITING) != words:
                yield f"{row.run}: {words} ({self.summary(rows)})"
            said[row.run] = words


def _output(run: RunSpec) -> tuple[int, bytes]:
    """Returns the size of what a run printed, and its end."""
    try:
        with (run.folder / "output.txt").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            return size, file.read()
    except OSError:
        return 0, b""


def format_duration(seconds: float) -> str:
    """Formats a duration: "40 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def shown(progress: Progress, console: Console) -> Iterator[None]:
    """Shows the runs within the block: a table that redraws itself in a terminal, a line for each event elsewhere."""
    if console.is_terminal:
        with Live(get_renderable=lambda: progress.table(console.height), console=console, refresh_per_second=1 / LOOK_SECONDS):
            yield
        return
    said: dict[RunSpec, str] = {}
    list(progress.news(said))
    ended = threading.Event()

    def say() -> None:
        while True:
            last = ended.wait(LOOK_SECONDS)
            for line in progress.news(said):
                console.print(line, soft_wrap=True, highlight=False, markup=False)
            if last:
                return

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def results_table(statuses: Mapping[RunSpec, Status]) -> str:
    """Makes a table of one line per configuration; below it, a line for each run that failed.

    Final loss (nats, mean of the last epoch) and accuracies are medians over the runs that did not fail.
    """
    lines = [("config", "n", "failed", "final loss", "train accuracy", "test accuracy")]
    for name in dict.fromkeys(run.name for run in statuses):
        group = [status for run, status in statuses.items() if run.name == name]
        results = [status.result for status in group if status.result and not status.result.failed]
        lines.append(
            (
                name,
                str(len(group)),
                str(len(group) - len(results)),
                _median([result.final_train_loss for result in results], ".6f"),
                _median([result.train_accuracy for result in results], ".3%"),
                _median([result.test_accuracy for result in results], ".3%"),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in lines]
    failed = [
        f"{run}: {each.state}. {each.reason}" for run, each in statuses.items() if each.state in (FAILED, *FAILED_OUTCOMES)
    ]
    return "\n".join(table + failed)


def _median(numbers: Sequence[float | None], form: str) -> str:
    known = [number for number in numbers if number is not None]
    return format(median(known), form) if known else "-"
