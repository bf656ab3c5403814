"""A plain LightningModule of the same network, loss and optimizer, with which LitMLP is compared."""

from functools import cache
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lit_mnist import MLP, MNISTDataModule
from lit_mnist.datasets.files import DataSet, load

Batch = tuple[Tensor, Tensor]


@cache
def _mnist() -> DataSet:
    return load("MNIST")


def read_once(module: MNISTDataModule) -> MNISTDataModule:
    """Spares a data module the reading of its files."""
    module._data = _mnist()
    return module


class Control(pl.LightningModule):
    def __init__(self, lr: float = 0.1, hidden: tuple[int, ...] = (16,), seed: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        if seed is not None:
            torch.manual_seed(seed)
        self.mlp = MLP((28, 28), 10, hidden)
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.val_accuracy = MulticlassAccuracy(10, average="micro")
        self.test_accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, images: Tensor) -> Any:
        return self.mlp(images)

    def batch_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self(images), labels)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.batch_loss(*batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def _evaluate(self, split: str, batch: Batch) -> None:
        images, labels = batch
        logits = self(images).float()
        accuracy = self.val_accuracy if split == "val" else self.test_accuracy
        loss = self.val_loss if split == "val" else self.test_loss
        loss(F.cross_entropy(logits, labels, reduction="none"))
        accuracy(logits, labels)
        self.log(f"{split}/loss", loss, on_epoch=True)
        self.log(f"{split}/accuracy", accuracy, on_epoch=True, batch_size=len(labels))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        return self(batch[0]).softmax(1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)
