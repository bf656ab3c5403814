"""What a run must come to: the ordinary PyTorch loop, without Lightning and without blocks."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from lit_mnist.datasets.files import load
from lit_mnist.engines.blocks import EpochOrder
from lit_mnist.mlp import MLP


def plain_loop(
    root: Path, images: int, batch_size: int, epochs: int, lr: float, seed: int, hidden: Sequence[int]
) -> tuple[list[float], MLP]:
    """Trains on the first `images` of MNIST; returns the batch losses, up to the first that is not finite, and the network."""
    x, y = load("MNIST", root, "train")
    x, y = x[:images].float().div(255), y[:images]
    torch.manual_seed(seed)
    mlp = MLP(hidden)
    optimizer = torch.optim.SGD(mlp.parameters(), lr=lr)
    order, losses = EpochOrder(images, seed), []
    for epoch in range(epochs):
        order.set_epoch(epoch)
        for batch in order.permutation().split(batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(mlp(x[batch]), y[batch])
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                return losses, mlp
            loss.backward()
            optimizer.step()
    return losses, mlp
