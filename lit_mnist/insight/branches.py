"""The branch test: from one state, is training held back by the noise of its steps or by their length?"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import t
from torch import Tensor, nn

from lit_mnist.insight.curvature import Loss
from lit_mnist.insight.replay import Selection, sgd

Verdict = Literal["noise-limited", "step-limited", "undecided"]
BRANCHES = {"unchanged": (1.0, 1), "lr / 8": (1 / 8, 1), "lr x 2": (2.0, 1), "batch x 8": (1.0, 8)}  # factors of lr, batch size
_IMAGES_AT_ONCE = 5000


@dataclass(frozen=True)
class Effect:
    """What a change does to the training loss, over several orders of the images.

    Attributes:
        ratios: Loss after the changed steps / loss after the unchanged ones, one for each order.
        mean: Geometric mean of the ratios.
        low, high: Its 95 % confidence interval, by Student's t of the logarithms.
    """

    ratios: tuple[float, ...]
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class BranchTest:
    """Result of a branch test.

    Attributes:
        steps: SGD steps of each branch.
        losses: Loss over the training images after each branch -> one for each order; infinite where it stopped being finite.
        effects: Each changed branch -> its effect against the unchanged one.
    """

    steps: int
    losses: dict[str, tuple[float, ...]]
    effects: dict[str, Effect]

    @property
    def verdict(self) -> Verdict:
        """What holds training back, where the intervals exclude no effect.

        noise-limited: shorter steps help, and so do steps of the same length with less noise. step-limited: shorter steps
        harm, and longer ones help.
        """
        shorter, longer, quieter = (self.effects[name] for name in ("lr / 8", "lr x 2", "batch x 8"))
        if shorter.high < 1 and quieter.high < 1:
            return "noise-limited"
        if shorter.low > 1 and longer.high < 1:
            return "step-limited"
        return "undecided"


def branch_test(
    module: nn.Module,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
    lr: float,
    batch_size: int,
    steps: int = 200,
    orders: int = 5,
    seed: int = 0,
) -> BranchTest:
    """Trains copies of a network on the same images in the same orders, unchanged and with lr or batch size changed.

    Args:
        module: The network; it is left as it is.
        loss: Mean loss of a mini-batch.
        images, labels: The training images, (N, ...) each; at least one mini-batch of 8 batch_size.
        lr, batch_size: Those of the run.
        steps: SGD steps of each branch.
        orders: Number of orders of the images, at least 2.
        seed: Decides the orders.

    Raises:
        ValueError: There are too few images.
    """
    if 8 * batch_size > len(labels):
        raise ValueError(f"The branch test needs {8 * batch_size} training images, 8 mini-batches, not {len(labels)}.")
    losses: dict[str, list[float]] = {name: [] for name in BRANCHES}
    for order in range(orders):
        generator = torch.Generator().manual_seed(seed * orders + order)
        drawn = _indices(len(labels), steps * batch_size * 8, generator)
        for name, (rate, size) in BRANCHES.items():
            network = copy.deepcopy(module)
            chosen = drawn[: steps * batch_size * size].split(batch_size * size)
            sgd(network, loss, Selection(images, labels, chosen), lr * rate)
            losses[name].append(_mean_loss(network, loss, images, labels))
    effects = {name: _effect(losses[name], losses["unchanged"]) for name in BRANCHES if name != "unchanged"}
    return BranchTest(steps, {name: tuple(values) for name, values in losses.items()}, effects)


def _indices(images: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws epochs of random permutations until there are `count` indices."""
    epochs = [torch.randperm(images, generator=generator) for _ in range(-(-count // images))]
    return torch.cat(epochs)[:count]


@torch.no_grad()
def _mean_loss(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> float:
    parts = zip(images.split(_IMAGES_AT_ONCE), labels.split(_IMAGES_AT_ONCE), strict=True)
    mean = sum(loss(module, *part).item() * len(part[1]) for part in parts) / len(labels)
    return mean if math.isfinite(mean) else math.inf


def _effect(changed: Sequence[float], unchanged: Sequence[float]) -> Effect:
    ratios = tuple(a / b if b < math.inf else math.nan for a, b in zip(changed, unchanged, strict=True))
    if not all(0 < ratio < math.inf for ratio in ratios):  # a branch that failed: no interval, so no verdict
        return Effect(ratios, math.nan, math.nan, math.nan)
    logs = torch.tensor(ratios, dtype=torch.float64).log()
    mean, half = logs.mean().item(), t.ppf(0.975, len(logs) - 1) * logs.std().item() / len(logs) ** 0.5
    return Effect(ratios, math.exp(mean), math.exp(mean - half), math.exp(mean + half))
