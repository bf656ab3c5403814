"""Curvature of the loss: Hessian-vector products, sharpness, curvature along the gradients of mini-batches."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (module, images (N, ...), labels (N, ...)) -> mean over the N examples

# Enough for networks between initialisation and a training loss of 1e-3: 6 to 12 products, and an error below 0.1 %, because
# the error of an eigenvalue is the square of that of its vector.
_KRYLOV_VECTORS, _RESTARTS, _TOLERANCE = 5, 30, 1e-2


class Hessian:
    """Hessian of a batch's mean loss at the module's present parameters: products with vectors, never the matrix.

    The derivatives are exact and by double backward. ReLU counts as linear on either side of 0: a step that switches units
    meets more curvature than this. The parameters' `.grad` is neither read nor written.

    Args:
        module: Any module; put it into eval mode first if it behaves differently in training.
        loss: Mean loss of a batch.
        images, labels: The batch, (N, ...) each, on the module's device.

    Attributes:
        loss: The batch's mean loss.
        gradient: (P,) gradient with respect to the P parameters that require one, flat, in the order of `module.parameters()`.
    """

    def __init__(self, module: nn.Module, loss: Loss, images: Tensor, labels: Tensor) -> None:
        self.loss, self._parameters, self._gradients = differentiable_gradient(module, loss, images, labels)
        self.gradient = torch.cat([gradient.detach().flatten() for gradient in self._gradients])

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Multiplies the Hessian with a vector (P,) of the gradient's dtype and device."""
        parts = vector.split([gradient.numel() for gradient in self._gradients])
        vectors = [part.view_as(gradient) for part, gradient in zip(parts, self._gradients, strict=True)]
        products = torch.autograd.grad(self._gradients, self._parameters, vectors, retain_graph=True, materialize_grads=True)
        return torch.cat([product.flatten() for product in products])

    def curvature_along(self, direction: Tensor) -> float:
        """Computes d'Hd / d'd, the second derivative of the loss along a direction (P,) that is not 0."""
        direction = direction / direction.norm()  # first, so that the squares of a tiny gradient do not vanish
        return float(direction @ (self @ direction))

    def sharpness(self, tolerance: float = _TOLERANCE) -> float:
        """Computes the largest eigenvalue (Cohen et al. 2021), by ARPACK's restarted Lanczos iteration.

        Gradient descent with learning rate lr on this batch is unstable where it is above 2 / lr.

        Args:
            tolerance: Bound of the relative error, which is usually about the square of it.

        Raises:
            scipy.sparse.linalg.ArpackNoConvergence: The largest eigenvalues lie too close together, or near 0.
        """
        size = len(self.gradient)
        dtype = torch.float64 if self.gradient.dtype == torch.float64 else torch.float32  # which ARPACK knows

        def multiply(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return (self @ torch.from_numpy(vector.reshape(-1)).to(self.gradient)).to("cpu", dtype).numpy()

        first = self.gradient.to("cpu", torch.float64)
        # with a little of everything in it, in case the gradient is 0 or has no share in the eigenvector
        noise = torch.randn(size, generator=torch.Generator().manual_seed(0)) / size**0.5
        start = (first / first.norm().clamp_min(1e-300) + 0.01 * noise).to(dtype).numpy()
        hessian = LinearOperator((size, size), matvec=multiply, dtype=start.dtype)
        vectors = min(_KRYLOV_VECTORS, size)
        values, _ = eigsh(hessian, k=1, which="LA", v0=start, ncv=vectors, tol=tolerance, maxiter=_RESTARTS)
        return float(values[0])


def differentiable_gradient(
    module: nn.Module, loss: Loss, images: Tensor, labels: Tensor
) -> tuple[float, list[nn.Parameter], list[Tensor]]:
    """Computes the loss, and its gradient by each parameter that requires one, to be differentiated again."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        value = loss(module, images, labels)
        gradients = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
    return value.item(), parameters, list(gradients)


def squared_norm(parts: Sequence[Tensor]) -> float:
    """Adds the squares of all numbers in several tensors."""
    return sum(part.square().sum().item() for part in parts)


def batch_sharpness(
    module: nn.Module, loss: Loss, images: Tensor, labels: Tensor, batch_size: int, count: int = 64, seed: int = 0
) -> tuple[float, float]:
    """Measures batch sharpness (Andreyev and Beneventano 2024): g'Hg / g'g, with gradient g and Hessian H of a mini-batch.

    A step of SGD along the gradient of a mini-batch lowers the loss of that mini-batch, to second order, where
    lr x batch sharpness / 2 is below 1. Mini-batches whose gradient is 0 are left out.

    Args:
        module: The module.
        loss: Mean loss of a batch.
        images, labels: The examples, (N, ...) each, on the module's device.
        batch_size: Examples per mini-batch, drawn without repetition; all if there are fewer.
        count: Number of mini-batches.
        seed: Decides what is drawn.

    Returns:
        The mean over the mini-batches, and mean g'Hg / mean g'g, in which those with long gradients count more; nan for both
        if every gradient is 0.
    """
    generator, ratios, squares = torch.Generator().manual_seed(seed), [], []
    for _ in range(count):  # without a Hessian, whose flat vectors would take a third of the time
        chosen = torch.randperm(len(labels), generator=generator)[:batch_size].to(labels.device)
        _, parameters, gradients = differentiable_gradient(module, loss, images[chosen], labels[chosen])
        directions = [gradient.detach() for gradient in gradients]
        if square := squared_norm(directions):
            products = torch.autograd.grad(gradients, parameters, directions, materialize_grads=True)
            ratios.append(sum((h * g).sum().item() for h, g in zip(products, directions, strict=True)) / square)
            squares.append(square)
    return (float(np.mean(ratios)), float(np.average(ratios, weights=squares))) if ratios else (math.nan, math.nan)
