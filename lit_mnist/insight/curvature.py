"""Curvature of the loss: Hessian-vector products, sharpness, curvature along the gradients of mini-batches."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (module, images (N, ...), labels (N, ...)) -> mean over the N examples

# Enough for the top eigenvalue of networks between initialisation and a training loss of 1e-3: 6 to 12 products, and an
# error below 0.1 %, because the error of an eigenvalue is the square of that of its vector.
_KRYLOV_VECTORS = 5
_TOLERANCE = 1e-2
_RESTARTS = 30


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
        self.loss, self._parameters, self._gradients = _differentiable_gradient(module, loss, images, labels)
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


def _differentiable_gradient(
    module: nn.Module, loss: Loss, images: Tensor, labels: Tensor
) -> tuple[float, list[nn.Parameter], list[Tensor]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        value = loss(module, images, labels)
        gradients = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
    return value.item(), parameters, list(gradients)


def top_eigenpair(hessian: Hessian, start: Tensor | None = None, tolerance: float = _TOLERANCE) -> tuple[float, Tensor]:
    """Computes the largest eigenvalue of a Hessian and its unit vector (P,), by ARPACK's restarted Lanczos iteration.

    Args:
        hessian: The Hessian, P x P.
        start: (P,) vector to start from, such as the eigenvector of a few steps ago; None: the gradient.
        tolerance: Bound of the relative error of the eigenvalue. The error is usually about the square of it.

    Raises:
        scipy.sparse.linalg.ArpackNoConvergence: The largest eigenvalues lie too close together, or near 0.
    """
    gradient = hessian.gradient
    dtype = np.float64 if gradient.dtype == torch.float64 else np.float32

    def multiply(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        product = hessian @ torch.from_numpy(vector.reshape(-1)).to(gradient)
        return product.cpu().numpy().astype(dtype)

    size = len(gradient)
    # with a little of everything in it, in case the gradient is 0 or has no share in the eigenvector
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0)) / size**0.5
    first = (gradient if start is None else start).cpu().to(torch.float64)
    first = first / first.norm().clamp_min(1e-300) + 0.01 * noise
    values, vectors = eigsh(
        LinearOperator((size, size), matvec=multiply, dtype=dtype),
        k=1,
        which="LA",
        v0=first.numpy().astype(dtype),
        ncv=min(_KRYLOV_VECTORS, size),
        tol=tolerance,
        maxiter=_RESTARTS,
    )
    return float(values[0]), torch.from_numpy(vectors[:, 0].copy()).to(gradient)


def sharpness(module: nn.Module, loss: Loss, images: Tensor, labels: Tensor, start: Tensor | None = None) -> float:
    """Computes the largest eigenvalue of the Hessian of the loss over these images (Cohen et al. 2021).

    Gradient descent with learning rate lr on these images is unstable where it is above 2 / lr.
    """
    return top_eigenpair(Hessian(module, loss, images, labels), start)[0]


class BatchSharpness(NamedTuple):
    """Curvature of mini-batch losses along their own gradients, g'Hg / g'g, over several mini-batches.

    Attributes:
        mean: Mean of the ratios.
        standard_error: Of that mean; nan for one mini-batch.
        ratio_of_means: Mean g'Hg / mean g'g, in which mini-batches with long gradients count more.
    """

    mean: float
    standard_error: float
    ratio_of_means: float


def batch_sharpness(module: nn.Module, loss: Loss, batches: Sequence[tuple[Tensor, Tensor]]) -> BatchSharpness:
    """Measures batch sharpness (Andreyev and Beneventano 2024).

    A step of SGD along the gradient of a mini-batch lowers the loss of that mini-batch, to second order, where
    lr x batch sharpness / 2 is below 1. Mini-batches whose gradient is 0 are left out.

    Args:
        module: The module.
        loss: Mean loss of a batch.
        batches: (images, labels) of each mini-batch.

    Returns:
        nan throughout if every gradient is 0.
    """
    ratios, squares = [], []
    for images, labels in batches:  # without a Hessian, whose flat vectors would take a third of the time
        _, parameters, gradients = _differentiable_gradient(module, loss, images, labels)
        directions = [gradient.detach() for gradient in gradients]
        square = sum(direction.square().sum().item() for direction in directions)
        if square != 0:
            products = torch.autograd.grad(gradients, parameters, directions, materialize_grads=True)
            ratios.append(sum((h * g).sum().item() for h, g in zip(products, directions, strict=True)) / square)
            squares.append(square)
    if not ratios:
        return BatchSharpness(float("nan"), float("nan"), float("nan"))
    error = np.std(ratios, ddof=1) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan")
    return BatchSharpness(float(np.mean(ratios)), float(error), float(np.average(ratios, weights=squares)))


def random_batches(
    images: Tensor, labels: Tensor, batch_size: int, count: int, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Draws `count` mini-batches, each without repetition, of `batch_size` of the images, or of all if there are fewer."""
    chosen = [torch.randperm(len(labels), generator=generator)[:batch_size].to(labels.device) for _ in range(count)]
    return [(images[indices], labels[indices]) for indices in chosen]
