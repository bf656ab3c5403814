"""SGD steps made again: from the same weights on the same mini-batches, measured one by one or changed in one respect."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lit_mnist.datasets.loaders import Batch
from lit_mnist.insight.activations import Units, relu_units, weight_norms
from lit_mnist.insight.curvature import Hessian, Loss
from lit_mnist.insight.noise import squared_gradient_norms

FIXED = 1000  # images, the first ones, on which units are counted
CONFIRMED_BY = 100  # high losses in a row; after fewer, training may recover as from any spike


@dataclass(frozen=True)
class Step:
    """One SGD step, measured at the weights before it.

    Attributes:
        index: Place of its mini-batch in the window, 0-based.
        loss: Of the mini-batch before the step.
        change: Loss of the same mini-batch after the step minus before.
        gradient_norm: Of the mini-batch.
        curvature: g'Hg / g'g, the second derivative of the mini-batch's loss along the step.
        units: Activity of each ReLU layer on the fixed images.
        weight_norms: Frobenius norm of each weight matrix, by name.
        image_shares: (B,) norm of each image's gradient as a share of their sum, in the order of the mini-batch.
        labels, predictions: (B,) class of each image, and the one that the network gives it before the step.
    """

    index: int
    loss: float
    change: float
    gradient_norm: float
    curvature: float
    units: list[Units]
    weight_norms: dict[str, float]
    image_shares: Tensor
    labels: Tensor
    predictions: Tensor


@dataclass(frozen=True)
class Window:
    """Consecutive steps of plain SGD that can be made again, numbered from 0.

    Attributes:
        loss: Mean loss of a mini-batch.
        images, labels: What the mini-batches are chosen from, (N, ...) each, on the CPU.
        chosen: Indices (B,) of the mini-batch of each step.
        lr: Learning rate.
        first: Number in the run, 1-based, of its first step.
    """

    loss: Loss
    images: Tensor
    labels: Tensor
    chosen: Sequence[Tensor]
    lr: float
    first: int = 1

    def batch(self, step: int) -> Batch:
        """Gathers the mini-batch of a step."""
        return self.images.index_select(0, self.chosen[step]), self.labels.index_select(0, self.chosen[step])

    def without(self, step: int, place: int) -> "Window":
        """Leaves one image out of the mini-batch of a step, or the step if that was its only image."""
        kept = self.chosen[step][torch.arange(len(self.chosen[step])) != place]
        return replace(self, chosen=[*self.chosen[:step], *([kept] if len(kept) else []), *self.chosen[step + 1 :]])

    def train(self, network: nn.Module, first: int = 0, end: int | None = None, max_norm: float = math.inf) -> list[float]:
        """Trains a network in place, with the bits of an ordinary PyTorch loop.

        Args:
            network: As it is before step `first`, in float32 or float64.
            first, end: The steps are made from `first` on, up to but without `end`; None: all that follow.
            max_norm: Longer gradients are shortened to this norm.

        Returns:
            The loss of each mini-batch before its step; nan from the first that is not finite on, where it stops.
        """
        parameters = list(network.parameters())
        optimizer = torch.optim.SGD(parameters, lr=self.lr, fused=True)
        losses: list[float] = []
        steps = range(len(self.chosen))[first:end]
        for step in steps:
            optimizer.zero_grad()
            loss = self.loss(network, *self.batch(step))
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                return losses[:-1] + [math.nan] * (len(steps) - len(losses) + 1)
            loss.backward()
            if max_norm < math.inf:
                nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
        optimizer.zero_grad()
        return losses

    def measure(self, network: nn.Module, first: int = 0, end: int | None = None) -> list[Step]:
        """Trains a network in place as `train` does, and measures each step; stops where the loss is not finite."""
        steps = []
        for index in range(len(self.chosen))[first:end]:
            images, labels = self.batch(index)
            hessian = Hessian(network, self.loss, images, labels)
            norm = hessian.gradient.norm().item()
            if not math.isfinite(hessian.loss + norm):
                break
            curvature = hessian.curvature_along(hessian.gradient) if norm else 0.0
            norms = squared_gradient_norms(network, self.loss, images, labels).sqrt()
            shares = norms / norms.sum().clamp_min(torch.finfo(norms.dtype).tiny)
            units = relu_units(network, self.loss, self.images[:FIXED], self.labels[:FIXED])
            weights = weight_norms(network)
            predictions = network(images).argmax(1)
            self.train(network, index, index + 1)
            change = self.loss(network, images, labels).item() - hessian.loss
            steps.append(Step(index, hessian.loss, change, norm, curvature, units, weights, shares, labels, predictions))
        return steps


def failure_index(losses: Sequence[float], high: float) -> int | None:
    """Finds the first step, 0-based, from which on 100 losses in a row and more are high or not finite.

    Args:
        losses: Of the mini-batches of consecutive steps.
        high: Loss in nats.
    """
    count = 0
    for index, loss in enumerate(losses):
        count = 0 if loss < high else count + 1
        if count == CONFIRMED_BY:
            return index + 1 - CONFIRMED_BY
    return None


def moved(network: nn.Module, relative: float, generator: torch.Generator) -> nn.Module:
    """Copies a network and moves each parameter in a random direction, by `relative` times its own norm."""
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            direction = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(relative * parameter.norm() / direction.norm() * direction)
    return twin
