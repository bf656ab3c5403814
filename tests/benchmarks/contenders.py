"""What lit_mnist is measured against: ways to train the same network by the same SGD, one epoch at a time."""

import gzip
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

import lit_mnist.datasets
from lit_mnist import LitMLP, MNISTDataModule
from lit_mnist.datasets.registry import MNIST
from lit_mnist.engines.fast import FastEngine
from lit_mnist.mlp import MLP

LR = 0.1

Epoch = Callable[[], float]
"""Trains for one epoch and returns its seconds."""


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

    def run() -> float:
        running_loss = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        return running_loss / len(loader)

    return timed(run)


def plain_loop(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """The fewest lines that train: tensors in memory, autograd, `torch.optim.SGD`, the loss kept a tensor."""
    model = MLP(MNIST.image_shape, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def run() -> Tensor:
        running_loss = torch.zeros(())
        for rows in torch.split(torch.randperm(len(images)), batch_size):
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            running_loss += loss.detach()
        return running_loss

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


class UsualModule(pl.LightningModule):
    """A LightningModule as the tutorials write it: loss and accuracy logged at each step and each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = MLP(MNIST.image_shape, 10)
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=10)
        self.seconds = 0.0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.mlp(x)
        loss = F.cross_entropy(logits, y)
        self.accuracy(logits, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_accuracy", self.accuracy, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR)

    def on_train_epoch_start(self) -> None:
        self.seconds = -time.perf_counter()

    def on_train_epoch_end(self) -> None:
        self.seconds += time.perf_counter()


def usual_lightning(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """`UsualModule` under a Trainer with its defaults: progress bar, logger and checkpoint on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch_size, shuffle=True)
    module = UsualModule()

    def epoch() -> float:
        with tempfile.TemporaryDirectory() as folder:
            pl.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder).fit(module, loader)
        return module.seconds

    return epoch


class Timed(pl.Callback):
    """Times the training of an epoch."""

    seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = -time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds += time.perf_counter()


def plain_trainer(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """`LitMLP` on its data module under a Trainer with its defaults, one SGD step per `training_step`."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    module, data = LitMLP(lr=LR), MNISTDataModule(batch_size, train_size=len(images))

    def epoch() -> float:
        timer = Timed()
        with tempfile.TemporaryDirectory() as folder:
            pl.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, callbacks=[timer]).fit(module, datamodule=data)
        return timer.seconds

    return epoch


def fast_engine(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """The fast engine by itself: an epoch in blocks of 4,096 images."""
    engine = FastEngine(MLP(MNIST.image_shape, 10), LR, torch.get_num_threads())
    block = max(1, 4096 // batch_size) * batch_size

    def run() -> None:
        for rows in torch.randperm(len(images)).split(block):
            engine.steps(images.index_select(0, rows), labels.index_select(0, rows), batch_size)

    return timed(run)


def scikit_learn(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """scikit-learn's `MLPClassifier` with plain SGD, an epoch per `partial_fit`."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((512, 256), solver="sgd", alpha=0, batch_size=batch_size, learning_rate_init=LR, momentum=0)
    x, y = images.numpy(), labels.numpy()
    return timed(lambda: model.partial_fit(x, y, classes=range(10)))


TORCH: dict[str, Callable[[Tensor, Tensor, int], Epoch]] = {
    "notebook loop": notebook_loop,
    "plain tensor loop": plain_loop,
    "Lightning as usual": usual_lightning,
    "LitMLP in a plain Trainer": plain_trainer,
    "fast engine alone": fast_engine,
    "scikit-learn": scikit_learn,
    "eight bare products": eight_products,
}
