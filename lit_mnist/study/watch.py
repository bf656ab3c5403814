"""What the runs of a study are doing, read from their folders alone, wherever the workers are."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.directory_watcher import DirectoryDeletedError
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from lit_mnist.study.ending import BUSY, OUTCOMES, Ending
from lit_mnist.study.estimate import Cost, wall_seconds
from lit_mnist.study.plan import Run

WAITING = "waiting"
RUNNING = "running"
ELSEWHERE = "elsewhere"  # another process trains this run


@dataclass(frozen=True)
class Row:
    """One line of the live table. `loss` is the mean training loss (nats) of the last whole epoch."""

    run: Run
    state: str
    epoch: int
    epochs: int
    loss: float | None
    seconds_left: float


class Progress:
    """Epochs done by a run and its last loss, from its event files; a resume cuts those, so all is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: dict[Path, int] = {}
        self.epoch = 0
        self.loss: float | None = None

    def look(self) -> None:
        try:
            sizes = {file: file.stat().st_size for file in self.folder.glob("events.out.tfevents.*")}
            if sizes == self.sizes:
                return
            events = EventAccumulator(str(self.folder), size_guidance={SCALARS: 0})
            events.Reload()
            last = events.Scalars("train/loss")[-1]
        except (KeyError, OSError, DirectoryDeletedError):  # no epoch is done yet, or a file was just removed
            return
        self.sizes, self.epoch, self.loss = sizes, int(last.step), float(last.value)


class Watch:
    """The rows of the live table, in the plan's order.

    Args:
        runs: All runs of the study.
        costs: Their expected durations, by configuration.
        workers: How many runs go at once.
        endings: What is known of each run that has ended; the study adds to it while it goes on.
    """

    def __init__(self, runs: Sequence[Run], costs: Mapping[str, Cost], workers: int, endings: Mapping[Run, Ending]) -> None:
        self.runs = runs
        self.costs = costs
        self.workers = workers
        self.endings = endings
        self._outputs = {run: self._output_time(run) for run in runs}
        self._progress = {run: Progress(run.folder) for run in runs}
        self._first_seen: dict[Run, tuple[float, int]] = {}  # when a run was seen to run, and its epoch then

    @staticmethod
    def _output_time(run: Run) -> float:
        """When the run last printed something; a clock of the file system, which need not be ours."""
        try:
            return (run.folder / "output.txt").stat().st_mtime
        except OSError:
            return 0.0

    def rows(self) -> list[Row]:
        return [self._row(run) for run in self.runs]

    def seconds_left(self, rows: Sequence[Row]) -> float:
        """Until the last run ends."""
        return wall_seconds([row.seconds_left for row in rows], self.workers)

    def _row(self, run: Run) -> Row:
        ending, progress = self.endings.get(run), self._progress[run]
        cost = self.costs.get(run.name, Cost(0, 0.0))  # none was estimated for what was finished before
        if ending and ending.outcome in OUTCOMES:
            return Row(run, ending.outcome, progress.epoch, cost.epochs, ending.train_loss, 0.0)
        if ending and ending.outcome == BUSY:
            state = ELSEWHERE
        elif self._output_time(run) == self._outputs[run]:
            return Row(run, WAITING, 0, cost.epochs, None, cost.seconds)
        else:
            state = RUNNING
        progress.look()
        left = self._left(run, progress.epoch, cost)
        return Row(run, state, progress.epoch, cost.epochs, progress.loss, left)

    def _left(self, run: Run, epoch: int, cost: Cost) -> float:
        """Seconds to the run's end: at the pace seen so far, or the expected one while no epoch was seen."""
        now = time.monotonic()
        since, first = self._first_seen.setdefault(run, (now, epoch))
        pace = (now - since) / (epoch - first) if epoch > first else cost.seconds / max(1, cost.epochs)
        return max(0.0, pace * (cost.epochs - epoch))
