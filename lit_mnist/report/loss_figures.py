"""Training loss: small multiples beside the published curves, learning rates overlaid, batch sizes overlaid on four axes."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from lit_mnist.report.configuration import Configuration, Ladder
from lit_mnist.report.document import Figure
from lit_mnist.report.drawing import INK, WIDTH, Palette, margins, style, text_width, to_svg
from lit_mnist.report.published import find_published

HIGHEST = 2.6  # nats; guessing is 2.3, and what a diverging run does above that would flatten everything else
COLUMNS = 3
PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")

Array = NDArray[np.float64]


def draw_small_multiples(configurations: Sequence[Configuration], palette: Palette) -> Figure:
    """(a) Each configuration for itself: the published plots, with a band of all seeds."""
    with style():
        rows = math.ceil((len(configurations) + 1) / COLUMNS)
        canvas = Canvas(figsize=(WIDTH, 2.3 * rows))
        margins(canvas, top=0.3, panels=(COLUMNS, rows))
        axes = canvas.subplots(rows, COLUMNS, squeeze=False).ravel()
        for each, configuration in zip(axes, configurations, strict=False):
            _panel(each, configuration, palette)
        for index in range(0, len(configurations), COLUMNS):
            axes[index].set_ylabel("training loss, nats")
        for each in axes[len(configurations) :]:
            each.set_axis_off()
        axes[-1].legend(handles=_key(configurations), loc="center left", borderaxespad=0)
        return Figure(
            "loss_by_configuration",
            "Training loss against epoch, one panel per configuration",
            "Training loss (mean of the epoch's batch losses) against epoch: mean and range of the trained runs, each failed "
            "run for itself, and the published run, where there is one, as circles. Each panel has its own scale.",
            to_svg(canvas),
        )


def draw_learning_rates(ladder: Ladder, palette: Palette, name: str) -> Figure:
    """(b) All rungs of a ladder of learning rates on one logarithmic scale."""
    with style():
        canvas = Canvas(figsize=(WIDTH, 3.7))
        margins(canvas, right=0.6 + text_width(rung.name for rung in ladder.rungs))
        axes = canvas.subplots()
        for rung in ladder.rungs:
            _curve(axes, rung, palette, lambda epochs, _: epochs)
        axes.set(xlabel="epoch", ylabel="training loss, nats")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _log_scale(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0)
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
        margins(canvas, right=0.36, top=0.2 + 0.2 * lines, between=(0.25, 0.55), panels=(2, 2))
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


def _losses(configuration: Configuration) -> Array:
    """Of the trained runs: (runs, epochs), as far as all of them went."""
    curves = [run.train_loss_by_epoch for run in configuration.trained]
    epochs = min(map(len, curves), default=0)
    return np.array([curve[:epochs] for curve in curves]).reshape(len(curves), epochs)


def _panel(axes: Axes, configuration: Configuration, palette: Palette) -> None:
    colour = palette.colour(configuration)
    top = 0.0
    for run in configuration.failed:
        losses = run.train_loss_by_epoch
        axes.plot(
            range(1, len(losses) + 1), losses, color=colour, linewidth=0.8, linestyle=(0, (3, 1.5)), alpha=0.8
        )
        top = max([top, *losses])
        if run.diverged and losses:
            axes.plot(len(losses), min(losses[-1], HIGHEST), "x", color=colour, markersize=6, clip_on=False)
    losses_of_all = _losses(configuration)
    if losses_of_all.size:
        epochs = np.arange(1, losses_of_all.shape[1] + 1)
        axes.fill_between(
            epochs, losses_of_all.min(0), losses_of_all.max(0), color=colour, alpha=0.3, linewidth=0
        )
        axes.plot(epochs, losses_of_all.mean(0), color=colour)
        top = max(top, float(losses_of_all.max()))
    published = find_published(configuration)
    if published:
        curve = published.train_loss_by_epoch
        axes.plot(
            range(1, len(curve) + 1),
            curve,
            "o",
            markersize=4,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=0.9,
        )
        top = max([top, *curve])
    axes.set_ylim(0, min(1.06 * top, HIGHEST) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_title(f"{configuration.name}, {_counts(configuration)}")
    axes.set_xlabel("epoch")


def _counts(configuration: Configuration) -> str:
    n, failed = len(configuration.runs), len(configuration.failed)
    return f"{n} seed{'s' if n > 1 else ''}" + (f", {failed} failed" if failed else "")


def _key(configurations: Sequence[Configuration]) -> list[Line2D | Patch]:
    key: list[Line2D | Patch] = [
        Line2D([], [], color=INK, label="mean of trained runs"),
        Patch(color=INK, alpha=0.3, linewidth=0, label="their range"),
    ]
    if any(configuration.failed for configuration in configurations):
        key.append(Line2D([], [], color=INK, linewidth=0.8, linestyle=(0, (3, 1.5)), label="one failed run"))
    if any(run.diverged for configuration in configurations for run in configuration.runs):
        key.append(Line2D([], [], color=INK, marker="x", linestyle="none", label="last finite epoch"))
    if any(find_published(configuration) for configuration in configurations):
        key.append(
            Line2D(
                [], [], color=INK, marker="o", markerfacecolor="none", linestyle="none", label="published run"
            )
        )
    return key


def _curve(
    axes: Axes, rung: Configuration, palette: Palette, scale: Callable[[Array, Configuration], Array | None]
) -> None:
    losses = _losses(rung)
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
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 30 else (1,)))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_locator(NullLocator())


def _images(rung: Configuration) -> float:
    size = rung.hyperparameters.get("train_size")
    return (
        float(size)
        if isinstance(size, int) and size
        else float(rung.runs[0].steps_per_epoch * rung.batch_size)
    )


def _seconds(epochs: Array, rung: Configuration) -> Array | None:
    times = [run.seconds_by_epoch for run in rung.trained]
    if not times or min(map(len, times)) < len(epochs):
        return None
    seconds = np.cumsum([time[: len(epochs)] for time in times], axis=1).mean(0)
    return np.asarray(seconds) if seconds[0] > 0 else None
