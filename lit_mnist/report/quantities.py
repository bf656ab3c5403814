"""What is compared: four quantities declared in advance, and losses at equal SGD steps and images."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median

from lit_mnist.report.experiments import Group
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.statistics import CONFIDENCE, Difference, difference

TARGETS = (0.1, 0.2, 0.5, 1.0, 2.0)  # nats; the first that most runs reach is the one whose time is taken


@dataclass(frozen=True)
class Quantity:
    """A number that a run may have: its name within a sentence, and its value, None if the run has none.

    If `is_loss`, less is better, compared by ratios on a logarithmic axis; else more is better, compared by differences.
    """

    name: str
    is_loss: bool
    of: Callable[[RecordedRun], float | None]

    def values(self, group: Group) -> list[float]:
        """Values of the runs that have one."""
        return [value for run in group.runs if (value := self.of(run)) is not None]

    def compared(self, group: Group) -> list[float]:
        """Values to compare the means of: the logarithms of losses, which span orders of magnitude."""
        return [math.log(max(value, 1e-12)) if self.is_loss else value for value in self.values(group)]  # a loss may be 0

    def compare(self, first: Group, second: Group, confidence: float = CONFIDENCE) -> Difference:
        """Compares two groups, second against first."""
        return difference(self.compared(first), self.compared(second), confidence)

    def text(self, value: float | None) -> str:
        """Writes a value: losses with three digits, accuracies in percent, a dash for None."""
        if value is None:
            return "–"
        return three_digits(value) if self.is_loss else f"{100 * value:.2f} %"

    def median_text(self, group: Group) -> str:
        """Writes the median of the values."""
        values = self.values(group)
        return self.text(median(values) if values else None)


def three_digits(value: float) -> str:
    """Writes a value above 0 with three significant digits, and small ones without an exponent."""
    return f"{value:.3g}" if value >= 1e4 or value < 1e-6 else f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


FIRST_LOSS = Quantity("training loss of epoch 1", True, lambda run: next(iter(run.result.train_loss_by_epoch), None))
TENTH_LOSS = Quantity("training loss of epoch 10", True, lambda run: next(iter(run.result.train_loss_by_epoch[9:]), None))
FINAL_LOSS = Quantity("final training loss", True, lambda run: None if run.result.failed else run.result.final_train_loss)
TEST_ACCURACY = Quantity("test accuracy", False, lambda run: None if run.result.failed else run.result.test_accuracy)
TRAIN_ACCURACY = Quantity("train accuracy", False, lambda run: None if run.result.failed else run.result.train_accuracy)
DECLARED = (FIRST_LOSS, FINAL_LOSS, TEST_ACCURACY)  # and the share of failures
PUBLISHED = (FIRST_LOSS, TENTH_LOSS, FINAL_LOSS, TRAIN_ACCURACY, TEST_ACCURACY)


def loss_at_steps(steps: int) -> Quantity:
    """Mean loss of the blocks that end in the last tenth of a number of SGD steps, or the loss of the nearest one.

    None for a run that failed before, or has no block near enough.
    """

    def of(run: RecordedRun) -> float | None:
        if not run.block_losses or run.length * run.result.steps_per_epoch < steps:
            return None
        last, nearest = min(run.block_losses, key=lambda block: abs(block[0] - steps))
        inside = [loss for step, loss in run.block_losses if 0.9 * steps < step <= steps]
        return fmean(inside or [nearest]) if abs(last - steps) < 0.15 * steps else None

    return Quantity(f"training loss after {steps:,} SGD steps", True, of)


def steps_to(run: RecordedRun, target: float) -> float | None:
    """SGD steps until the loss of a block first reached the target, interpolated between the ends of blocks; None if never."""
    before: tuple[int, float] | None = None
    for step, loss in run.block_losses:
        if loss <= target:
            if before is None:
                return float(step)
            return before[0] + (step - before[0]) * (before[1] - target) / (before[1] - loss)
        before = (step, loss)
    return None


def steps_to_target(target: float) -> Quantity:
    """SGD steps to a training loss, for runs that reached it."""
    return Quantity(f"SGD steps to a training loss of {target:g}", True, lambda run: steps_to(run, target))
