"""What a network gets wrong: which classes it confuses, and the images of which it was surest in vain."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_mnist.mlp import CLASSES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def count_confusion(labels: Tensor, predictions: Tensor) -> Tensor:
    """How often each class was taken for each: (10, 10) int64, row the true class, column the predicted one.

    Args:
        labels: True classes (N,), integers in 0..9.
        predictions: Predicted classes (N,), integers in 0..9.
    """
    assert labels.shape == predictions.shape
    pairs = CLASSES * labels.long() + predictions.long()
    return torch.bincount(pairs.cpu(), minlength=CLASSES**2).view(CLASSES, CLASSES)


def draw_confusion(labels: Tensor, predictions: Tensor, classes: Sequence[str]) -> "Figure":
    """The confusion matrix. The right answers are counted but not coloured: they would hide everything else.

    Args:
        labels: True classes (N,), integers in 0..9.
        predictions: Predicted classes (N,), integers in 0..9.
        classes: The ten class names, by label.
    """
    from matplotlib.figure import Figure

    counts = count_confusion(labels, predictions)
    wrong = counts.clone().fill_diagonal_(0)
    total, right = int(counts.sum()), int(counts.trace())
    figure = Figure(figsize=(7, 6.4), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="true", title=f"{total - right:,} mistakes in {total:,} images")
    axes.imshow(wrong.numpy(), cmap="Blues", vmin=0, vmax=max(1, int(wrong.max())))
    names_are_long = _are_long(classes)
    axes.set_xticks(
        range(CLASSES),
        classes,
        rotation=45 if names_are_long else 0,
        ha="right" if names_are_long else "center",
    )
    axes.set_yticks(range(CLASSES), classes)
    dark = int(wrong.max()) / 2
    for row, line in enumerate(counts.tolist()):
        for column, count in enumerate(line):
            if count:
                color = "0.45" if row == column else "white" if count > dark else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=9)
    return figure


def draw_mistakes(images: Tensor, labels: Tensor, logits: Tensor, classes: Sequence[str], most: int = 25) -> "Figure":
    """The most confident mistakes, surest first: image, true class, predicted class and its probability.

    Args:
        images: (N, 28, 28) or (N, 1, 28, 28), uint8 or floating point, 0 background.
        labels: True classes (N,), integers in 0..9.
        logits: (N, 10), unnormalised log-probabilities.
        classes: The ten class names, by label.
        most: How many to show at most.
    """
    from matplotlib.figure import Figure

    confidence, predictions = logits.detach().float().cpu().softmax(1).max(1)
    wrong = torch.nonzero(predictions != labels.cpu()).flatten()
    surest = wrong[confidence[wrong].argsort(descending=True, stable=True)][:most].tolist()
    columns = 5
    rows = max(1, -(-len(surest) // columns))
    between, height = ("\n", 2.1) if _are_long(classes) else (" ", 1.9)  # long names need a line each
    figure = Figure(figsize=(1.6 * columns, 0.5 + height * rows), layout="constrained")
    title = f"The {len(surest)} surest of {len(wrong):,} mistakes" if surest else f"No mistake in {len(labels):,} images"
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, index in zip(grid, surest, strict=False):
        axes.imshow(images[index].reshape(28, 28).cpu().numpy(), cmap="gray")
        true, predicted = classes[int(labels[index])], classes[int(predictions[index])]
        axes.set_title(f"{true}{between}taken for {predicted}\n{100 * confidence[index]:.1f} %", fontsize=9)
    return figure


def _are_long(classes: Sequence[str]) -> bool:
    return max(map(len, classes)) > 2
