"""Training loss along a ladder: learning rates overlaid, batch sizes overlaid on four axes."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from lit_mnist.report.configuration import Configuration, Ladder
from lit_mnist.report.document import Figure
from lit_mnist.report.drawing import WIDTH, Palette, margins, style, text_width, to_svg

LEFT = 0.85  # inches; losses are written out, down to 0.00001
PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")

Array = NDArray[np.float64]


def draw_learning_rates(ladder: Ladder, palette: Palette, name: str) -> Figure:
    """(b) All rungs of a ladder of learning rates on one logarithmic scale."""
    with style():
        canvas = Canvas(figsize=(WIDTH, 3.7))
        margins(canvas, left=LEFT, right=min(WIDTH - LEFT - 1, 0.6 + text_width(rung.name for rung in ladder.rungs)))
        axes = canvas.subplots()
        for rung in ladder.rungs:
            _curve(axes, rung, palette, lambda epochs, _: epochs)
        axes.set(xlabel="epoch", ylabel="training loss, nats")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _log_scale(axes)
        axes.legend(*axes.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0)
        return Figure(
            name,
            "Training loss against epoch for several learning rates",
            "The learning rates overlaid, everything else equal; logarithmic scale. Line: mean of the trained runs; "
            "band: their range.",
            to_svg(canvas),
        )


def draw_batch_sizes(ladder: Ladder, palette: Palette, name: str) -> Figure:
    """(c) All rungs of a ladder of batch sizes against epochs, SGD steps, images seen and seconds."""
    scales: Sequence[tuple[str, Callable[[Array, Configuration], Array | None]]] = (
        ("epochs", lambda epochs, _: epochs),
        ("SGD steps", lambda epochs, rung: epochs * rung.runs[0].steps_per_epoch),
        ("images seen", lambda epochs, rung: epochs * _images(rung)),
        ("seconds of training", _seconds),
    )
    with style():
        columns = max(1, int((WIDTH - 0.8) / (0.6 + text_width(rung.name for rung in ladder.rungs))))
        lines = math.ceil(len(ladder.rungs) / columns)
        canvas = Canvas(figsize=(WIDTH, 5.3 + 0.2 * lines))
        margins(canvas, left=LEFT, right=0.36, top=0.2 + 0.2 * lines, between=(0.25, 0.55), panels=(2, 2))
        panels = canvas.subplots(2, 2, sharey=True)
        for axes, (label, scale) in zip(panels.ravel(), scales, strict=True):
            for rung in ladder.rungs:
                _curve(axes, rung, palette, scale)
            axes.set_xlabel(label)
            if label in ("SGD steps", "seconds of training"):
                axes.set_xscale("log")
                _log_ticks(axes.xaxis, *axes.get_xlim())
            else:
                axes.set_xlim(left=0)
            if label == "images seen":
                axes.xaxis.set_major_formatter(PLAIN)
                axes.xaxis.set_major_locator(MaxNLocator(4))
            _log_scale(axes)
        for axes in panels[:, 0]:
            axes.set_ylabel("training loss, nats")
        canvas.legend(*panels[0, 0].get_legend_handles_labels(), loc="upper center", ncols=columns)
        return Figure(
            name,
            "Training loss for several batch sizes against epochs, SGD steps, images seen and seconds",
            "The batch sizes overlaid, everything else equal, on four horizontal axes: an epoch is the same images for all, "
            "but not the same number of steps or seconds. Logarithmic losses, steps and seconds. Line: mean of the trained "
            "runs; band: their range. Seconds are those of training alone, mean over the runs.",
            to_svg(canvas),
        )


def _curve(axes: Axes, rung: Configuration, palette: Palette, scale: Callable[[Array, Configuration], Array | None]) -> None:
    losses = rung.losses()
    x = scale(np.arange(1.0, losses.shape[1] + 1), rung)
    if x is None or not losses.size:
        return
    colour = palette.colour(rung)
    axes.fill_between(x, losses.min(0), losses.max(0), color=colour, alpha=0.25, linewidth=0)
    axes.plot(x, losses.mean(0), color=colour, marker=palette.marker(rung), markersize=3.6, label=rung.name)


def _log_scale(axes: Axes) -> None:
    axes.set_yscale("log")
    _log_ticks(axes.yaxis, *axes.get_ylim())


def _log_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers; between the powers of ten too, where there are few of them."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_locator(NullLocator())


def _images(rung: Configuration) -> float:
    size = rung.hyperparameters.get("train_size")
    return float(size) if isinstance(size, int) and size else float(rung.runs[0].steps_per_epoch * rung.batch_size)


def _seconds(epochs: Array, rung: Configuration) -> Array | None:
    times = [run.seconds_by_epoch for run in rung.trained]
    if not times or min(map(len, times)) < len(epochs):
        return None
    seconds = np.cumsum([time[: len(epochs)] for time in times], axis=1).mean(0)
    return np.asarray(seconds) if seconds[0] > 0 else None
