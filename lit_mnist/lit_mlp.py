"""The LightningModule: the loss, the metrics, plain SGD, and what is logged."""

from collections.abc import Sequence
from math import nan
from operator import index
from typing import Any, cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lit_mnist.datasets.loaders import Batch
from lit_mnist.datasets.registry import MNIST
from lit_mnist.mlp import MLP
from lit_mnist.record.result import LARGEST_LR, SMALLEST_LR


class LitMLP(pl.LightningModule):
    """An MLP trained with cross-entropy and plain SGD: no momentum, no weight decay, no schedule.

    Logs `train/loss_step` (nats, of a mini-batch), `train/loss` (nats, the mean of the epoch's mini-batch losses), and
    `val/loss`, `val/accuracy`, `test/loss` and `test/accuracy` (nats; fraction), which count every image once.

    Args:
        lr: Learning rate of SGD, above 1e-39 and at most 1e39.
        hidden: Width of each hidden layer in units, input side first.
        image_shape: Height and width of an image in pixels.
        classes: Number of classes.
        seed: Seed of the initial weights; None draws them from the global random state.

    Raises:
        ValueError: An argument is out of range.
    """

    # TorchScript has no Trainer, and reads the names as Lightning gives them, from the class
    __jit_unused_properties__ = [*pl.LightningModule.__jit_unused_properties__, "epoch_loss"]  # noqa: RUF012

    def __init__(
        self,
        lr: float = 0.1,
        hidden: Sequence[int] = (512, 256),
        image_shape: Sequence[int] = MNIST.image_shape,
        classes: int = len(MNIST.classes),
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not SMALLEST_LR < lr <= LARGEST_LR:
            raise ValueError(f"lr must be above 0 and finite in float32, {SMALLEST_LR:g} to {LARGEST_LR:g}, not {lr}.")
        # plain values: NumPy's and tuples could not be loaded again from a checkpoint that holds only plain ones
        lr, classes, seed = float(lr), index(classes), None if seed is None else index(seed)
        hidden, image_shape = list(map(index, hidden)), list(map(index, image_shape))
        self.save_hyperparameters()
        self.lr = lr
        # seeded weights leave the global state alone, and are the same on whatever device tensors are made by default
        with torch.random.fork_rng(devices=[], enabled=seed is not None), torch.device("cpu"):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
            self.mlp = MLP(image_shape, classes, hidden)
        self.val_loss, self.test_loss = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")
        self.val_accuracy = MulticlassAccuracy(classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits (N, classes) of images as `MLP.forward` takes them."""
        logits: Tensor = self.mlp(images)
        return logits

    def batch_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Computes what SGD minimises, the mean cross-entropy of a mini-batch in nats; override it for another loss."""
        return F.cross_entropy(self(images), labels)

    @property
    def epoch_loss(self) -> float:
        """The training loss of the epoch that ended last, in nats; nan before the first."""
        return float(self.trainer.callback_metrics.get("train/loss", nan))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | dict[str, Tensor]:
        images, labels = batch
        loss = self.batch_loss(images, labels)
        self.log("train/loss_step", loss, prog_bar=True)
        # batch_size 1 weights all mini-batches alike, the smaller last one included
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch, self.val_loss, self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch, self.test_loss, self.test_accuracy)

    def _evaluate(self, split: str, batch: Batch, loss: MeanMetric, accuracy: MulticlassAccuracy) -> None:
        images, labels = batch
        logits = self(images).float()  # metrics in float32, whatever the network computes in
        loss(F.cross_entropy(logits, labels, reduction="none"))
        accuracy(logits, labels)
        self.log(f"{split}/loss", loss, on_epoch=True)  # metric objects count every image once, on several devices too
        self.log(f"{split}/accuracy", accuracy, on_epoch=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Computes probabilities (N, classes) of a batch with or without labels."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return cast(Tensor, self(images).softmax(1))

    def configure_optimizers(self) -> Any:
        """Returns plain SGD; override it for another optimizer."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)
