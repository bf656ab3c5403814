"""The branch test: from one state, is training held back by the noise of its steps or by their length?"""

import copy
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import t
from torch import nn

from lit_mnist.datasets.loaders import StoredLoader
from lit_mnist.insight.replay import Window

BRANCHES = {"unchanged": (1.0, 1), "lr / 8": (1 / 8, 1), "lr x 2": (2.0, 1), "batch x 8": (1.0, 8)}  # factors of lr, batch size


class Branch(NamedTuple):
    """What became of the loss over the training images in one branch, for each order of the images.

    Attributes:
        losses: After the branch's steps; infinite where it failed.
        ratios: The same as a multiple of the loss after unchanged steps.
        mean, low, high: Geometric mean of the ratios, with its 95 % interval by Student's t; nan if a branch failed.
    """

    losses: list[float]
    ratios: list[float]
    mean: float
    low: float
    high: float


def branch_test(network: nn.Module, window: Window, batch_size: int, steps: int, orders: int = 5) -> dict[str, Branch]:
    """Trains copies of a network on the same images in the same orders, in each of `BRANCHES`.

    Args:
        network: The network; it is left as it is.
        window: Has the loss, the training images (at least one mini-batch of 8 batch_size) and the learning rate.
        batch_size: That of the run.
        steps: SGD steps of each branch.
        orders: Number of orders of the images, at least 2.

    Raises:
        ValueError: There are too few images.
    """
    count = len(window.labels)
    if 8 * batch_size > count:
        raise ValueError(f"The branch test needs {8 * batch_size} training images, 8 mini-batches, not {count}.")
    losses: dict[str, list[float]] = {name: [] for name in BRANCHES}
    for order in range(orders):
        generator = torch.Generator().manual_seed(order)
        epochs = -(-8 * batch_size * steps // count)
        drawn = torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])
        for name, (rate, size) in BRANCHES.items():
            changed = copy.deepcopy(network)
            chosen = drawn.split(batch_size * size)[:steps]
            replace(window, chosen=chosen, lr=window.lr * rate).train(changed)
            losses[name].append(_mean_loss(changed, window))
    return {name: _compare(losses[name], losses["unchanged"]) for name in BRANCHES}


@torch.no_grad()
def _mean_loss(network: nn.Module, window: Window) -> float:
    batches = StoredLoader(window.images, window.labels)
    total = sum(window.loss(network, *batch).item() * len(batch[1]) for batch in batches)
    return total / len(window.labels) if math.isfinite(total) else math.inf


def _compare(changed: list[float], unchanged: list[float]) -> Branch:
    ratios = [a / b if b < math.inf else math.nan for a, b in zip(changed, unchanged, strict=True)]
    if not all(0 < ratio < math.inf for ratio in ratios):  # a branch that failed: no interval, so no verdict
        return Branch(changed, ratios, math.nan, math.nan, math.nan)
    logs = np.log(ratios)
    mean, half = logs.mean(), t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    return Branch(changed, ratios, math.exp(mean), math.exp(mean - half), math.exp(mean + half))
