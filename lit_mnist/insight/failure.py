"""A failed run's last steps: what they look like, when the failure was decided, what would have prevented it."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from lit_mnist.insight.replay import Step, Window, failure_index, moved
from lit_mnist.record.result import RISEN

HORIZONS = (1, 2, 5, 10, 20, 50, 100)  # steps before a failure at which twins set out
TWINS = 5  # at each horizon
SHOWN_AFTER = 20  # steps that are measured beyond the failure
JUDGED_AFTER = 200  # steps that a rerun gets beyond the failure, for it may fail later or recover; the last half decides
LEVELS = (RISEN, 2.0)  # of the loss of guessing, tried in turn: training begins at 1, and may fail before it has left that


@dataclass(frozen=True)
class Failure:
    """What a failure looks like.

    Attributes:
        window: The SGD steps that fail.
        chance: Loss of guessing, in nats.
        index: First step, 0-based in the window, from which on 100 losses and more are at least `level` times `chance`.
        level: 0.8, or 2 for a window whose first losses are above 0.8 times `chance` already, if they come to that.
        not_finite: First step, 0-based, whose loss is not finite; None if there is none.
        steps: The steps around it, measured.
    """

    window: Window
    chance: float
    index: int
    level: float
    not_finite: int | None
    steps: list[Step]

    def name(self, step: int) -> str:
        """Names a step of the window by its number in the run."""
        return f"step {self.window.first + step:,}"

    @property
    def before(self) -> list[Step]:
        """The measured steps before the failure shows in the loss."""
        return [step for step in self.steps if step.index < self.index]

    @property
    def tipping(self) -> Step:
        """The step that did its own mini-batch the most harm, up to the failure; of all, if the first one failed."""
        steps = [step for step in self.steps if step.index <= self.index or not self.index]
        return max(steps, key=lambda step: step.change if math.isfinite(step.change) else math.inf)

    @property
    def max_norm(self) -> float:
        """Twice the median gradient norm of the steps before, at which a rerun is capped."""
        return 2 * median(step.gradient_norm for step in self.before or self.steps[:1])


class Rerun(NamedTuple):
    """The same mini-batches again with something changed, from some steps before the failure on.

    A rerun failed if its last 100 losses had a median of at least 80 % of the loss of guessing.
    """

    steps_before: int
    runs: int
    failed: int
    not_finite: int


@dataclass(frozen=True)
class Reruns:
    """What became of a failure with changes.

    Attributes:
        twins: With the weights moved by 1e-5 of their norm, by the steps before, fewest first.
        capped, double: With gradients shortened to `Failure.max_norm`, or in float64: from `decided` on, else the first twins.
        without_largest, without_smallest: Without the image of the largest gradient in the tipping mini-batch, or, as a
            control, of the smallest.
    """

    twins: list[Rerun]
    capped: Rerun
    double: Rerun
    without_largest: Rerun
    without_smallest: Rerun

    @property
    def decided(self) -> Rerun | None:
        """The earliest twins of which all failed, and of all later ones too; None if some of the latest did not."""
        return _decided(self.twins)


def find_failure(network: nn.Module, window: Window, losses: Sequence[float], chance: float) -> Failure | None:
    """Finds the failure in a window of SGD steps, and measures the steps around it.

    Args:
        network: As it is before the first step; it is left so.
        window: The steps, until at least 100 after the failure.
        losses: Of the mini-batches, as `Window.train` returns them.
        chance: Loss of guessing, the logarithm of the number of classes.

    Returns:
        None if the window does not end in failure, or begins with a gradient that is not finite.
    """
    found = [(at, level) for level in LEVELS if (at := failure_index(losses, level * chance)) is not None]
    if not found:
        return None
    index, level = found[-1] if found[0][0] == 0 else found[0]
    not_finite = next((at for at, loss in enumerate(losses) if math.isnan(loss)), None)
    first, end = _starts(index)[-1], max(index + SHOWN_AFTER, min((not_finite or 0) + 1, index + JUDGED_AFTER))
    network = copy.deepcopy(network)
    window.train(network, 0, first)
    steps = window.measure(network, first, end)
    return Failure(window, chance, index, level, not_finite, steps) if steps else None


def rerun_changed(network: nn.Module, failure: Failure) -> Reruns:
    """Makes the steps around a failure again with changes; `network`, as it is before the first step, is left so."""
    starts, tipping = _starts(failure.index), failure.tipping
    states = _states(network, failure.window, {*starts, tipping.index})
    generator = torch.Generator().manual_seed(0)
    twins = [_rerun(failure, start, [moved(states[start], 1e-5, generator) for _ in range(TWINS)]) for start in starts]
    start = failure.index - (_decided(twins) or twins[0]).steps_before
    images = tipping.image_shares.argmax(), tipping.image_shares.argmin()
    changed = (replace(failure, window=failure.window.without(tipping.index, int(image))) for image in images)
    return Reruns(
        twins,
        _rerun(failure, start, [states[start]], failure.max_norm),
        _rerun(failure, start, [copy.deepcopy(states[start]).double()]),
        *(_rerun(each, tipping.index, [states[tipping.index]]) for each in changed),
    )


def _starts(index: int) -> list[int]:
    """Lists the steps at which reruns of a failure at step `index` set out, the latest first."""
    return [index - steps for steps in HORIZONS if steps <= index] or [0]


def _states(network: nn.Module, window: Window, steps: set[int]) -> dict[int, nn.Module]:
    """Trains a copy, and keeps the network as it is before each of the steps."""
    network, at, states = copy.deepcopy(network), 0, {}
    for step in sorted(steps):
        window.train(network, at, step)
        states[step], at = copy.deepcopy(network), step
    return states


def _rerun(failure: Failure, start: int, networks: Sequence[nn.Module], max_norm: float = math.inf) -> Rerun:
    """Trains copies of networks from step `start` to beyond the failure."""
    end = failure.index + JUDGED_AFTER
    outcomes = [failure.window.train(copy.deepcopy(network), start, end, max_norm) for network in networks]
    ends = [median(math.inf if math.isnan(loss) else loss for loss in outcome[-JUDGED_AFTER // 2 :]) for outcome in outcomes]
    failed = sum(end >= RISEN * failure.chance for end in ends)
    return Rerun(failure.index - start, len(outcomes), failed, sum(math.isnan(outcome[-1]) for outcome in outcomes))


def _decided(twins: Sequence[Rerun]) -> Rerun | None:
    sure = list(takewhile(lambda each: each.failed == each.runs, twins))
    return sure[-1] if sure else None
