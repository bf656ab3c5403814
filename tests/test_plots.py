import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lit_mnist.plots import as_png, draw_confusion, draw_images, draw_loss_curve, draw_mistakes, plain

DIGITS = [str(digit) for digit in range(10)]
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def texts(figure: Figure) -> dict[tuple[int, int], str]:
    """Cells of a matrix: (row, column) -> what is written there."""
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
    expected = {(0, 0): "1", (0, 1): "1", (9, 9): "1", (4, 4): "1", (4, 9): "1"}
    assert texts(draw_confusion(labels, predictions, DIGITS)) == expected


def test_the_matrix_shows_each_count_that_is_not_zero(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    _, labels, logits = answers
    figure = draw_confusion(labels, logits.argmax(1), DIGITS)
    assert figure.axes[0].get_title() == "4 mistakes in 40 images"
    shown = texts(figure)
    assert {cell: text for cell, text in shown.items() if cell[0] != cell[1]} == {(3, 5): "1", (7, 1): "2", (1, 0): "1"}
    assert shown[0, 0] == "4"
    assert shown[7, 7] == "2"
    assert shown_levels(figure.axes[0])[7, 7] == 0  # right answers are not coloured


def test_the_most_confident_mistakes_come_first_and_are_named(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    images, labels, logits = answers
    figure = draw_mistakes(images, labels, logits, CLOTHES)
    (axes,) = figure.axes
    assert [int(np.asarray(image.get_array())[5, 5]) for image in axes.images] == [7, 17, 21, 3]
    title, *captions = [text.get_text() for text in axes.texts]
    assert title == "The 4 most confident of 4 mistakes in 40 images"
    surest = float(logits[7].softmax(0).max())
    assert captions[0] == f"Sneaker\ntaken for Trouser\n{100 * surest:.1f} %"
    alike = draw_mistakes(images[:, None].float() / 255, labels, logits, CLOTHES)
    assert as_png(alike) == as_png(figure)


def test_no_mistake_and_no_image_are_drawn_too(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    images, labels, logits = (part[:3] for part in answers)
    (axes,) = draw_mistakes(images, labels, logits, DIGITS).axes
    assert [text.get_text() for text in axes.texts] == ["The 0 most confident of 0 mistakes in 3 images"]
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


def test_a_hundred_classes_have_counts_that_fit_their_cells_and_are_drawn_in_seconds() -> None:
    started = time.process_time()
    labels = np.arange(3000) % 100
    predictions = np.random.default_rng(0).integers(0, 100, 3000)
    figure = draw_confusion(labels, predictions, [f"class {label}" for label in range(100)])
    height = figure.get_figheight() * 72 / 110  # points of a cell, at least
    assert all(float(text.get_fontsize()) < height for text in figure.axes[0].texts)
    as_png(figure)
    assert time.process_time() - started < 10


def test_names_of_users_give_no_warning_and_no_formula() -> None:
    name = "$x_2$ 日本 \ud800 \x1b #c0ffee " + "n" * 100
    as_png(draw_loss_curve([0.3, float("nan"), 1e308, float("inf"), 0.1], name))
    as_png(draw_images([np.zeros((9, 30))], [name], name))
    assert plain("$a$", 9) == r"\$a\$"
    assert len(plain(name, 20)) == 20


def test_a_users_matplotlibrc_has_no_say() -> None:
    import matplotlib as mpl

    before = as_png(draw_loss_curve([0.3, 0.1], "run"))
    with mpl.rc_context({"axes.grid": False, "font.size": 20, "lines.linewidth": 9}):
        assert as_png(draw_loss_curve([0.3, 0.1], "run")) == before


def test_a_low_probability_is_set_in_red_and_only_the_first_hundred_are_drawn() -> None:
    images = [np.full((8, 8), 0.5)] * 130
    (axes,) = draw_images(images, [str(number) for number in range(130)], "title", images, {3}).axes
    assert len(axes.images) == 200
    assert [text.get_text() for text in axes.texts if text.get_color() == "#b00020"] == ["3"]


def test_importing_the_plots_imports_neither_torch_nor_matplotlib() -> None:
    check = "import sys, lit_mnist.plots; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
