import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lit_mnist.plots import as_png
from lit_mnist.training.mistakes import count_confusion, draw_confusion, draw_mistakes

DIGITS = [str(digit) for digit in range(10)]
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def texts(figure: Figure) -> dict[tuple[int, int], str]:
    """Of the cells of a matrix: (row, column) -> what stands there."""
    places = [text.get_position() for text in figure.axes[0].texts]
    return {
        (round(row), round(column)): text.get_text() for (column, row), text in zip(places, figure.axes[0].texts, strict=True)
    }


def shown_levels(axes: Axes) -> NDArray[np.float64]:
    (image,) = axes.images
    levels = image.get_array()
    assert levels is not None
    return levels


@pytest.fixture
def answers() -> tuple[Tensor, Tensor, Tensor]:
    """Images of which each has its own grey level, labels, and logits that are wrong for 4 of 40."""
    labels = torch.arange(40) % 10
    logits = 8.0 * torch.nn.functional.one_hot(labels, 10)
    for image, wrong, margin in [(3, 5, 2.0), (7, 1, 9.0), (17, 1, 5.0), (21, 0, 3.0)]:
        logits[image] = 0
        logits[image, wrong] = margin
    levels = torch.arange(40, dtype=torch.uint8)[:, None, None].expand(40, 28, 28).clone()
    levels[:, 0, 0] = 255
    return levels, labels, logits


def test_confusion_is_counted_by_true_row_and_predicted_column() -> None:
    labels, predictions = torch.tensor([0, 0, 9, 4, 4]), torch.tensor([0, 1, 9, 4, 9])
    counts = count_confusion(labels, predictions)
    expected = torch.zeros(10, 10, dtype=torch.int64)
    for label, prediction in zip(labels, predictions, strict=True):
        expected[label, prediction] += 1
    assert torch.equal(counts, expected)
    assert int(counts[4, 9]) == 1
    assert int(counts[9, 4]) == 0


def test_the_matrix_shows_each_count_that_is_not_zero(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    _, labels, logits = answers
    figure = draw_confusion(labels, logits.argmax(1), DIGITS)
    assert figure.axes[0].get_title() == "4 mistakes in 40 images"
    shown = texts(figure)
    assert {cell: text for cell, text in shown.items() if cell[0] != cell[1]} == {(3, 5): "1", (7, 1): "2", (1, 0): "1"}
    assert shown[0, 0] == "4"
    assert shown[7, 7] == "2"
    assert shown_levels(figure.axes[0])[7, 7] == 0  # right answers are not coloured


def test_the_surest_mistakes_come_first_and_are_named(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    images, labels, logits = answers
    figure = draw_mistakes(images, labels, logits, CLOTHES, most=3)
    shown = [axes for axes in figure.axes if axes.images]
    assert [int(shown_levels(axes)[5, 5]) for axes in shown] == [7, 17, 21]
    surest = float(logits[7].softmax(0).max())
    assert shown[0].get_title() == f"Sneaker\ntaken for Trouser\n{100 * surest:.1f} %"
    assert figure.get_suptitle() == "The 3 surest of 4 mistakes"
    alike = draw_mistakes(images[:, None].float() / 255, labels, logits, CLOTHES, most=3)
    assert as_png(alike) == as_png(figure)


def test_no_mistake_and_no_image_are_drawn_too(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    images, labels, logits = (part[:3] for part in answers)
    assert draw_mistakes(images, labels, logits, DIGITS).get_suptitle() == "No mistake in 3 images"
    assert draw_confusion(labels, labels, DIGITS).axes[0].get_title() == "0 mistakes in 3 images"
    nothing = draw_mistakes(images[:0], labels[:0], logits[:0], DIGITS)
    assert as_png(nothing).startswith(b"\x89PNG")


def test_the_figures_leave_no_state_behind(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    import matplotlib.pyplot as plt

    images, labels, logits = answers
    as_png(draw_mistakes(images, labels, logits, DIGITS))
    as_png(draw_confusion(labels, logits.argmax(1), CLOTHES))
    assert plt.get_fignums() == []


def test_long_class_names_do_not_overlap(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    _, labels, logits = answers
    figure = draw_confusion(labels, logits.argmax(1), CLOTHES)
    figure.canvas.draw()
    labels_below = figure.axes[0].get_xticklabels()
    assert all(label.get_rotation() == 45 for label in labels_below)
    assert np.ptp([label.get_window_extent().y1 for label in labels_below]) < 2
