"""The pictures of one run: loss curve, confusion matrix, grids of images; and the style that every figure shares."""

import io
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from cycler import cycler
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Images: TypeAlias = Sequence[NDArray[Any]]  # each (H, W) or (H, W, 3)

# Okabe and Ito's palette, which the colour-blind can tell apart; hues too pale for white paper come last
SERIES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#8c6d31")
INK, FAINT, ALARM = "#1f2328", "#d4d9df", "#b00020"
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")
STYLE: Final[dict[Any, Any]] = dict.fromkeys(INKED, INK) | {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=SERIES),
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}
SHOWN = 100  # images in one grid at most
TILE, GAP = 1.0, 0.12  # inches: the side of an image in a grid, and the space around it
DRAWABLE = 1e30  # losses beyond it leave a gap: matplotlib's arithmetic overflows


def style(changes: Mapping[Any, Any] | None = None) -> AbstractContextManager[None]:
    """Draws with `STYLE` and `changes` to it on top of matplotlib's defaults; a user's matplotlibrc has no say."""
    import matplotlib.style

    return matplotlib.style.context(STYLE | dict(changes or {}), after_reset=True)


def plain(text: str, most: int = 80) -> str:
    """Text from a user as a label: no formulas, only what can be encoded, the last `most` characters of each line."""
    lines = text.encode("utf-8", "replace").decode().split("\n")
    return "\n".join(line if len(line) <= most else "…" + line[1 - most :] for line in lines).replace("$", r"\$")


def draw_loss_curve(train_loss_by_epoch: Sequence[float], title: str) -> "Figure":
    """Training loss (nats, logarithmic) of one run against epoch, the first epoch being 1."""
    return draw_loss_curves({title: [train_loss_by_epoch]})


def draw_loss_curves(curves: Mapping[str, Sequence[Sequence[float]]]) -> "Figure":
    """Training loss (nats, logarithmic) against epoch for several configurations: every run a line, a colour for each name.

    What is not finite leaves a gap.
    """
    from matplotlib.ticker import MaxNLocator

    with style():
        figure = _figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel="training loss (nats)")
        axes.set_yscale("log", nonpositive="mask")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for number, (name, runs) in enumerate(curves.items()):
            for index, losses in enumerate(runs):
                loss = np.array([loss if loss < DRAWABLE else np.nan for loss in losses])
                label = "" if index else plain(name, 64)
                axes.plot(np.arange(1, len(loss) + 1), loss, color=f"C{number}", label=label, linewidth=1, marker=".")
        if curves:
            axes.legend()
    return figure


def draw_confusion(labels: ArrayLike, predictions: ArrayLike, classes: Sequence[str]) -> "Figure":
    """The confusion matrix, true classes by row. Right answers are counted but not coloured: they would hide everything else.

    Args:
        labels: True classes (N,), integers from 0.
        predictions: Predicted classes (N,), integers from 0.
        classes: Names of the classes, by label.
    """
    size = len(classes)
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (np.asarray(labels), np.asarray(predictions)), 1)
    wrong = counts - np.diag(counts.diagonal())
    cell, fontsize = (0.56, 9) if size <= 12 else (0.27, 6)  # inches, points
    names = [plain(name, 24) for name in classes]
    turned = max(map(len, names)) > 2
    with style({"axes.grid": False}):
        figure = _figure(figsize=(cell * size + 1.4, cell * size + 1.0), layout="constrained")
        title = f"{wrong.sum():,} mistakes in {counts.sum():,} images"
        axes = figure.add_subplot(xlabel="predicted", ylabel="true", title=title)
        axes.imshow(wrong, cmap="Blues", vmin=0, vmax=max(1, wrong.max()), interpolation="nearest")
        axes.set_xticks(range(size), names, rotation=45 if turned else 0, ha="right" if turned else "center")
        axes.set_yticks(range(size), names)
        axes.tick_params(labelsize=min(fontsize + 1, 9))
        text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": fontsize, "in_layout": False}
        for row, column in np.argwhere(counts):
            color = "0.45" if row == column else "white" if wrong[row, column] > wrong.max() / 2 else "black"
            axes.text(column, row, f"{counts[row, column]:,}", color=color, **text)
    return figure


def draw_mistakes(images: ArrayLike, labels: ArrayLike, logits: ArrayLike, classes: Sequence[str]) -> "Figure":
    """The 25 most confident mistakes, the most confident first: image, true class, predicted class, its probability.

    Args:
        images: (N, H, W) or (N, 1, H, W), uint8 or floating point, 0 background.
        labels: True classes (N,), integers from 0.
        logits: (N, number of classes), unnormalised log-probabilities.
        classes: Names of the classes, by label.
    """
    from scipy.special import softmax

    truth, pixels = np.asarray(labels), np.asarray(images)
    probabilities = softmax(np.asarray(logits, dtype=np.float64), axis=1)
    predictions, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predictions != truth)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:25]
    captions = [f"{classes[truth[at]]}\ntaken for {classes[predictions[at]]}\n{100 * confidence[at]:.1f} %" for at in surest]
    title = f"The {len(surest)} most confident of {len(wrong):,} mistakes in {len(truth):,} images"
    return draw_images([pixels[at].reshape(pixels.shape[-2:]) for at in surest], captions, title)


def draw_images(
    images: Images, captions: Sequence[str], title: str, beside: Images = (), alarming: Collection[int] = ()
) -> "Figure":
    """A grid of images with a caption under each.

    Args:
        images: Each (H, W) grey or (H, W, 3) colour, of any size; uint8, or floating point in [0, 1]. The first 100 are drawn.
        captions: One for each image, lines separated by line breaks; of a line that is too long its end is shown.
        title: One line above the grid.
        beside: A second image for each, drawn at its right; or none.
        alarming: Indices of captions set in red.
    """
    shown, wide = min(len(images), SHOWN), 2 if len(beside) else 1
    columns, room = (5, 1.6) if wide == 1 else (4, 2.4)  # room: inches for an image and its caption
    columns = max(2, min(columns, shown))
    lines = max((caption.count("\n") + 1 for caption in captions[:shown]), default=0)
    height = TILE + 0.15 * lines + 2 * GAP
    with style():
        figure = _figure(figsize=(columns * (room + GAP) + GAP, 0.45 + max(1, -(-shown // columns)) * height))
        axes = figure.add_axes((0, 0, 1, 1))  # one for all, in inches from the top left: 200 of them take seconds
        axes.text(figure.get_figwidth() / 2, 0.26, plain(title), ha="center", va="center", fontsize=11)
        for index in range(shown):
            row, column = divmod(index, columns)
            middle, top = GAP + column * (room + GAP) + room / 2, 0.45 + row * height
            for place, image in enumerate((images[index], *beside[index : index + 1])):
                _place(axes, image, middle + (place - (wide - 1) / 2) * (TILE + GAP / 2), top + TILE / 2)
            color = ALARM if index in alarming else INK
            caption = plain(captions[index], round(room * 72 / (0.62 * 8)))  # 0.62 em: DejaVu's usual width of a character
            axes.text(middle, top + TILE + 0.05, caption, ha="center", va="top", fontsize=8, color=color)
        axes.set(xlim=(0, figure.get_figwidth()), ylim=(figure.get_figheight(), 0), aspect="auto")
        axes.set_axis_off()
    return figure


def _figure(**options: Any) -> "Figure":
    """Makes a figure that a notebook shows, whether or not it has set up matplotlib."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            return as_png(self)

    return Shown(dpi=150, **options)


def as_png(figure: "Figure", title: str = "") -> bytes:
    """The figure as the content of a PNG file: without a date, with its maker and a title in its metadata."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with style(), warnings.catch_warnings(action="ignore"):  # a box for each glyph that the font lacks
        canvas: Any = FigureCanvasAgg(figure)  # whose method draws once; savefig draws twice
        canvas.print_png(buffer, metadata={"Software": "lit_mnist", "Title": title})
    return buffer.getvalue()


def _place(axes: "Axes", image: NDArray[Any], x: float, y: float) -> None:
    """Draws an image into a tile centred at (x, y), its proportions kept."""
    height, width = (max(0.02, TILE * side / max(image.shape[:2])) for side in image.shape[:2])
    extent = (x - width / 2, x + width / 2, y + height / 2, y - height / 2)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1, extent=extent)
    left, right, bottom, top = extent
    axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=FAINT, linewidth=0.7)
