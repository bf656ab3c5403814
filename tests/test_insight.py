"""Curvature, gradient noise and units, each against an independent computation, on real MNIST."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from lit_mnist.datasets.files import load
from lit_mnist.insight.activations import relu_units, weight_norms
from lit_mnist.insight.curvature import Hessian, batch_sharpness
from lit_mnist.insight.noise import gradient_noise_scale, squared_gradient_norms
from lit_mnist.mlp import MLP

Batch = tuple[Tensor, Tensor]
# torch's own jvp and a dependency of curvlinops do
USES_TORCHSCRIPT = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def cross_entropy(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(module(images), labels)


@pytest.fixture(scope="module")
def mnist() -> Batch:
    """2,000 images, float32 in [0, 1]."""
    images, labels = load("MNIST").train
    return images[:2000].unsqueeze(1).float() / 255, labels[:2000]


def trained(module: nn.Module, batch: Batch, steps: int = 100, lr: float = 0.1) -> nn.Module:
    """The module after a few SGD steps, where curvature and noise are no longer those of random weights."""
    images, labels = (tensor.split(32) for tensor in batch)
    for step in range(steps):
        loss = cross_entropy(module, images[step % 62].to(next(module.parameters()).dtype), labels[step % 62])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter.sub_(lr * gradient)
    return module


@pytest.fixture(scope="module")
def mlp(mnist: Batch) -> nn.Module:
    torch.manual_seed(0)
    return trained(MLP((28, 28), 10, (512, 256)), mnist)


def small(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return MLP((28, 28), 10, (12, 8)).to(dtype)


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 5, stride=3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers).double()


def doubled(batch: Batch, count: int) -> Batch:
    return batch[0][:count].double(), batch[1][:count]


@USES_TORCHSCRIPT
@pytest.mark.parametrize("make", [small, convolutional])
def test_hessian_vector_product_is_that_of_forward_over_reverse_differentiation(
    make: Callable[[], nn.Module], mnist: Batch
) -> None:
    module, (images, labels) = trained(make(), mnist), doubled(mnist, 50)
    hessian = Hessian(module, cross_entropy, images, labels)
    vector = torch.randn(len(hessian.gradient), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    parts = vector.split([parameter.numel() for parameter in parameters.values()])
    tangents = {name: part.view_as(parameters[name]) for name, part in zip(parameters, parts, strict=True)}

    def loss(values: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(module, values, (images,)), labels)

    gradient, product = torch.func.jvp(torch.func.grad(loss), (parameters,), (tangents,))[:2]
    expected = torch.cat([part.flatten() for part in product.values()])
    assert (hessian @ vector - expected).norm() < 1e-12 * expected.norm()
    assert torch.allclose(hessian.gradient, torch.cat([part.flatten() for part in gradient.values()]), rtol=1e-12, atol=1e-14)


def test_hessian_vector_product_is_the_finite_difference_of_the_gradient(mnist: Batch) -> None:
    module, batch = trained(small(), mnist), doubled(mnist, 50)
    hessian = Hessian(module, cross_entropy, *batch)
    vector = torch.randn(len(hessian.gradient), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-6 * vector / vector.norm()  # switches no unit
    start = nn.utils.parameters_to_vector(module.parameters()).detach()
    gradients = []
    for sign in (1, -1):
        nn.utils.vector_to_parameters(start + sign * step, module.parameters())
        gradients.append(Hessian(module, cross_entropy, *batch).gradient)
    difference = (gradients[0] - gradients[1]) / (2 * step.norm())
    product = hessian @ (vector / vector.norm())
    assert (product - difference).norm() < 1e-6 * product.norm()


def test_products_in_float32_are_those_in_float64_to_a_thousandth(mlp: nn.Module, mnist: Batch) -> None:
    single = Hessian(mlp, cross_entropy, mnist[0][:500], mnist[1][:500])
    precise = MLP((28, 28), 10, (512, 256)).double()
    precise.load_state_dict(mlp.state_dict())
    double = Hessian(precise, cross_entropy, *doubled(mnist, 500))
    expected = double @ double.gradient
    assert ((single @ single.gradient).double() - expected).norm() < 1e-3 * expected.norm()


@USES_TORCHSCRIPT
def test_sharpness_is_the_largest_eigenvalue_that_curvlinops_finds(mlp: nn.Module, mnist: Batch) -> None:
    from curvlinops import HessianLinearOperator

    batch = mnist[0][:500], mnist[1][:500]
    operator = HessianLinearOperator(mlp, nn.CrossEntropyLoss(), list(mlp.parameters()), [batch])
    expected = eigsh(operator.to_scipy(), k=1, which="LA", tol=1e-5, return_eigenvectors=False)[0]
    assert Hessian(mlp, cross_entropy, *batch).sharpness() == pytest.approx(expected, rel=0.005)


def test_sharpness_is_the_largest_eigenvalue_of_the_whole_matrix(mnist: Batch) -> None:
    torch.manual_seed(0)
    module = trained(MLP((28, 28), 10, (1,)).double(), mnist)
    hessian = Hessian(module, cross_entropy, *doubled(mnist, 200))
    matrix = torch.stack([hessian @ unit for unit in torch.eye(len(hessian.gradient), dtype=torch.float64)])
    assert torch.allclose(matrix, matrix.T, atol=1e-12)
    assert hessian.sharpness(tolerance=1e-6) == pytest.approx(torch.linalg.eigvalsh(matrix)[-1].item(), rel=1e-9)


def test_sharpness_of_a_network_without_gradient_is_still_found() -> None:
    module = nn.Linear(3, 2, bias=False).double()
    nn.init.zeros_(module.weight)
    images, labels = torch.eye(3, dtype=torch.float64).repeat(2, 1), torch.tensor([0, 0, 0, 1, 1, 1])
    hessian = Hessian(module, cross_entropy, images, labels)
    assert hessian.gradient.norm() < 1e-16
    assert hessian.sharpness() == pytest.approx(1 / 6, rel=0.005)  # x x' (p - p^2), twice


def test_real_sgd_steps_change_the_loss_as_gradient_and_curvature_predict(mnist: Batch) -> None:
    module, batch = trained(small(), mnist), doubled(mnist, 320)
    for images, labels in zip(*(tensor.split(32) for tensor in batch), strict=True):
        before = Hessian(module, cross_entropy, images, labels)
        square, lr = float(before.gradient @ before.gradient), 1e-4
        start = nn.utils.parameters_to_vector(module.parameters()).detach()
        nn.utils.vector_to_parameters(start - lr * before.gradient, module.parameters())
        change = cross_entropy(module, images, labels).item() - before.loss
        curvature = 2 * (change + lr * square) / (lr * lr * square)
        assert curvature == pytest.approx(before.curvature_along(before.gradient), rel=0.02)


def test_batch_sharpness_is_the_mean_of_the_curvatures_along_the_gradients(mnist: Batch) -> None:
    module, (images, labels) = trained(small(), mnist), doubled(mnist, 400)
    generator, ratios, numerators, squares = torch.Generator().manual_seed(3), [], [], []
    for _ in range(5):
        chosen, parameters = torch.randperm(400, generator=generator)[:8], list(module.parameters())
        gradients = torch.autograd.grad(cross_entropy(module, images[chosen], labels[chosen]), parameters, create_graph=True)
        squares.append(sum(g.square().sum().item() for g in gradients))
        product = torch.autograd.grad(gradients, parameters, [g.detach() for g in gradients])
        numerators.append(sum((h * g).sum().item() for h, g in zip(product, gradients, strict=True)))
        ratios.append(numerators[-1] / squares[-1])
    measured = batch_sharpness(module, cross_entropy, images, labels, batch_size=8, count=5, seed=3)
    assert measured == pytest.approx((np.mean(ratios), np.mean(numerators) / np.mean(squares)), rel=1e-9)


@pytest.mark.parametrize("make", [small, convolutional])
def test_noise_scale_is_that_of_a_loop_over_examples(make: Callable[[], nn.Module], mnist: Batch) -> None:
    module, (images, labels) = trained(make(), mnist), doubled(mnist, 100)
    gradients = torch.stack([Hessian(module, cross_entropy, images[i : i + 1], labels[i : i + 1]).gradient for i in range(100)])
    trace = gradients.var(0).sum().item()
    squared_gradient = gradients.mean(0).square().sum().item() - trace / 100
    assert torch.allclose(squared_gradient_norms(module, cross_entropy, images, labels), gradients.square().sum(1), rtol=1e-10)
    scale = gradient_noise_scale(module, cross_entropy, images, labels)
    assert scale == pytest.approx(trace / squared_gradient, rel=1e-9)


def test_noise_scale_in_float32_is_that_in_float64_to_a_hundred_thousandth(mnist: Batch) -> None:
    module = trained(small(torch.float32), mnist)
    single = gradient_noise_scale(module, cross_entropy, mnist[0][:500], mnist[1][:500])
    double = gradient_noise_scale(module.double(), cross_entropy, *doubled(mnist, 500))
    assert single == pytest.approx(double, rel=1e-5)


def test_layers_behind_an_in_place_relu_or_used_twice_have_exact_norms_too(mnist: Batch) -> None:
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    images, labels = doubled(mnist, 20)
    for middle in ([nn.Linear(6, 6)], [shared, nn.ReLU(), shared]):
        layers = [nn.Flatten(), nn.Linear(784, 6), nn.ReLU(inplace=True), *middle, nn.ReLU(inplace=True), nn.Linear(6, 10)]
        module = nn.Sequential(*layers).double()
        loop = [Hessian(module, cross_entropy, images[i : i + 1], labels[i : i + 1]).gradient.square().sum() for i in range(20)]
        assert torch.allclose(squared_gradient_norms(module, cross_entropy, images, labels), torch.stack(loop), rtol=1e-10)


def test_units_are_counted_in_every_relu_however_it_is_written(mnist: Batch) -> None:
    module, (images, labels) = small(), doubled(mnist, 200)
    with torch.no_grad():
        module.layers[0].bias[:3] = -100.0  # type: ignore[index,union-attr] # three dead units of twelve
    hidden = module.layers[0](images.flatten(1))  # type: ignore[index,operator]
    first, second = relu_units(module, cross_entropy, images, labels)
    assert first.dead == pytest.approx(((hidden > 0).sum(0) == 0).double().mean().item())
    assert first.dead >= 0.25
    assert first.active == pytest.approx((hidden > 0).double().mean().item())
    assert 0 < second.active < 1

    network = convolutional()
    (channels,) = relu_units(network, cross_entropy, images, labels)
    maps = network[0](images)  # type: ignore[index]
    assert channels.active == pytest.approx((maps > 0).double().mean().item())
    assert channels.dead == pytest.approx((maps.amax((0, 2, 3)) <= 0).double().mean().item())


def test_parameters_that_the_loss_does_not_use_have_no_curvature(mnist: Batch) -> None:
    module, batch = trained(small(), mnist), doubled(mnist, 50)
    expected = Hessian(module, cross_entropy, *batch).sharpness()
    module.unused = nn.Linear(3, 3).double()
    assert Hessian(module, cross_entropy, *batch).sharpness() == pytest.approx(expected, rel=1e-3)
    assert batch_sharpness(module, cross_entropy, *batch, batch_size=50, count=1)[0] < expected


def test_measuring_leaves_gradients_weights_and_random_state_alone(mlp: nn.Module, mnist: Batch) -> None:
    batch = mnist[0][:64], mnist[1][:64]
    weights, state = [parameter.clone() for parameter in mlp.parameters()], torch.get_rng_state()
    Hessian(mlp, cross_entropy, *batch).sharpness()
    gradient_noise_scale(mlp, cross_entropy, *batch)
    relu_units(mlp, cross_entropy, *batch)
    assert weight_norms(mlp).keys() == {f"layers.{number}.weight" for number in range(3)}
    assert all(parameter.grad is None for parameter in mlp.parameters())
    assert all(torch.equal(*pair) for pair in zip(weights, mlp.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
