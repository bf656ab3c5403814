"""The fast engine: plain SGD for the MLP on CPUs, to rounding, in about half the time. `loops` holds its mathematics."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_mnist.engines.loops import HAS_NUMBA, VECTOR, compiled_steps
from lit_mnist.mlp import MLP

# Where torch keeps what is registered on a module, a parameter or an optimizer: there is no public way to ask.
HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_post_accumulate_grad_hooks",
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
)


class FastEngine:
    """Trains an `MLP` on a CPU in place by plain SGD on the mean cross-entropy, like autograd and `torch.optim.SGD`.

    Sums are added in another order: weights agree with those of the exact engine to rounding, not bit for bit. The same
    calls give the same bits with any number of threads; a block of images split over two calls may round differently.

    Args:
        mlp: The network; it may be reloaded between calls of `steps`.
        lr: Learning rate, at least 0.
        threads: Threads that share the images of a mini-batch and the rows of a weight.

    Raises:
        ValueError: numba is missing, or the network is not one whose gradient is written out here.
    """

    def __init__(self, mlp: nn.Module, lr: float, threads: int = 1) -> None:
        if not HAS_NUMBA:
            gain = "it takes about half the time, and needs numba: pip install 'lit_mnist[fast]'"
            raise ValueError(f"engine fast: {gain}, or use --engine exact.")
        self.mlp, self.lr, self.threads = mlp, lr, threads
        self._is_compared = False
        _known_layers(mlp)

    @torch.no_grad()
    def steps(self, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Performs SGD steps as `Engine.steps` describes; images (N, ...) are on the CPU, of the parameters' dtype.

        The last loss is NaN if a weight is no longer finite: exact products with it are NaN, and leaving zeros out hides that.

        Raises:
            ValueError: The network computes something else than its layers with ReLU between them; it is unchanged.
        """
        layers, pixels = _known_layers(self.mlp), images.flatten(1).contiguous()
        widths = np.array([pixels.shape[1], *(layer.out_features for layer in layers)])
        assert (pixels.dtype, pixels.shape[1]) == (layers[0].weight.dtype, layers[0].in_features)
        assert labels.aminmax()[0] >= 0  # the loops check no index
        assert labels.aminmax()[1] < widths[-1]
        sizes = [(_whole(inputs + 2), _whole(outputs)) for inputs, outputs in pairwise(widths.tolist())]
        counts = [rows * columns for rows, columns in sizes]
        shapes = np.array([(sum(counts[:i]), *size) for i, size in enumerate(sizes)])
        memory, losses = pixels.new_zeros(sum(counts)), np.empty(-(-len(pixels) // batch_size))
        weights = [part.view(size) for part, size in zip(memory.split(counts), sizes, strict=True)]
        for layer, weight in zip(layers, weights, strict=True):
            weight[: layer.in_features, : layer.out_features] = layer.weight.t()
            weight[layer.in_features, : layer.out_features] = layer.bias
        compiled_steps(self.threads)(
            memory.numpy(), shapes, widths, pixels.numpy(), labels.numpy(), batch_size, float(self.lr), losses
        )
        self._compare(images[:batch_size], labels[:batch_size], losses[0])
        if not memory.isfinite().all():
            losses[-1] = np.nan
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight[: layer.in_features, : layer.out_features].t())
            layer.bias.copy_(weight[layer.in_features, : layer.out_features])
        return torch.from_numpy(losses).to(pixels.dtype)

    def _compare(self, images: Tensor, labels: Tensor, loss: float) -> None:
        """Raises ValueError if the very first loss is not that of the network as it was."""
        expected = np.nan if self._is_compared else F.cross_entropy(self.mlp(images), labels).item()
        if abs(loss - expected) > 1e-3 * max(1, expected):
            raise ValueError("engine fast: the network computes more than its layers and ReLU; use --engine exact.")
        self._is_compared = True


def refuse_hooks(*owners: nn.Module | nn.Parameter | torch.optim.Optimizer) -> None:
    """Raises ValueError if something is registered that torch would call at every step, and the fast engine would not."""
    for owner in owners:
        if any(getattr(owner, hooks, None) for hooks in HOOKS) or "step" in vars(owner):  # replaced, in an optimizer
            kind = type(owner).__name__
            raise ValueError(
                f"engine fast: the hook that is registered on this {kind} would not be called; use --engine exact."
            )


def _whole(width: int) -> int:
    return -(-width // VECTOR) * VECTOR


def _known_layers(mlp: nn.Module) -> list[nn.Linear]:
    """Returns the layers of a network whose gradient is written out here; ValueError says what keeps it from being one."""
    reason = ""
    layers = [layer for layer in mlp.layers if type(layer) is nn.Linear] if isinstance(mlp, MLP) else []
    expected = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    parameters = list(mlp.parameters())
    if type(mlp) is not MLP:
        reason = f"it knows the gradient of MLP only, not of {type(mlp).__name__}"
    elif len(layers) != len(mlp.layers) or {id(one) for one in expected} != {id(one) for one in parameters}:
        reason = "the network has parameters other than the weights and biases of plain Linear layers"
    elif len(parameters) != len(expected) or not all(parameter.requires_grad for parameter in parameters):
        reason = "parameters of the network are frozen or shared"
    elif any(parameter.device.type != "cpu" for parameter in parameters):
        reason = "it is for CPUs, and the network is on another device"
    elif {parameter.dtype for parameter in parameters} not in ({torch.float32}, {torch.float64}):
        reason = "it computes in float32 or float64, and the network in another dtype or in several"
    if reason:
        raise ValueError(f"engine fast: {reason}; use --engine exact.")
    return layers
