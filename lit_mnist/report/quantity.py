"""What is measured of a run, in which unit, and how it is written."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from lit_mnist.report.departures import UNSHARED
from lit_mnist.report.run import Run
from lit_mnist.report.statistics import Summary, summarise

MINUS = "−"
EARLY_IMAGES = 4096  # what `fit` logs the loss of at once, as far as the batch size divides it


@dataclass(frozen=True)
class Quantity:
    """A number that a run has.

    Attributes:
        key: For code.
        label: For people, with its unit.
        of: The value, None where the run has none.
        factor: What a value is multiplied with to be written (100: a fraction as percent).
        decimals: Least number of decimals that it is written with.
        relative: Compared as a ratio (of positive quantities that span decades), else as a difference.
        resolution: The step in which it comes, 0 if it is continuous.
        censored: A run that has no value would have a large one: those that have one are a choice of them.
        unit: Of a difference.
    """

    key: str
    label: str
    of: Callable[[Run], float | None]
    factor: float = 1
    decimals: int = 2
    relative: bool = False
    resolution: float = 0
    censored: bool = False
    unit: str = ""

    def values(self, runs: Sequence[Run]) -> list[float]:
        """Of the runs that have one."""
        return [value for run in runs if (value := self.of(run)) is not None]

    def write(self, value: float, decimals: int | None = None) -> str:
        return signed(f"{value * self.factor:.{self.decimals if decimals is None else decimals}f}")

    def fitting_decimals(self, sd: float | None) -> int:
        """Enough for two digits of the sd."""
        if not sd:
            return self.decimals
        return max(self.decimals, min(7, 1 - math.floor(math.log10(sd * self.factor))))

    def write_summary(self, summary: Summary) -> str:
        """Mean and sd."""
        decimals = self.fitting_decimals(summary.sd)
        mean = self.write(summary.mean, decimals)
        return mean if summary.sd is None else f"{mean}\u00a0±\u00a0{self.write(summary.sd, decimals)}"

    def write_range(self, summary: Summary) -> str:
        decimals = self.fitting_decimals(summary.sd)
        return f"{self.write(summary.low, decimals)}–{self.write(summary.high, decimals)}"

    def describe(self, runs: Sequence[Run]) -> str:
        """Mean and sd over the runs that have a value, and how many these are if not all; or a dash."""
        values = self.values(runs)
        if not values:
            return "–"
        some = f" in {len(values)} of {len(runs)} runs" if len(values) < len(runs) else ""
        return self.write_summary(summarise(values)) + some


def signed(text: str) -> str:
    """A number with a real minus sign, and none before a zero."""
    if text.startswith("-"):
        return text[1:] if float(text) == 0 else MINUS + text[1:]
    return text


def loss_rises(run: Run) -> list[float]:
    """By how much (nats) the epoch's loss rose, for each epoch in which it did."""
    return [after - before for before, after in pairwise(run.train_loss_by_epoch) if after > before]


def epochs_to_loss(run: Run, target: float) -> int | None:
    """First epoch (1-based) whose training loss is at most `target`."""
    return next((epoch for epoch, loss in enumerate(run.train_loss_by_epoch, 1) if loss <= target), None)


def epochs_to_accuracy(run: Run, target: float) -> int | None:
    """First epoch (1-based) after which test accuracy (fraction) is at least `target`."""
    return next((epoch for epoch, seen in enumerate(run.test_accuracy_by_epoch, 1) if seen >= target), None)


def seconds_per_epoch(run: Run) -> float | None:
    """Mean training time of an epoch; a run without times, or with an epoch of none, has no value."""
    return fmean(run.seconds_by_epoch) if run.seconds_by_epoch and min(run.seconds_by_epoch) > 0 else None


def early_loss(run: Run) -> float | None:
    """Mean loss of the SGD steps that see the first `EARLY_IMAGES` images, a begun batch left out.

    None unless the logged blocks cover these steps and no others, whatever their size.
    """
    last = EARLY_IMAGES // run.batch_size
    ends = sorted(step for step in run.loss_by_step if step <= last)
    if not ends or ends[-1] != last or UNSHARED in run.hyperparameters:
        return None
    total = sum(run.loss_by_step[end] * (end - begin) for begin, end in pairwise([0, *ends]))
    return total / last if total > 0 else None


def _epoch_loss(epoch: int) -> Callable[[Run], float | None]:
    def of(run: Run) -> float | None:
        losses = run.train_loss_by_epoch
        return losses[epoch - 1] if len(losses) >= epoch and losses[epoch - 1] > 0 else None

    return of


def _gap(run: Run) -> float | None:
    if run.train_accuracy is None or run.test_accuracy is None:
        return None
    return run.train_accuracy - run.test_accuracy


ONE_IMAGE = 1e-4  # of the 10,000 test images
POINTS = "points"

EARLY_LOSS = Quantity(
    "early loss", f"training loss of the first {EARLY_IMAGES:,} images", early_loss, decimals=3, relative=True
)
FIRST_LOSS = Quantity("first loss", "training loss of epoch 1", _epoch_loss(1), decimals=4, relative=True)
TENTH_LOSS = Quantity("tenth loss", "training loss of epoch 10", _epoch_loss(10), decimals=4, relative=True)
EPOCHS_TO_TENTH = Quantity(
    "epochs to 0.1",
    "epochs to training loss 0.1",
    lambda run: epochs_to_loss(run, 0.1),
    1,
    1,
    resolution=1,
    censored=True,
    unit="epochs",
)
RISES = Quantity(
    "rises",
    "epochs in which the training loss rose",
    lambda run: len(loss_rises(run)),
    1,
    1,
    resolution=1,
    unit="epochs",
)
RISE_SIZE = Quantity("rise size", "sum of those rises, nats", lambda run: sum(loss_rises(run)), 1, 4, unit="nats")
FINAL_LOSS = Quantity("final loss", "final training loss", lambda run: run.final_train_loss, decimals=4, relative=True)
TRAIN_ACCURACY = Quantity("train accuracy", "train accuracy, %", lambda run: run.train_accuracy, 100, 2, unit=POINTS)
TEST_ACCURACY = Quantity(
    "test accuracy",
    "test accuracy, %",
    lambda run: run.test_accuracy,
    100,
    2,
    resolution=ONE_IMAGE,
    unit=POINTS,
)
GAP = Quantity("gap", "train minus test accuracy, points", _gap, 100, 2, resolution=ONE_IMAGE, unit=POINTS)
EPOCH_SECONDS = Quantity("seconds", "seconds per epoch", seconds_per_epoch, decimals=2, relative=True)

COMPARED = (
    EARLY_LOSS,
    FIRST_LOSS,
    EPOCHS_TO_TENTH,
    RISES,
    RISE_SIZE,
    FINAL_LOSS,
    TEST_ACCURACY,
    GAP,
    EPOCH_SECONDS,
)
