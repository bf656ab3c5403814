"""What lit_mnist is measured against: ways to train the same network by the same SGD, one epoch at a time."""

import gzip
import importlib
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

import lit_mnist.datasets
from lit_mnist import LitMLP, MNISTDataModule
from lit_mnist.datasets.files import load
from lit_mnist.datasets.registry import MNIST
from lit_mnist.engines import Engine, ExactEngine
from lit_mnist.engines.blocks import IMAGES_PER_BLOCK, in_blocks
from lit_mnist.engines.fast import FastEngine
from lit_mnist.mlp import MLP

LR = 0.1
WIDTHS = (784, 512, 256, 10)

Epoch = Callable[[], float]
"""Trains for one epoch and returns its seconds."""


def pictures_and_labels(count: int) -> tuple[Tensor, Tensor]:
    """The first training images of MNIST, float32 (count, 784) in [0, 1], and their labels."""
    pictures, labels = load("MNIST").train
    return pictures[:count].flatten(1).float() / 255, labels[:count]


def timed(run: Callable[[], object]) -> Epoch:
    def epoch() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return epoch


def notebook_loop(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """The loop of most tutorials: torchvision's `MNIST`, `ToTensor`, a `DataLoader`, `loss.item()` per step."""
    from torchvision import datasets, transforms  # type: ignore[import-untyped]

    folder = tempfile.TemporaryDirectory()  # kept as long as the process
    raw = Path(folder.name, "MNIST", "raw")
    raw.mkdir(parents=True)
    for packed in (Path(lit_mnist.datasets.__file__).parent / "mnist").glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    files = datasets.MNIST(folder.name, train=True, transform=transforms.ToTensor())
    loader = DataLoader(Subset(files, range(len(images))), batch_size=batch_size, shuffle=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def run() -> None:
        running_loss = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()

    return timed(run)


def plain_loop(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """The fewest lines that train: tensors in memory, autograd, `torch.optim.SGD`, the loss kept a tensor."""
    model = MLP(MNIST.image_shape, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def run() -> None:
        running_loss = torch.zeros(())
        for rows in torch.split(torch.randperm(len(images)), batch_size):
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            running_loss += loss.detach()

    return timed(run)


def eight_products(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """Only the matrix products of a step, three forward and five backward, all on the same batch."""
    weights = [torch.rand(outputs, inputs) for outputs, inputs in ((512, 784), (256, 512), (10, 256))]
    inputs = [torch.rand(batch_size, weight.shape[1]) for weight in weights]
    deltas = [torch.zeros(batch_size, weight.shape[0]) for weight in weights]
    outputs = [torch.empty_like(delta) for delta in deltas]

    def run() -> None:
        for _ in range(0, len(images), batch_size):
            for weight, x, out in zip(weights, inputs, outputs, strict=True):
                torch.mm(x, weight.t(), out=out)
            for i in (2, 1):
                torch.mm(deltas[i], weights[i], out=outputs[i - 1])
            for weight, delta, x in zip(weights, deltas, inputs, strict=True):
                weight.addmm_(delta.t(), x, alpha=-LR)

    return timed(run)


class Timed(pl.Callback):
    """Times the training of an epoch."""

    seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = -time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds += time.perf_counter()


def plain_trainer(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """`LitMLP` on its data module under a Trainer with its defaults, one SGD step per `training_step`."""
    module, data = LitMLP(lr=LR), MNISTDataModule(batch_size, train_size=len(images))

    def epoch() -> float:
        timer = Timed()
        with tempfile.TemporaryDirectory() as folder:
            pl.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, callbacks=[timer]).fit(module, datamodule=data)
        return timer.seconds

    return epoch


def _in_blocks(engine: Engine, images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    block = max(1, IMAGES_PER_BLOCK // batch_size) * batch_size

    def run() -> None:
        for rows in torch.randperm(len(images)).split(block):
            engine.steps(images.index_select(0, rows), labels.index_select(0, rows), batch_size)

    return timed(run)


def fast_engine(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """The fast engine by itself, in the blocks of `fit`."""
    return _in_blocks(FastEngine(MLP(MNIST.image_shape, 10), LR, torch.get_num_threads()), images, labels, batch_size)


def exact_engine(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """The exact engine by itself, in the blocks of `fit`."""
    module = in_blocks(LitMLP(lr=LR))
    return _in_blocks(ExactEngine(module, module.configure_optimizers()), images, labels, batch_size)


def scikit_learn(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """scikit-learn's `MLPClassifier` with plain SGD, an epoch per `partial_fit`."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((512, 256), solver="sgd", alpha=0, batch_size=batch_size, learning_rate_init=LR, momentum=0)
    x, y = images.numpy(), labels.numpy()
    return timed(lambda: model.partial_fit(x, y, classes=range(10)))


def jax_scan(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """A whole epoch as one compiled `lax.scan` over the batches, parameters updated in place (donated)."""
    jax: Any = importlib.import_module("jax")
    jnp: Any = importlib.import_module("jax.numpy")
    data, classes = jnp.asarray(images.numpy()), jnp.asarray(labels.numpy())
    steps = len(images) // batch_size

    def initial(key: Any) -> list[tuple[Any, Any]]:
        layers = []
        for inputs, outputs in itertools.pairwise(WIDTHS):
            key, for_weight, for_bias = jax.random.split(key, 3)
            bound = inputs**-0.5
            weight = jax.random.uniform(for_weight, (inputs, outputs), minval=-bound, maxval=bound)
            layers.append((weight, jax.random.uniform(for_bias, (outputs,), minval=-bound, maxval=bound)))
        return layers

    def mean_loss(layers: Any, x: Any, y: Any) -> Any:
        for weight, bias in layers[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        log_probabilities = jax.nn.log_softmax(x @ layers[-1][0] + layers[-1][1])
        return -jnp.take_along_axis(log_probabilities, y[:, None], 1).mean()

    def step(layers: Any, rows: Any) -> tuple[Any, Any]:
        loss, gradients = jax.value_and_grad(mean_loss)(layers, data[rows], classes[rows])
        return jax.tree.map(lambda weight, gradient: weight - LR * gradient, layers, gradients), loss

    def whole_epoch(layers: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(images))[: steps * batch_size]
        return jax.lax.scan(step, layers, order.reshape(steps, batch_size))

    compiled = jax.jit(whole_epoch, donate_argnums=0)
    state: dict[str, Any] = {"layers": initial(jax.random.key(1)), "epoch": 0}

    def run() -> None:
        state["epoch"] += 1
        state["layers"], losses = compiled(state["layers"], jax.random.key(state["epoch"]))
        losses.block_until_ready()

    return timed(run)


def keras_fit(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """`Model.fit` on the JAX backend, otherwise as Keras sets it."""
    os.environ["KERAS_BACKEND"] = "jax"
    keras: Any = importlib.import_module("keras")
    layers = [keras.layers.Dense(width, activation="relu") for width in WIDTHS[1:-1]]
    model = keras.Sequential([keras.Input((WIDTHS[0],)), *layers, keras.layers.Dense(WIDTHS[-1])])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(LR), loss, metrics=["accuracy"])
    x, y = images.numpy(), labels.numpy()
    return timed(lambda: model.fit(x, y, batch_size=batch_size, epochs=1, verbose=0))


def share_of_nonzero_products(count: int, batch_size: int) -> float:
    """The share of a step's multiply-adds in which no factor is 0, after training on so many images, in 0..1."""
    images, labels = pictures_and_labels(count)
    mlp = MLP(MNIST.image_shape, 10)
    FastEngine(mlp, LR).steps(images, labels, batch_size)
    with torch.no_grad():
        values = [images]
        for layer in list(mlp.layers)[:-1]:
            values.append(layer(values[-1]).relu())
    on = [(value != 0).sum(1).double() for value in values]  # inputs of each layer, per image
    deltas = [*on[1:], torch.full((len(images),), float(WIDTHS[-1]))]  # a unit that is off passes no delta on
    pairs = list(itertools.pairwise(WIDTHS))
    layers = zip(on, deltas, pairs, strict=True)
    done = sum(float((lit * outputs + lit * above).sum()) for lit, above, (_, outputs) in layers)
    done += sum(float((lit * above).sum()) for lit, above in zip(on[1:], deltas[1:], strict=True))
    dense = 2 * sum(map(math.prod, pairs)) + sum(map(math.prod, pairs[1:]))
    return done / (dense * len(images))


CONTENDERS: dict[str, Callable[[Tensor, Tensor, int], Epoch]] = {
    "fast engine": fast_engine,
    "exact engine": exact_engine,
    "plain tensor loop": plain_loop,
    "LitMLP in a plain Trainer": plain_trainer,
    "notebook loop": notebook_loop,
    "scikit-learn": scikit_learn,
    "Keras": keras_fit,
    "JAX": jax_scan,
    "eight bare products": eight_products,
}
