"""Training loss of each configuration for itself, beside the published curves."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lit_mnist.report.configuration import Configuration
from lit_mnist.report.document import Figure
from lit_mnist.report.drawing import INK, WIDTH, Palette, margins, style, to_svg
from lit_mnist.report.published import find_published

HIGHEST = 2.6  # nats; guessing is 2.3, and what a diverging run does above that would flatten everything else
COLUMNS = 3


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


def _panel(axes: Axes, configuration: Configuration, palette: Palette) -> None:
    colour = palette.colour(configuration)
    top = 0.0
    for run in configuration.failed:
        losses = run.train_loss_by_epoch
        axes.plot(range(1, len(losses) + 1), losses, color=colour, linewidth=0.8, linestyle=(0, (3, 1.5)), alpha=0.8)
        top = max([top, *losses])
        if run.diverged and losses:
            axes.plot(len(losses), min(losses[-1], HIGHEST), "x", color=colour, markersize=6, clip_on=False)
    losses_of_all = configuration.losses()
    if losses_of_all.size:
        epochs = np.arange(1, losses_of_all.shape[1] + 1)
        axes.fill_between(epochs, losses_of_all.min(0), losses_of_all.max(0), color=colour, alpha=0.3, linewidth=0)
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
        key.append(Line2D([], [], color=INK, marker="o", markerfacecolor="none", linestyle="none", label="published run"))
    return key
