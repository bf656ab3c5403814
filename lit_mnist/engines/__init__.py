"""Engines: many SGD steps in one call. The exact one, here, computes the bits of a plain PyTorch loop, on any device."""

from typing import Protocol

import torch
from torch import Tensor

from lit_mnist.datasets.loaders import Batch
from lit_mnist.lit_mlp import LitMLP


class Engine(Protocol):
    """Trains a network in place."""

    def steps(self, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Performs one SGD step on every `batch_size` consecutive images, and one on what is left.

        Args:
            images: (N, 1, height, width) floating point in [0, 1], N at least 1, on the network's device.
            labels: (N,) int64.
            batch_size: Images per SGD step, at least 1.

        Returns:
            The loss of each mini-batch before its step, (steps,), in nats.
        """


class ExactEngine:
    """Steps by autograd and the module's own optimizer: the same bits as a plain PyTorch loop.

    Args:
        module: Computes the loss with `batch_loss`.
        optimizer: The optimizer of its parameters.
    """

    def __init__(self, module: LitMLP, optimizer: torch.optim.Optimizer) -> None:
        self.module = module
        self.optimizer = optimizer

    def steps(self, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Performs SGD steps as `Engine.steps` describes."""
        batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        return torch.stack([self._step(batch) for batch in batches])

    def _step(self, batch: Batch) -> Tensor:
        losses = []

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.module.batch_loss(*batch)
            loss.backward()
            losses.append(loss.detach())
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type] # a tensor will do; LBFGS and its like call it several times
        return losses[0]
