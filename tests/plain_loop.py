"""What a run must come to: the ordinary PyTorch loop, without Lightning and without blocks."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from lit_mnist.datasets.files import load
from lit_mnist.datasets.loaders import generator
from lit_mnist.mlp import MLP


def plain_loop(
    images: int, batch_size: int, epochs: int, lr: float, seed: int, hidden: Sequence[int], label_smoothing: float = 0.0
) -> tuple[list[float], MLP]:
    """Trains on the first `images` of MNIST; returns the batch losses, up to the first that is not finite, and the network."""
    x, y = load("MNIST").train
    x, y = x[:images].float().div(255), y[:images]
    torch.manual_seed(seed)
    mlp = MLP((28, 28), 10, hidden)
    optimizer = torch.optim.SGD(mlp.parameters(), lr=lr)
    losses = []
    for epoch in range(epochs):
        for batch in torch.randperm(images, generator=generator(seed, f"epoch {epoch}")).split(batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(mlp(x[batch]), y[batch], label_smoothing=label_smoothing)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                return losses, mlp
            loss.backward()
            optimizer.step()
    return losses, mlp
