"""Status of a study's runs, read from their folders alone, wherever the workers are, and shown while it goes on."""

import math
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lit_mnist.record.printable import one_line
from lit_mnist.record.result import FAILED_OUTCOMES, Result, read_result
from lit_mnist.study.plan import RunSpec

WAITING, RUNNING, ELSEWHERE = "waiting", "running", "elsewhere"  # elsewhere: another process trains this run
WITHOUT_RESULT = "failed"  # `fit` refused, crashed or was killed; the same command tries again
NOT_ENDED = {RUNNING: 0, ELSEWHERE: 1, WAITING: 3}  # with their places in the table, between which those stand that ended

TAIL = 4096  # bytes at the end of a run's output, which hold its last epoch
EPOCH = re.compile(rb"^epoch +(\d+)(?:/(\d+))? +loss ([\d.]+)", re.MULTILINE)  # as `fit` prints it
COLOURS = {RUNNING: "cyan", WITHOUT_RESULT: "red", WAITING: "dim"} | dict.fromkeys(FAILED_OUTCOMES, "yellow")
FRAME_LINES = 5  # of the table, with the line below it


@dataclass(frozen=True)
class Status:
    """State of a run: an outcome of `fit`, or one of the words above; the reason, if it is not plain; the result.

    `loss` is the mean training loss (nats) of the last epoch; 0 epochs are not known.
    """

    state: str
    reason: str = ""
    result: Result | None = None
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None

    @property
    def done(self) -> float:
        """Share of the run that is done, in 0..1."""
        return self.epoch / (self.epochs or math.inf) if self.state in NOT_ENDED else 1.0


def read_status(folder: Path) -> Status | None:
    """Reads how the run in `folder` ended; None while it has no result."""
    try:
        result = read_result(folder)
    except ValueError as mistake:
        return Status(WITHOUT_RESULT, f"{one_line(f'{folder}: {mistake}')}: delete the folder to run it again.")
    if result is None:
        return None
    return Status(result.outcome, one_line(result.reason), result, result.epochs, result.epochs, result.final_train_loss)


def read_statuses(runs: Sequence[RunSpec]) -> dict[RunSpec, Status]:
    """Reads how those of the runs ended that have a result."""
    return {run: status for run in runs if (status := read_status(run.folder))}


class Progress:
    """Shows on standard error how a study goes on: a live table in a terminal, elsewhere a line for each run that ended.

    Args:
        runs: All runs of the study.
        ended: Statuses of the runs that have ended; the study adds to them.
    """

    def __init__(self, runs: Sequence[RunSpec], ended: Mapping[RunSpec, Status]) -> None:
        self.runs, self.ended = runs, ended
        self._console = Console(stderr=True)
        self._sizes = {run: _output(run)[0] for run in runs}
        self._started, self._done_before = time.monotonic(), sum(status.done for status in self.look().values())

    def look(self) -> dict[RunSpec, Status]:
        """Looks at the folders of all runs."""
        return {run: self._look_at(run) for run in self.runs}

    def _look_at(self, run: RunSpec) -> Status:
        status = self.ended.get(run)
        if status and status.result:
            return status
        size, end = _output(run)
        state = status.state if status else WAITING if size == self._sizes[run] else RUNNING
        if not (found := EPOCH.findall(end)):
            return Status(state)
        epoch, epochs, loss = found[-1]
        return Status(state, epoch=int(epoch), epochs=int(epochs or 0), loss=float(loss))

    def summary(self, seen: Collection[Status]) -> str:
        """Counts runs, and estimates from the pace so far: "3 of 15 runs done, 2 running, about 12 min left"."""
        states = [status.state for status in seen]
        words = f"{sum(state not in NOT_ENDED for state in states)} of {len(seen)} runs done, {states.count(RUNNING)} running"
        done = sum(status.done for status in seen)
        left, made = len(seen) - done, done - self._done_before
        if not left or made <= 0:
            return words
        minutes = (time.monotonic() - self._started) / 60 * left / made
        return f"{words}, about {math.ceil(minutes)} min left"

    def table(self, height: int) -> Group:
        """Draws the most telling rows on at most `height` lines: running ones before ended ones before waiting ones."""
        seen = self.look()
        rows = sorted(seen.items(), key=lambda row: NOT_ENDED.get(row[1].state, 2))
        table = Table("run", "epoch", "train loss", "state")
        for run, status in rows[: max(1, height - FRAME_LINES)]:
            epoch = f"{status.epoch}/{status.epochs or '?'}" if status.epoch else ""
            state = Text(status.state, style=COLOURS.get(status.state, "green"))
            table.add_row(Text(str(run)), epoch, "" if status.loss is None else f"{status.loss:.4f}", state)
        return Group(table, Text(self.summary(seen.values())))

    def shown(self) -> AbstractContextManager[object]:
        """Redraws the table within a `with` block, in a terminal."""
        if not self._console.is_terminal:
            return nullcontext()
        return Live(get_renderable=lambda: self.table(self._console.height), console=self._console, refresh_per_second=1)

    def say(self, run: RunSpec) -> None:
        """Prints a line for a run that ended, unless there is a table."""
        if not self._console.is_terminal:
            status = self._look_at(run)
            loss = "" if status.loss is None else f", train loss {status.loss:.4f}"
            print(f"{run}: {status.state}{loss} ({self.summary(self.look().values())})", file=sys.stderr, flush=True)


def _output(run: RunSpec) -> tuple[int, bytes]:
    """Returns the size of what a run printed, and its end."""
    try:
        with (run.folder / "output.txt").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            return size, file.read()
    except OSError:
        return 0, b""
