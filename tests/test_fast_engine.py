"""The fast engine is the same SGD as autograd and `torch.optim.SGD`, to rounding."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_mnist import fast_engine
from lit_mnist.datasets.files import load
from lit_mnist.engines.fast import FastEngine
from lit_mnist.engines.products import OneDnnProducts, TorchProducts
from lit_mnist.mlp import MLP


@pytest.fixture(params=[TorchProducts, OneDnnProducts])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of product in turn, in float32, whatever this machine would choose."""
    try:
        forced = request.param()
    except (AttributeError, RuntimeError):
        pytest.skip("this build of torch does not offer oneDNN's products")
    other = TorchProducts()
    monkeypatch.setattr(fast_engine, "products_for", lambda tensor: forced if tensor.dtype == torch.float32 else other)


def synthetic(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Images (count, 784) with most pixels black, as in MNIST, and labels that can be learnt from them."""
    draw = torch.Generator().manual_seed(7)
    images = torch.rand(count, 784, generator=draw, dtype=dtype)
    images *= torch.rand(count, 784, generator=draw) < 0.2
    labels = (images @ torch.randn(784, 10, generator=draw, dtype=dtype)).argmax(1)
    return images, labels


def reference(mlp: MLP, lr: float, images: Tensor, labels: Tensor, batch_size: int) -> list[Tensor]:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=lr)
    losses = []
    for x, y in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
        loss = nn.functional.cross_entropy(mlp(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
    return losses


def twins(hidden: tuple[int, ...], dtype: torch.dtype) -> tuple[MLP, MLP]:
    torch.manual_seed(1)
    mlp = MLP(hidden).to(dtype)
    return mlp, copy.deepcopy(mlp)


def farthest(one: nn.Module, other: nn.Module) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one.parameters(), other.parameters(), strict=True))


def distance_from_switching(mlp: MLP, images: Tensor) -> Tensor:
    """How near each image (N, 784) brings a hidden neuron to 0, before its ReLU: (N,)."""
    activation, nearest = images, torch.full((len(images),), torch.inf, dtype=images.dtype)
    for layer in list(mlp.layers)[:-1]:
        before = layer(activation)
        nearest, activation = nearest.minimum(before.abs().amin(1)), before.relu()
    return nearest


@cache
def without_switching(hidden: tuple[int, ...], batch_size: int) -> tuple[Tensor, Tensor]:
    """200 batches that bring no neuron so near to 0, while they train the first twin, that rounding could switch it.

    A neuron that is on in one run and off in the other moves their float32 weights apart by up to 3e-3: with the same
    code, and only on some processors.
    """
    mlp = twins(hidden, torch.float32)[0].double()
    candidates = 2 * batch_size + 6
    chosen = []
    for images, labels in zip(*(torch.split(one, candidates) for one in synthetic(200 * candidates)), strict=True):
        with torch.no_grad():
            clear = distance_from_switching(mlp, images.double()) > 2e-5
        batch, classes = images[clear][:batch_size], labels[clear][:batch_size]
        reference(mlp, 0.1, batch.double(), classes, batch_size)
        chosen.append((batch, classes))
    return torch.cat([batch for batch, _ in chosen]), torch.cat([classes for _, classes in chosen])


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("batch_size", [1, 8, 32, 128])
@pytest.mark.parametrize("hidden", [(64, 32), (512, 256)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
def test_200_steps_equal_autograd_with_torch_sgd(
    batch_size: int, hidden: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    images, labels = without_switching(hidden, batch_size)
    images = images.to(dtype)
    expected, trained = (mlp.to(dtype) for mlp in twins(hidden, torch.float32))
    expected_losses = torch.stack(reference(expected, 0.1, images, labels, batch_size))
    losses = torch.cat(list(FastEngine(trained, 0.1).train(images, labels, batch_size)))
    assert losses.shape == (200,)
    assert (losses - expected_losses).abs().max() <= tolerance
    assert farthest(expected, trained) <= tolerance


@pytest.mark.parametrize("hidden", [(), (16,), (512, 256), (7, 5, 3)])
def test_every_width_and_depth_with_a_ragged_last_batch(hidden: tuple[int, ...]) -> None:
    expected, trained = twins(hidden, torch.float64)
    images, labels = synthetic(300, torch.float64)
    expected_losses = reference(expected, 0.5, images, labels, 32)
    losses = torch.cat(list(FastEngine(trained, 0.5).train(images, labels, 32)))
    assert len(losses) == 10
    torch.testing.assert_close(losses, torch.stack(expected_losses), rtol=0, atol=1e-13)
    assert farthest(expected, trained) <= 1e-13


def test_each_parameter_moves_by_minus_lr_times_its_autograd_gradient() -> None:
    differentiated, trained = twins((20, 12), torch.float64)
    before = [parameter.detach().clone() for parameter in trained.parameters()]
    images, labels = synthetic(9, torch.float64)
    torch.autograd.backward(nn.functional.cross_entropy(differentiated(images), labels))
    list(FastEngine(trained, 0.25).train(images, labels, 9))
    for start, after, twin in zip(before, trained.parameters(), differentiated.parameters(), strict=True):
        assert twin.grad is not None
        torch.testing.assert_close((start - after.detach()) / 0.25, twin.grad, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("products")
def test_20_epochs_of_mnist_end_in_the_accuracy_of_autograd_within_seed_noise(root: Path) -> None:
    pictures, classes = load("MNIST", root, "train")
    images, labels = pictures[:3000].flatten(1).float() / 255, classes[:3000]
    unseen, unseen_labels = pictures[-10000:].flatten(1).float() / 255, classes[-10000:]
    expected, trained = twins((512, 256), torch.float32)
    draw, engine = torch.Generator().manual_seed(1), FastEngine(trained, 0.1)
    for _ in range(20):
        order = torch.randperm(3000, generator=draw)
        reference(expected, 0.1, images[order], labels[order], 32)
        list(engine.train(images[order], labels[order], 32))
    with torch.no_grad():
        by_autograd, by_engine = (
            (mlp(unseen).argmax(1) == unseen_labels).double().mean().item() for mlp in (expected, trained)
        )
    assert by_autograd > 0.9
    assert abs(by_autograd - by_engine) < 0.005  # five seeds spread over 0.0024


@pytest.mark.usefixtures("products")
def test_the_same_inputs_give_the_same_bits() -> None:
    one, other = twins((512, 256), torch.float32)
    images, labels = synthetic(1000, torch.float32)
    for mlp in (one, other):
        list(FastEngine(mlp, 0.1).train(images, labels, 8))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("batch_size", [8, 32, 128])
def test_stopped_at_a_yield_and_continued_gives_the_bits_of_not_stopping(batch_size: int) -> None:
    one, other = twins((512, 256), torch.float32)
    images, labels = synthetic(2500, torch.float32)
    images *= torch.rand(images.shape) < 0.01  # so that some pixels are black in one span and not in the next
    list(FastEngine(one, 0.1).train(images, labels, batch_size))
    done = len(next(FastEngine(other, 0.1).train(images, labels, batch_size))) * batch_size
    list(FastEngine(other, 0.1).train(images[done:], labels[done:], batch_size))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_is_yielded_can_be_used_with_autograd() -> None:
    mlp, _ = twins((16,), torch.float32)
    images, labels = synthetic(100, torch.float32)
    (losses,) = FastEngine(mlp, 0.1).train(images, labels, 32)
    assert not losses.is_inference()
    mlp(images).sum().backward()


def test_stopped_between_yields_the_weights_hold_exactly_the_steps_reported() -> None:
    expected, trained = twins((16,), torch.float64)
    images, labels = synthetic(3000, torch.float64)
    losses = next(FastEngine(trained, 0.1).train(images, labels, 8))
    done = 8 * len(losses)
    assert 0 < done < 3000
    reference(expected, 0.1, images[:done], labels[:done], 8)
    assert farthest(expected, trained) <= 1e-12


def test_a_diverging_run_reports_non_finite_losses() -> None:
    mlp, _ = twins((16,), torch.float32)
    images, labels = synthetic(640, torch.float32)
    losses = torch.cat(list(FastEngine(mlp, 1e30).train(images, labels, 8)))
    assert not losses.isfinite().all()


def test_a_pixel_that_is_never_positive_still_counts() -> None:
    expected, trained = twins((16,), torch.float64)
    images, labels = synthetic(64, torch.float64)
    reference(expected, 0.1, -images, labels, 8)
    list(FastEngine(trained, 0.1).train(-images, labels, 8))
    assert farthest(expected, trained) <= 1e-13


class Wider(MLP):
    pass


def refused() -> list[tuple[str, nn.Module]]:
    frozen, mixed, replaced, half, bias_free = (MLP((4,)) for _ in range(5))
    frozen.layers[0].weight.requires_grad_(False)
    mixed.layers[0].double()
    replaced.layers[0] = nn.Sequential(nn.Linear(784, 4))
    bias_free.layers[0] = nn.Linear(784, 4, bias=False)
    return [
        ("not of Wider", Wider((4,))),
        ("not of Linear", nn.Linear(784, 10)),
        ("frozen", frozen),
        ("dtype", mixed),
        ("replaced", replaced),
        ("replaced", bias_free),
        ("not torch.float16", half.half()),
    ]


@pytest.mark.parametrize(("reason", "model"), refused())
def test_refuses_a_network_whose_gradient_it_does_not_know(reason: str, model: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"engine fast: .*{reason}.*; use the exact engine"):
        FastEngine(model, 0.1)
