"""Units of the ReLU layers, active or dead, and the norms of the weights."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lit_mnist.insight.curvature import Loss

_RELUS = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


class Units(NamedTuple):
    """Shares, 0..1, of the outputs of a ReLU layer that are above 0, and of its units that output 0 throughout.

    Counted over images, units and positions. A unit is an entry of dimension 1: a neuron, a channel.
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
            active = output > 0
            dead = ~active.transpose(0, 1).flatten(1).any(1)
            self.units.append(Units(active.float().mean().item(), dead.float().mean().item()))
        return output


@torch.no_grad()
def relu_units(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> list[Units]:
    """Counts active and dead units in each ReLU layer, in the order of computation; empty for a network without ReLU.

    Args:
        module: Any module; a compiled one hides its ReLUs.
        loss: Mean loss of a batch; its forward pass is the one that is watched.
        images, labels: The examples, (N, ...) each, on the module's device.
    """
    with _ReLUOutputs() as outputs:
        loss(module, images, labels)
    return list(outputs.units)


def weight_norms(module: nn.Module) -> dict[str, float]:
    """Computes the Frobenius norm of each weight that is a matrix or more (no biases), by its name in the module."""
    return {name: weight.detach().norm().item() for name, weight in module.named_parameters() if weight.dim() > 1}
