"""Replays of SGD steps: the same mini-batches from the same weights, measured step by step or changed in one respect."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from lit_mnist.datasets.loaders import Batch
from lit_mnist.insight.activations import Units, relu_units, weight_norms
from lit_mnist.insight.curvature import Hessian, Loss
from lit_mnist.insight.noise import squared_gradient_norms

Module = TypeVar("Module", bound=nn.Module)


class Selection(Sequence[Batch]):
    """Mini-batches that are gathered when they are asked for.

    Args:
        images, labels: What they are chosen from, (N, ...) each.
        chosen: Indices (B,) of each mini-batch.
    """

    def __init__(self, images: Tensor, labels: Tensor, chosen: Sequence[Tensor]) -> None:
        self.images, self.labels, self.chosen = images, labels, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> "Selection": ...
    def __getitem__(self, index: int | slice) -> "Batch | Selection":
        if isinstance(index, slice):
            return Selection(self.images, self.labels, self.chosen[index])
        indices = self.chosen[index].to(self.labels.device)
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)


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

    @property
    def largest_image(self) -> int:
        """The place in the mini-batch of the image with the largest gradient."""
        return int(self.image_shares.argmax())


def sgd(module: nn.Module, loss: Loss, batches: Sequence[Batch], lr: float, max_norm: float = math.inf) -> list[float]:
    """Trains a module in place by plain SGD, with the bits of an ordinary PyTorch loop.

    Args:
        module: The module.
        loss: Mean loss of a mini-batch.
        batches: One mini-batch per step.
        lr: Learning rate.
        max_norm: Longer gradients are shortened to this norm.

    Returns:
        The loss of each mini-batch before its step; nan from the first that is not finite on, where it stops.
    """
    parameters = list(module.parameters())
    optimizer = torch.optim.SGD(parameters, lr=lr, fused=parameters[0].dtype in (torch.float32, torch.float64))
    losses: list[float] = []
    for images, labels in batches:
        optimizer.zero_grad()
        value = loss(module, images, labels)
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            return losses[:-1] + [math.nan] * (len(batches) - len(losses) + 1)
        value.backward()
        if max_norm < math.inf:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
    optimizer.zero_grad()
    return losses


def measure_steps(
    module: nn.Module, loss: Loss, batches: Sequence[Batch], lr: float, fixed: Batch, first_index: int = 0
) -> list[Step]:
    """Trains a module in place as `sgd` does, with the same bits, and measures each step; stops where the loss is not finite.

    Args:
        module: The module.
        loss: Mean loss of a mini-batch.
        batches: One mini-batch per step.
        lr: Learning rate.
        fixed: Images and labels on which units are counted.
        first_index: Index of the first step.
    """
    steps = []
    for index, (images, labels) in enumerate(batches, first_index):
        hessian = Hessian(module, loss, images, labels)
        norm = hessian.gradient.norm().item()
        if not math.isfinite(hessian.loss + norm):
            break
        curvature = hessian.curvature_along(hessian.gradient) if norm else 0.0
        norms = squared_gradient_norms(module, loss, images, labels).sqrt()
        units, weights = relu_units(module, loss, *fixed), weight_norms(module)
        with torch.no_grad():
            predictions = module(images).argmax(1)
        sgd(module, loss, [(images, labels)], lr)
        with torch.no_grad():
            change = loss(module, images, labels).item() - hessian.loss
        shares = norms / norms.sum().clamp_min(torch.finfo(norms.dtype).tiny)
        steps.append(Step(index, hessian.loss, change, norm, curvature, units, weights, shares, labels, predictions))
    return steps


def failure_index(losses: Sequence[float], high: float, confirmed_by: int = 100) -> int | None:
    """Finds the first step from which on many losses in a row are high or not finite.

    Args:
        losses: Of the mini-batches of consecutive steps.
        high: Loss in nats.
        confirmed_by: Number of losses in a row; after fewer, training may recover as from any spike.

    Returns:
        Index of that step, 0-based; None if there is none.
    """
    count = 0
    for index, loss in enumerate(losses):
        count = 0 if loss < high else count + 1
        if count == confirmed_by:
            return index + 1 - confirmed_by
    return None


def moved(module: Module, relative: float, generator: torch.Generator) -> Module:
    """Copies a module and moves each parameter in a random direction, by `relative` times its own norm."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in twin.parameters():
            direction = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(relative * parameter.norm() / direction.norm() * direction)
    return twin
