"""A failed run's last steps: what they look like, when the failure was decided, what would have prevented it."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from lit_mnist.datasets.loaders import Batch
from lit_mnist.insight.curvature import Loss
from lit_mnist.insight.replay import Step, failure_index, measure_steps, moved, sgd
from lit_mnist.record.result import RISEN

HORIZONS = (1, 2, 5, 10, 20, 50, 100)  # steps before a failure at which twins set out
SHOWN_AFTER = 20  # steps that are measured beyond the failure
JUDGED_AFTER = 200  # steps that a rerun gets beyond the failure, for it may fail later or recover
JUDGED_BY = 100  # losses at the end of a rerun
LEVELS = (RISEN, 2.0)  # of the loss of guessing, tried in turn: training begins at 1, and may fail before it has left that


@dataclass(frozen=True)
class Rerun:
    """The same mini-batches again, from the same weights, with something changed.

    Attributes:
        steps_before: Steps before the failure at which it set out.
        runs: Number of reruns.
        failed: Number of them whose last 100 losses had a median of at least 80 % of the loss of guessing.
        not_finite: Number of them whose loss stopped being finite.
    """

    steps_before: int
    runs: int
    failed: int
    not_finite: int


@dataclass(frozen=True)
class Failure:
    """What is known of a failure.

    Attributes:
        index: First step, 0-based in the window, from which on 100 losses and more are at least `level` times `chance`.
        level: 0.8, or 2 for a window whose first losses are above 0.8 times `chance` already, if they come to that.
        lr, chance: Learning rate of the run, and the loss of guessing in nats.
        not_finite: First step, 0-based, whose loss is not finite; None if there is none.
        steps: The steps around it, measured.
        twins: Reruns with the weights moved by 1e-5 of their norm, by horizon, shortest first.
        max_norm: Twice the median gradient norm of the steps before.
        capped: A rerun with longer gradients shortened to `max_norm`, from the longest horizon at which all twins failed.
        double: A rerun in float64, from the same horizon.
        without: Two reruns from the tipping step, whose mini-batch lacks the image with the largest gradient, or as a control
            the one with the smallest.
    """

    index: int
    level: float
    lr: float
    chance: float
    not_finite: int | None
    steps: list[Step]
    twins: list[Rerun]
    max_norm: float
    capped: Rerun
    double: Rerun
    without: list[Rerun]

    @property
    def before(self) -> list[Step]:
        """The measured steps before the failure shows in the loss."""
        return [step for step in self.steps if step.index < self.index]

    @property
    def tipping(self) -> Step:
        """The step that did its own mini-batch the most harm, up to the failure; of all, if the first one failed."""
        return _tipping(self.steps, self.index)

    @property
    def decided(self) -> Rerun | None:
        """The twins of the longest horizon up to which all of them failed; None if some of the shortest one did not."""
        return _decided(self.twins)


def explain_failure(
    module: nn.Module,
    loss: Loss,
    batches: Sequence[Batch],
    losses: Sequence[float],
    lr: float,
    chance: float,
    fixed: Batch,
    horizons: Sequence[int] = HORIZONS,
    twins: int = 5,
) -> Failure | None:
    """Measures the steps around a failure within a window of SGD steps, and reruns them with changes.

    Args:
        module: The network before the first step; it is left as it is.
        loss: Mean loss of a mini-batch.
        batches: One mini-batch per step, until at least 100 steps after the failure.
        losses: Of the mini-batches, as `sgd` returns them.
        lr: Learning rate.
        chance: Loss of guessing, the logarithm of the number of classes.
        fixed: Images and labels on which units are counted.
        horizons: Steps before the failure at which twins set out; those beyond the window are left out.
        twins: Number of twins at each horizon, at least 1.

    Returns:
        None if the window does not end in failure, or begins with a gradient that is not finite.
    """
    found = [(at, level) for level in LEVELS if (at := failure_index(losses, level * chance)) is not None]
    if not found:
        return None
    index, level = found[-1] if found[0][0] == 0 else found[0]
    window = _Window(loss, batches, lr, chance, index)
    reachable = sorted(steps for steps in horizons if steps <= index) or [index]
    states = window.states(module, [index - steps for steps in reachable])
    not_finite = next((at for at, value in enumerate(losses) if math.isnan(value)), None)
    start, end = index - reachable[-1], max(index + SHOWN_AFTER, min((not_finite or 0) + 1, index + JUDGED_AFTER))
    steps = measure_steps(copy.deepcopy(states[start]), loss, batches[start:end], lr, fixed, start)
    if not steps:
        return None
    generator = torch.Generator().manual_seed(0)
    reruns = [window.rerun(k, [moved(states[index - k], 1e-5, generator) for _ in range(twins)]) for k in reachable]
    decided = (_decided(reruns) or reruns[0]).steps_before
    tipping = _tipping(steps, index)
    (at_tipping,) = window.states(states[start], [tipping.index], start).values()
    max_norm = 2 * median(step.gradient_norm for step in steps if step.index < index or step is steps[0])
    images = [tipping.largest_image, int(tipping.image_shares.argmin())]
    return Failure(
        index,
        level,
        lr,
        chance,
        not_finite,
        steps,
        twins=reruns,
        max_norm=max_norm,
        capped=window.rerun(decided, [copy.deepcopy(states[index - decided])], max_norm),
        double=window.rerun(decided, [copy.deepcopy(states[index - decided]).double()]),
        without=[window.rerun(index - tipping.index, [copy.deepcopy(at_tipping)], left_out=image) for image in images],
    )


@dataclass(frozen=True)
class _Window:
    """SGD steps that end in failure at step `index`."""

    loss: Loss
    batches: Sequence[Batch]
    lr: float
    chance: float
    index: int

    def states(self, module: nn.Module, indices: Sequence[int], first: int = 0) -> dict[int, nn.Module]:
        """Trains a copy from step `first` on, and keeps the network as it is before each of these steps."""
        network, at, states = copy.deepcopy(module), first, {}
        for index in sorted(indices):
            sgd(network, self.loss, self.batches[at:index], self.lr)
            states[index], at = copy.deepcopy(network), index
        return states

    def rerun(
        self, steps_before: int, networks: Sequence[nn.Module], max_norm: float = math.inf, left_out: int | None = None
    ) -> Rerun:
        """Trains networks in place, each in its own dtype; the first mini-batch lacks one image if told so."""
        first, end = self.index - steps_before, self.index + JUDGED_AFTER
        outcomes = []
        for network in networks:
            dtype = next(network.parameters()).dtype
            batches = [(images.to(dtype), labels) for images, labels in self.batches[first:end]]
            if left_out is not None:
                kept = torch.arange(len(batches[0][1])) != left_out
                batches[:1] = [(batches[0][0][kept], batches[0][1][kept])] if kept.any() else []
            outcomes.append(sgd(network, self.loss, batches, self.lr, max_norm))
        ends = [median(math.inf if math.isnan(loss) else loss for loss in outcome[-JUDGED_BY:]) for outcome in outcomes]
        failed = sum(end >= RISEN * self.chance for end in ends)
        return Rerun(steps_before, len(outcomes), failed, sum(math.isnan(outcome[-1]) for outcome in outcomes))


def _tipping(steps: Sequence[Step], index: int) -> Step:
    return max((step for step in steps if step.index <= index or not index), key=_harm)


def _harm(step: Step) -> float:
    """Change of the mini-batch's loss; a loss that stopped being finite is worse than any."""
    return step.change if math.isfinite(step.change) else math.inf


def _decided(twins: Sequence[Rerun]) -> Rerun | None:
    sure = None
    for each in twins:
        if each.failed < each.runs:
            break
        sure = each
    return sure
