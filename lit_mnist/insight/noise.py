"""Noise of the gradient: gradient norms of single examples, and the gradient noise scale."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lit_mnist.insight.curvature import Loss

_EXAMPLES_AT_ONCE = 64  # their gradients are held together: 137 MB for 535,818 parameters in float32


class GradientNoise(NamedTuple):
    """Mean and scatter of the gradients of single examples.

    Attributes:
        scale: tr(Sigma) / |G|^2, in examples: the batch size at which the noise of a mini-batch's gradient is as long as the
            gradient; nan where the estimate of |G|^2 is not above 0, which takes more examples.
        trace: tr(Sigma), the variance of an example's gradient, summed over the parameters; unbiased.
        squared_gradient: |G|^2 of the gradient G over all the data that the examples are drawn from; unbiased.
    """

    scale: float
    trace: float
    squared_gradient: float


def gradient_noise(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> GradientNoise:
    """Measures the simple gradient noise scale (McCandlish et al. 2018) exactly on these examples.

    Args:
        module: A module that treats each example by itself: no batch normalisation in training mode.
        loss: Mean loss of a batch.
        images, labels: At least 2 examples, (N, ...) each, on the module's device.
    """
    count = len(labels)
    assert count > 1, "one example has no variance"
    of_examples = squared_gradient_norms(module, loss, images, labels).cpu().double().mean().item()
    of_mean = _squared_gradient_norm(module, loss, images, labels)
    trace = count / (count - 1) * (of_examples - of_mean)
    squared_gradient = of_mean - trace / count  # |mean of N|^2 exceeds |G|^2 by tr(Sigma) / N on average
    scale = trace / squared_gradient if squared_gradient > 0 else float("nan")
    return GradientNoise(scale, trace, squared_gradient)


def squared_gradient_norms(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
    """Computes |gradient|^2 of each example, (N,); the parameters' `.grad` is neither read nor written.

    Args:
        module: A module that treats each example by itself.
        loss: Mean loss of a batch.
        images, labels: The examples, (N, ...) each, on the module's device.

    Raises:
        RuntimeError: The module does something that `torch.func.vmap` cannot map over examples.
    """
    norms = _norms_of_linear_layers(module, loss, images, labels)
    return _norms_of_any_module(module, loss, images, labels) if norms is None else norms


def _squared_gradient_norm(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> float:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        value = loss(module, images, labels)
    parts = torch.autograd.grad(value, parameters, materialize_grads=True)
    return sum(part.square().sum().cpu().double().item() for part in parts)


def _norms_of_linear_layers(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> Tensor | None:
    """Computes the norms of a stack of Linear layers from one backward pass, 90 times as fast as `vmap` for the MLP.

    An example's gradient is delta a' for a weight and delta for a bias (a: input, delta: derivative by the output), so its
    squared norm is |delta|^2 (|a|^2 + 1). None: parameters elsewhere, or a layer used twice or on sequences.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if {*module.parameters()} != {parameter for layer in layers for parameter in layer.parameters()}:
        return None
    inputs: list[Tensor] = []
    outputs: list[GradientEdge] = []
    called: list[nn.Module] = []

    def remember(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        called.append(layer)
        inputs.append(arguments[0].detach())
        outputs.append(get_gradient_edge(output))  # the tensor itself would be overwritten by an in-place ReLU

    hooks = [layer.register_forward_hook(remember) for layer in layers]
    try:
        with torch.enable_grad():
            value = loss(module, images, labels)
    finally:
        for hook in hooks:
            hook.remove()
    if len(called) != len({*called}) or any(a.dim() != 2 for a in inputs):
        return None
    norms = torch.zeros(len(labels), dtype=value.dtype, device=value.device)
    for layer, a, delta in zip(called, inputs, torch.autograd.grad(value, outputs), strict=True):
        weights = a.square().sum(1) if layer.weight.requires_grad else 0
        biases = 1 if layer.bias is not None and layer.bias.requires_grad else 0
        norms += (delta * len(labels)).square().sum(1) * (weights + biases)  # the loss is a mean: delta is 1 / N of its own
    return norms


class _LossModule(nn.Module):
    """Module whose forward pass is the loss, as `torch.func.functional_call` needs it."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.loss(self.module, images, labels)


def _norms_of_any_module(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
    with_loss = _LossModule(module, loss)
    parameters = {name: parameter.detach() for name, parameter in with_loss.named_parameters() if parameter.requires_grad}

    def example_loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        value: Tensor = torch.func.functional_call(with_loss, values, (image.unsqueeze(0), label.unsqueeze(0)))
        return value

    def squared_norm(image: Tensor, label: Tensor) -> Tensor:
        gradient = torch.func.grad(example_loss)(parameters, image, label)
        return torch.stack([part.square().sum() for part in gradient.values()]).sum()

    norms: Tensor = torch.func.vmap(squared_norm, chunk_size=_EXAMPLES_AT_ONCE)(images, labels)
    return norms.detach()
