"""Units of the ReLU layers: which are active, which are dead; and the norms of the weights."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lit_mnist.insight.curvature import Loss

_RELUS = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


class Units(NamedTuple):
    """Activity of the units of one ReLU layer on a set of images. A unit is an entry of dimension 1: a neuron, a channel.

    Attributes:
        active: Share of the outputs that are above 0, over images, units and positions; 0..1.
        dead: Share of the units whose output is 0 on every image, at every position; 0..1.
    """

    active: float
    dead: float


class _ReLUOutputs(TorchFunctionMode):
    """Watches every ReLU that is computed inside this context, be it a module, a function or a method."""

    def __init__(self) -> None:
        super().__init__()
        self.units: list[Units] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _RELUS and output.dim() > 1:
            active = output.detach() > 0
            dead = ~active.transpose(0, 1).flatten(1).any(1)
            self.units.append(Units(active.float().mean().item(), dead.float().mean().item()))
        return output


def relu_units(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> list[Units]:
    """Counts active and dead units in each ReLU layer, in the order of computation; empty for a network without ReLU.

    Args:
        module: Any module; a compiled one hides its ReLUs.
        loss: Mean loss of a batch; its forward pass is the one that is watched.
        images, labels: The examples, (N, ...) each, on the module's device.
    """
    outputs = _ReLUOutputs()
    with torch.no_grad(), outputs:
        loss(module, images, labels)
    return outputs.units


def weight_norms(module: nn.Module) -> dict[str, float]:
    """Computes the Frobenius norm of each weight that is a matrix or more (no biases), by its name in the module."""
    return {name: weight.detach().norm().item() for name, weight in module.named_parameters() if weight.dim() > 1}
