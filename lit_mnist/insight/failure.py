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

HORIZONS = (1, 2, 5, 10, 20, 50, 100)  # steps before a failure at which twins set out
_SHOWN_AFTER = 20  # steps that are measured beyond the failure
_JUDGED_AFTER = 200  # steps that a rerun gets beyond the failure: it may fail later, and 100 losses confirm that


@dataclass(frozen=True)
class Rerun:
    """The same mini-batches again, from the same weights, with something changed.

    Attributes:
        steps_before: Steps before the failure at which it set out.
        runs: Number of reruns.
        failed: Number of them that failed.
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
        index: First step, 0-based in the window, from which on the losses are those of guessing or worse.
        lr: Learning rate of the run.
        not_finite: Whether the loss stopped being finite.
        steps: The steps around it, measured.
        twins: Reruns with the weights moved by 1e-5 of their norm, by horizon, shortest first.
        max_norm: Twice the median gradient norm of the steps before.
        capped: A rerun with longer gradients shortened to `max_norm`, from the longest horizon.
        double: A rerun in float64, from the shortest horizon.
    """

    index: int
    lr: float
    not_finite: bool
    steps: list[Step]
    twins: list[Rerun]
    max_norm: float
    capped: Rerun
    double: Rerun

    @property
    def before(self) -> list[Step]:
        """The measured steps before the failure shows in the loss."""
        return [step for step in self.steps if step.index < self.index]

    @property
    def tipping(self) -> Step:
        """The step that changed the loss of its own mini-batch for the worst, up to the failure."""
        return max((step for step in self.steps if step.index <= self.index), key=lambda step: step.change)


def explain_failure(
    module: nn.Module,
    loss: Loss,
    batches: Sequence[Batch],
    lr: float,
    chance: float,
    fixed: Batch,
    horizons: Sequence[int] = HORIZONS,
    twins: int = 5,
) -> Failure | None:
    """Replays a window of SGD steps that ends in failure, and reruns it with changes.

    Args:
        module: The network before the first step; it is left as it is.
        loss: Mean loss of a mini-batch.
        batches: One mini-batch per step, until at least 100 steps after the failure.
        lr: Learning rate.
        chance: Loss of guessing, the logarithm of the number of classes.
        fixed: Images and labels on which units are counted.
        horizons: Steps before the failure at which twins set out; those beyond the window are left out.
        twins: Number of twins at each horizon.

    Returns:
        None if the window does not end in failure.
    """
    losses = sgd(copy.deepcopy(module), loss, batches, lr)
    index = failure_index(losses, chance)
    if index is None:
        return None
    reachable = sorted(steps for steps in horizons if steps <= index) or [index]
    states = _states(module, loss, batches, lr, [index - steps for steps in reachable])
    start, end = index - reachable[-1], index + _JUDGED_AFTER
    shown = measure_steps(copy.deepcopy(states[start]), loss, batches[start : index + _SHOWN_AFTER], lr, fixed, start)
    max_norm = 2 * median(step.gradient_norm for step in shown if step.index < index or step is shown[0])

    def rerun(steps_before: int, networks: Sequence[nn.Module], norm: float = math.inf) -> Rerun:
        remaining = batches[index - steps_before : end]
        outcomes = []
        for network in networks:
            dtype = next(network.parameters()).dtype
            outcomes.append(sgd(network, loss, [(x.to(dtype), y) for x, y in remaining], lr, norm))
        failed = sum(failure_index(outcome, chance) is not None for outcome in outcomes)
        return Rerun(steps_before, len(outcomes), failed, sum(math.isnan(outcome[-1]) for outcome in outcomes))

    generator = torch.Generator().manual_seed(0)
    return Failure(
        index=index,
        lr=lr,
        not_finite=math.isnan(losses[-1]),
        steps=shown,
        twins=[rerun(k, [moved(states[index - k], 1e-5, generator) for _ in range(twins)]) for k in reachable],
        max_norm=max_norm,
        capped=rerun(reachable[-1], [copy.deepcopy(states[start])], max_norm),
        double=rerun(reachable[0], [copy.deepcopy(states[index - reachable[0]]).double()]),
    )


def _states(module: nn.Module, loss: Loss, batches: Sequence[Batch], lr: float, indices: Sequence[int]) -> dict[int, nn.Module]:
    """Trains a copy and keeps the network as it is before each of these steps."""
    network, at, states = copy.deepcopy(module), 0, {}
    for index in sorted(indices):
        sgd(network, loss, batches[at:index], lr)
        states[index], at = copy.deepcopy(network), index
    return states
