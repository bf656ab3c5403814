"""Noise of the gradient: gradient norms of single examples, and the gradient noise scale."""

import math

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lit_mnist.insight.curvature import Loss, differentiable_gradient, squared_norm


def gradient_noise_scale(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> float:
    """Measures the simple gradient noise scale tr(Sigma) / |G|^2 (McCandlish et al. 2018) exactly on these examples.

    It is the batch size, in examples, at which the noise of a mini-batch's gradient is as long as the gradient G over all the
    data that the examples are drawn from. Sigma is the covariance of the gradients of single examples; both parts are unbiased.

    Args:
        module: A module that treats each example by itself: no batch normalisation in training mode.
        loss: Mean loss of a batch.
        images, labels: At least 2 examples, (N, ...) each, on the module's device.

    Returns:
        nan where the estimate of |G|^2 is not above 0, which takes more examples.
    """
    count = len(labels)
    of_examples = squared_gradient_norms(module, loss, images, labels).cpu().double().mean().item()
    of_mean = squared_norm(differentiable_gradient(module, loss, images, labels)[2])
    trace = count / (count - 1) * (of_examples - of_mean)
    squared_gradient = of_mean - trace / count  # |mean of N|^2 exceeds |G|^2 by tr(Sigma) / N on average
    return trace / squared_gradient if squared_gradient > 0 else math.nan


def squared_gradient_norms(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
    """Computes |gradient|^2 of each of N examples, (N,), which the module must treat each by itself.

    The parameters' `.grad` is neither read nor written.
    """
    norms = _norms_of_linear_layers(module, loss, images, labels)
    if norms is None:
        examples = zip(images.split(1), labels.split(1), strict=True)
        squares = [squared_norm(differentiable_gradient(module, loss, *each)[2]) for each in examples]
        norms = torch.tensor(squares, dtype=torch.float64)
    return norms


def _norms_of_linear_layers(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> Tensor | None:
    """Computes the norms of a stack of Linear layers from one backward pass, many times as fast as one for each example.

    An example's gradient is delta a' for a weight and delta for a bias (a: input, delta: derivative by the output), so its
    squared norm is |delta|^2 (|a|^2 + 1). None: parameters elsewhere, or a layer used twice or on sequences.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if {*module.parameters()} != {parameter for layer in layers for parameter in layer.parameters()}:
        return None
    calls: list[tuple[nn.Linear, Tensor]] = []
    outputs: list[GradientEdge] = []

    def remember(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        calls.append((layer, arguments[0].detach()))
        outputs.append(get_gradient_edge(output))  # the tensor itself would be overwritten by an in-place ReLU

    hooks = [layer.register_forward_hook(remember) for layer in layers]
    try:
        with torch.enable_grad():
            value = loss(module, images, labels)
    finally:
        for hook in hooks:
            hook.remove()
    if len({layer for layer, _ in calls}) != len(calls) or any(a.dim() != 2 for _, a in calls):
        return None
    norms = torch.zeros(len(labels), dtype=value.dtype, device=value.device)
    for (layer, a), delta in zip(calls, torch.autograd.grad(value, outputs), strict=True):
        weights = a.square().sum(1) if layer.weight.requires_grad else 0
        biases = 1 if layer.bias is not None and layer.bias.requires_grad else 0
        norms += (delta * len(labels)).square().sum(1) * (weights + biases)  # the loss is a mean: delta is 1 / N of its own
    return norms
