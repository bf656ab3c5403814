"""What is compared: four quantities declared in advance, and losses at equal SGD steps and images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lit_mnist.report.experiments import Configuration
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.statistics import Effect, effect, spread

TARGETS = (0.1, 0.2, 0.5, 1.0, 2.0)  # nats; the first that most runs reach is the one whose time is taken


@dataclass(frozen=True)
class Quantity:
    """A number that a run may have.

    Attributes:
        name: What it is, in the middle of a sentence.
        is_loss: Less is better, compared by ratios, on a logarithmic axis; else more is better, compared by differences.
        of: The run's value; None if it has none. Runs that failed have no final value.
    """

    name: str
    is_loss: bool
    of: Callable[[RecordedRun], float | None]

    def values(self, configuration: Configuration) -> list[float]:
        """Values of the runs that have one."""
        return [value for run in configuration.runs if (value := self.of(run)) is not None]

    def centre(self, configuration: Configuration) -> float:
        """Mean of the values, of losses of their logarithms: what `compare` compares."""
        values = self.values(configuration)
        return sum(math.log(max(value, 1e-12)) if self.is_loss else value for value in values) / len(values)

    def text(self, value: float) -> str:
        """Writes a value: losses with three digits, accuracies in percent."""
        return loss_text(value) if self.is_loss else f"{100 * value:.2f} %"

    def median_text(self, configuration: Configuration) -> str:
        """Writes the median of the values; a dash where there is none."""
        values = self.values(configuration)
        return self.text(spread(values).median) if values else "–"

    def compare(self, first: Configuration, second: Configuration) -> Effect | None:
        """Compares two configurations, second against first; None where one of them has no value."""
        samples = self.values(first), self.values(second)
        return effect(*samples, self.is_loss) if all(samples) else None


def loss_text(loss: float) -> str:
    """Writes a loss with three significant digits, and small ones without an exponent."""
    return f"{loss:.3g}" if loss >= 1e4 or loss < 1e-6 else f"{loss:.{max(0, 2 - math.floor(math.log10(loss)))}f}"


def _survivors(of: Callable[[RecordedRun], float | None]) -> Callable[[RecordedRun], float | None]:
    return lambda run: None if run.result.failed else of(run)


FIRST_LOSS = Quantity("training loss of epoch 1", True, lambda run: next(iter(run.result.train_loss_by_epoch), None))
FINAL_LOSS = Quantity("final training loss", True, _survivors(lambda run: run.result.final_train_loss))
TEST_ACCURACY = Quantity("test accuracy", False, _survivors(lambda run: run.result.test_accuracy))
TRAIN_ACCURACY = Quantity("train accuracy", False, _survivors(lambda run: run.result.train_accuracy))
DECLARED = (FIRST_LOSS, FINAL_LOSS, TEST_ACCURACY)  # and the share of failures


def loss_at_steps(steps: int) -> Quantity:
    """Mean of the block losses in the last tenth of a number of SGD steps, or the loss of the block that they end in."""

    def of(run: RecordedRun) -> float | None:
        if run.failure is not None and run.failure * run.result.steps_per_epoch < steps:
            return None
        inside = [loss for step, loss in run.block_losses if 0.9 * steps < step <= steps]
        inside = inside or [loss for step, loss in run.block_losses if step > steps][:1]
        return sum(inside) / len(inside) if inside else None

    return Quantity(f"training loss after {steps:,} SGD steps", True, of)


def steps_to(run: RecordedRun, target: float) -> float | None:
    """SGD steps until the loss of a block first reached the target, interpolated between the ends of blocks; None if never."""
    before: tuple[int, float] | None = None
    for step, loss in run.block_losses:
        if loss <= target:
            if before is None or before[1] <= loss:
                return float(step)
            return before[0] + (step - before[0]) * (before[1] - target) / (before[1] - loss)
        before = (step, loss)
    return None


def common_target(configurations: Sequence[Configuration]) -> float | None:
    """The lowest target that at least half of the runs of each configuration reached."""
    for target in TARGETS:
        reached = [[steps_to(run, target) is not None for run in each.runs] for each in configurations]
        if all(2 * sum(each) >= len(each) for each in reached):
            return target
    return None


def common_steps(configurations: Sequence[Configuration]) -> int | None:
    """SGD steps that every configuration's whole runs made, where block losses of all reach so far."""
    lasts = [max((run.block_losses[-1][0] for run in each.survivors if run.block_losses), default=0) for each in configurations]
    if not lasts or min(lasts) == 0:
        return None
    shortest = min(lasts)
    firsts = [
        min((run.block_losses[0][0] for run in each.runs if run.block_losses), default=shortest) for each in configurations
    ]
    return shortest if max(firsts) <= shortest else None
