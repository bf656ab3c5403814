"""The fast engine is the same SGD as autograd and `torch.optim.SGD`, to rounding, and refuses what it cannot train."""

import copy
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from lit_mnist.datasets.files import load
from lit_mnist.datasets.registry import MNIST
from lit_mnist.engines.fast import FastEngine
from lit_mnist.mlp import MLP

pytest.importorskip("numba")
DOUBLE, SINGLE = torch.float64, torch.float32


def sparse(count: int, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    """Images (count, 784), four fifths black as those of MNIST, every tenth all black, and labels to be learnt."""
    draw = torch.Generator().manual_seed(7)
    images = torch.rand(count, 784, generator=draw, dtype=dtype) * (torch.rand(count, 784, generator=draw) < 0.2)
    images[::10] = 0
    return images, (images @ torch.randn(784, 10, generator=draw, dtype=dtype)).argmax(1)


def dense(count: int, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    """Noise of both signs with mean 0, and labels to be learnt."""
    draw = torch.Generator().manual_seed(8)
    images = torch.randn(count, 784, generator=draw, dtype=dtype) / 4
    return images, (images @ torch.randn(784, 10, generator=draw, dtype=dtype)).argmax(1)


def by_autograd(mlp: nn.Module, lr: float, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=lr)
    losses = []
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        loss = F.cross_entropy(mlp(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def twins(hidden: tuple[int, ...], dtype: torch.dtype = DOUBLE) -> tuple[MLP, MLP]:
    torch.manual_seed(1)
    mlp = MLP(MNIST.image_shape, 10, hidden).to(dtype)
    return mlp, copy.deepcopy(mlp)


def farthest(one: nn.Module, other: nn.Module) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "hidden", "batch_size"), [(sparse, (), 1), (sparse, (16,), 64), (sparse, (64, 32), 8), (dense, (7, 5, 3), 13)]
)
def test_200_steps_and_a_ragged_one_equal_autograd_in_float64(
    make: Callable[[int], tuple[Tensor, Tensor]], hidden: tuple[int, ...], batch_size: int
) -> None:
    expected, trained = twins(hidden)
    images, labels = make(200 * batch_size + (batch_size + 1) // 2)
    expected_losses = by_autograd(expected, 0.1, images, labels, batch_size)
    engine, half = FastEngine(trained, 0.1), 100 * batch_size
    first = engine.steps(images[:half].view(-1, 1, 28, 28), labels[:half], batch_size)
    losses = torch.cat([first, engine.steps(images[half:], labels[half:], batch_size)])
    torch.testing.assert_close(losses, expected_losses, rtol=0, atol=1e-10)
    assert farthest(expected, trained) <= 1e-10


@pytest.mark.parametrize("batch_size", [8, 32, 128])
def test_steps_of_the_published_network_equal_autograd_in_float32(batch_size: int) -> None:
    expected, trained = twins((512, 256), SINGLE)
    images, labels = sparse(10 * batch_size, SINGLE)  # more steps: rounding switches a neuron in one of the two
    expected_losses = by_autograd(expected, 0.1, images, labels, batch_size)
    losses = FastEngine(trained, 0.1).steps(images, labels, batch_size)
    assert losses.dtype == SINGLE
    assert not losses.requires_grad
    torch.testing.assert_close(losses, expected_losses, rtol=0, atol=5e-6)
    assert farthest(expected, trained) <= 5e-6


def test_two_epochs_of_mnist_end_in_the_accuracy_of_autograd() -> None:
    pictures, classes = load("MNIST").train
    images, labels = pictures[:8000].flatten(1).float() / 255, classes[:8000]
    expected, trained = twins((512, 256), SINGLE)
    engine = FastEngine(trained, 0.1)
    for _ in range(2):
        by_autograd(expected, 0.1, images[:4000], labels[:4000], 32)
        engine.steps(images[:4000], labels[:4000], 32)
    accuracies = [(mlp(images[4000:]).argmax(1) == labels[4000:]).double().mean().item() for mlp in (expected, trained)]
    assert accuracies[0] > 0.85
    assert abs(accuracies[0] - accuracies[1]) < 0.005


@pytest.mark.parametrize("batch_size", [8, 128])
def test_two_threads_train_to_the_bits_of_one(batch_size: int) -> None:
    one, other = twins((64, 32), SINGLE)
    images, labels = sparse(1000, SINGLE)
    losses = FastEngine(one, 0.1, threads=1).steps(images, labels, batch_size)
    assert torch.equal(losses, FastEngine(other, 0.1, threads=2).steps(images, labels, batch_size))
    assert farthest(one, other) == 0


def _train_in_child(threads: int) -> float:
    images, labels = sparse(500, SINGLE)
    return float(FastEngine(twins((64, 32), SINGLE)[0], 0.1, threads).steps(images, labels, 8).mean())


def test_children_forked_from_a_server_train_with_threads_of_their_own() -> None:
    """`forkserver` imports this file once, as the server of a study does, and forks each child."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lit_mnist.engines.fast"])
    with context.Pool(2) as pool:
        one, two = pool.map(_train_in_child, [1, 2], chunksize=1)
    assert one == two


@pytest.mark.parametrize("lr", [1e5, 1e30, 1e38])
def test_a_diverging_run_is_noticed_in_the_block_in_which_autograd_notices_it(
    lr: float,
) -> None:
    expected, trained = twins((64, 32), SINGLE)
    images, labels = sparse(1024, SINGLE)
    engine = FastEngine(trained, lr)
    for x, y in zip(images.split(64), labels.split(64), strict=True):
        finite = by_autograd(expected, lr, x, y, 8).isfinite().all()
        assert engine.steps(x, y, 8).isfinite().all() == finite
        if not finite:
            break


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["pixel", "layers.0.weight", "layers.1.bias", "layers.2.weight"])
def test_a_number_that_is_not_finite_is_not_hidden_by_the_zeros(where: str, bad: float) -> None:
    mlp, _ = twins((64, 32), SINGLE)
    images, labels = sparse(64, SINGLE)
    engine = FastEngine(mlp, 0.1)
    assert engine.steps(images, labels, 8).isfinite().all()
    with torch.no_grad():
        images[:, 5] = 0
        if where == "pixel":
            images[20, 5] = bad
        else:
            parameters = dict(mlp.named_parameters())
            parameters[where].view(-1)[5] = bad  # of the first weight, that of a pixel which is black in every image
    losses = engine.steps(images, labels, 8)
    assert not losses.isfinite().all()
    assert where != "pixel" or not losses[20 // 8].isfinite()  # a ReLU keeps NaN


class Wider(MLP):
    pass


def refused() -> list[tuple[str, nn.Module]]:
    frozen, mixed, replaced, half, bare, shared, pruned, more = (MLP(MNIST.image_shape, 10, (10, 10)) for _ in range(8))
    frozen.layers[0].weight.requires_grad_(False)
    mixed.layers[0].double()
    replaced.layers[0] = nn.Sequential(nn.Linear(784, 10))
    bare.layers[0] = nn.Linear(784, 10, bias=False)
    shared.layers[2] = shared.layers[1]
    prune.l1_unstructured(pruned.layers[0], "weight", 0.5)
    more.scale = nn.Parameter(torch.ones(1))
    return [
        ("not of Wider", Wider(MNIST.image_shape, 10, (4,))),
        ("not of Linear", nn.Linear(784, 10)),
        ("frozen", frozen),
        ("dtype", mixed),
        ("dtype", half.half()),
        *[("other than the weights", mlp) for mlp in (replaced, bare, pruned, more)],
        ("shared", shared),
        ("for CPUs", MLP(MNIST.image_shape, 10, (4,)).to("meta")),
    ]


@pytest.mark.parametrize(("reason", "model"), refused())
def test_refuses_a_network_whose_gradient_it_does_not_know(reason: str, model: nn.Module) -> None:
    with pytest.raises(ValueError, match=rf"engine fast: .*{reason}.*; use --engine exact\."):
        FastEngine(model, 0.1)


def test_refuses_a_network_whose_forward_was_edited_and_leaves_it_as_it_was() -> None:
    mlp, untouched = twins((16,), SINGLE)
    forward = mlp.forward
    mlp.forward = lambda images: F.dropout(forward(images), 0.5)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"computes more than its layers.*; use --engine exact\."):
        FastEngine(mlp, 0.1).steps(*sparse(64, SINGLE), 8)
    assert farthest(mlp, untouched) == 0


def test_without_numba_a_sentence_says_what_it_gains_and_how_to_get_it() -> None:
    code = "import sys; sys.modules['numba'] = None; import lit_mnist.engines.fast as f; f.FastEngine(f.MLP((28, 28), 10), 0.1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (
        "ValueError: engine fast: it takes about half the time, and needs numba: pip install 'lit_mnist[fast]'" in done.stderr
    )


def test_without_a_folder_for_compiled_code_the_steps_are_compiled_all_the_same() -> None:
    code = "from lit_mnist.engines.loops import compiled_steps; print(compiled_steps(1).stats.cache_path)"
    refused_to_numba = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": "/dev/null/x"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, **refused_to_numba})
    assert done.stdout == "None\n", done.stderr
