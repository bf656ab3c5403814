"""What is measured on images: mean loss and accuracy, every image counted once."""

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lit_mnist.mlp import CLASSES


class Measures(MetricCollection):
    """Mean cross-entropy (nats) and accuracy (fraction) over all images, however they are batched and shared among processes.

    Args:
        prefix: Of the two names, such as `val/`.
    """

    def __init__(self, prefix: str | None = None) -> None:
        loss, accuracy = MeanMetric(nan_strategy="disable"), MulticlassAccuracy(CLASSES, average="micro")
        super().__init__({"loss": loss, "accuracy": accuracy}, prefix=prefix)

    def measure(self, logits: Tensor, labels: Tensor) -> None:
        """Adds logits (n, 10) and labels (n,) to what has been measured; in float32, whatever the network computes in."""
        logits = logits.float()
        self["loss"].update(F.cross_entropy(logits, labels, reduction="none"))
        self["accuracy"].update(logits, labels)
