"""Figures of the report: all curves on one axis, quantities against the swept hyperparameter, accuracies, survival."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from lit_mnist.plots import DRAWABLE
from lit_mnist.record.result import guessing
from lit_mnist.report.drawing import INK, Drawing, Palette, canvas, to_svg
from lit_mnist.report.experiments import AXES, OTHER, Group, Sweep, level_text
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.quantities import TEST_ACCURACY, TRAIN_ACCURACY, Quantity
from lit_mnist.report.statistics import share_interval, survival

LABELS = 12  # groups that are named at the ends of their curves
FEW_EPOCHS = 4  # epochs of curves that are drawn by block, for they would be points
PANEL = (4.6, 3.1)  # inches
Points = list[tuple[float, float]]


def draw_curves(groups: Sequence[Group], palette: Palette) -> Drawing:
    """Training loss of every run on one logarithmic axis; a failed run ends, marked, where it failed."""
    runs = [run for each in groups for run in each.runs]
    by_block = max(run.length for run in runs) < FEW_EPOCHS and all(len(run.block_losses) > 1 for run in runs)
    top = 1.3 * guessing(runs[0].result.classes)
    with canvas(6.0, 4.1) as figure:
        axes, ends = _epochs(figure, groups, "training loss (nats)"), []
        for each in groups:
            scale, color = 1 / max(1, each.result.steps_per_epoch) if by_block else None, palette.of(each)
            draw_runs(axes, each.runs, top, scale, color=color, linewidth=0.6, alpha=0.4)
            middle = medians(loss_curve(run, top, scale) for run in each.runs if not run.result.failed)
            marker = "o" if len(middle) == 1 else None
            axes.plot(*columns(middle), color=color, linewidth=1.9, linestyle=palette.dash(each), marker=marker)
            ends.append(middle[-1] if middle else None)
        logarithmic(axes)
        axes.set_ylim(top=top * 1.12)
        _label_ends(axes, groups, ends, palette)
        return Drawing("training_loss", "Training loss against epoch, every run on one logarithmic axis", to_svg(figure))


def draw_accuracies(groups: Sequence[Group], palette: Palette) -> Drawing:
    """Train beside test accuracy of every run, one row per group."""
    rows = [each for each in reversed(groups) if TEST_ACCURACY.values(each)]
    with canvas(PANEL[0], max(PANEL[1], 0.24 * len(rows) + 0.8)) as figure:
        axes = figure.add_axes((0.25, 0.145 * PANEL[1] / figure.get_figheight(), 0.73, 0.745), xlabel="accuracy (%)")
        for quantity, label, offset in ((TRAIN_ACCURACY, "train", 0.14), (TEST_ACCURACY, "test", -0.14)):
            for row, each in enumerate(rows):
                values, color = [100 * value for value in quantity.values(each)], palette.of(each)
                face = color if label == "test" else "none"
                axes.plot(values, [row + offset] * len(values), "o", color=color, markerfacecolor=face, alpha=0.75)
            axes.plot([], [], "o", color=INK, markerfacecolor=INK if label == "test" else "none", label=label)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks(range(len(rows)), [_wrap(each.name) for each in rows])
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 0.99), ncols=2)
        return Drawing("accuracies", "Train and test accuracy of every run that did not fail", to_svg(figure))


def draw_survival(groups: Sequence[Group], palette: Palette) -> Drawing:
    """Share of runs still training against the epoch, for groups of which some failed."""
    with canvas(*PANEL) as figure:
        axes, ends = _epochs(figure, groups, "runs still training (%)"), []
        for each in groups:
            times, shares = survival([run.length for run in each.runs], [run.result.failed for run in each.runs])
            axes.step(times, [100 * share for share in shares], where="post", color=palette.of(each))
            ends.append((times[-1], 100 * shares[-1]))
        axes.set_ylim(0, 103)
        _label_ends(axes, groups, ends, palette)
        return Drawing("survival", "Share of runs that had not failed, against the epoch", to_svg(figure))


def draw_sweeps(sweeps: Sequence[Sweep], quantity: Quantity | None, palette: Palette, by_ratio: bool = False) -> Drawing:
    """A quantity, or the share of failures where it is None, a line for each sweep, all over the same hyperparameter.

    If `by_ratio`, it is drawn against learning rate / batch size instead.
    """
    axis, sweeps = sweeps[0].axis, sorted(sweeps, key=lambda sweep: sweep.fixed_level)
    name, unit = (quantity.name, "nats" if quantity.is_loss else "%") if quantity else ("failed runs", "%")
    against = "learning rate / batch size" if by_ratio else AXES[axis]
    with canvas(*PANEL) as figure:
        axes = panel(figure, f"{name} ({unit})", against)
        for index, sweep in enumerate(sweeps):
            places = {each: each.result.lr / each.result.batch_size for each in sweep.groups}
            if not by_ratio:
                shift = 1 + 0.05 * (index - (len(sweeps) - 1) / 2)
                places = {each: each.level(axis) * shift for each in sweep.groups}
            draw_groups(axes, places, quantity, palette.at(OTHER[axis], sweep.fixed_level), sweep.fixed)
        if by_ratio:
            axes.xaxis.set_major_formatter("{x:g}")
        else:
            levels = sorted({each.level(axis) for sweep in sweeps for each in sweep.groups})
            mark_levels(axes, levels[:: -(-len(levels) // 6)])  # names of more would overlap
        if quantity is None:
            axes.set_ylim(-4, 104)
        elif quantity.is_loss:
            logarithmic(axes)
        else:
            axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
        if 1 < len(sweeps) <= 8:
            axes.legend(fontsize=8, handlelength=1.2)
        file = f"{'ratio' if by_ratio else axis}_{name.replace(' ', '_')}"
        return Drawing(file, f"{name.capitalize()} against {against}", to_svg(figure))


def panel(figure: Figure, title: str, xlabel: str, xscale: str = "log") -> Axes:
    """Axes of a small figure, `PANEL` inches."""
    axes = figure.add_axes((0.145, 0.145, 0.825, 0.76), xlabel=xlabel, xscale=xscale)
    axes.set_title(title, loc="left")
    axes.xaxis.set_minor_formatter(NullFormatter())
    return axes


def draw_groups(axes: Axes, places: dict[Group, float], quantity: Quantity | None, color: str, label: str = "") -> None:
    """Draws groups at their places: every run a dot, a line through the medians; or shares of failures with their intervals."""
    middle: Points = []
    for each, x in places.items():
        if quantity is None:
            n, failed = len(each.runs), len(each.failed)
            axes.plot([x, x], [100 * end for end in share_interval(failed, n)], color=color, linewidth=1.2, alpha=0.6)
            middle.append((x, 100 * failed / n))
        elif values := [min(value, DRAWABLE) * (1 if quantity.is_loss else 100) for value in quantity.values(each)]:
            axes.plot([x] * len(values), values, "o", color=color, alpha=0.45, markeredgewidth=0)
            middle.append((x, median(values)))
    axes.plot(*columns(middle), color=color, marker="_", markersize=11, label=label)


def draw_runs(axes: Axes, runs: Sequence[RecordedRun], top: float, scale: float | None = None, **line: Any) -> None:
    """Draws the loss curve of every run, and a cross where it failed."""
    for run in runs:
        curve = loss_curve(run, top, scale)
        axes.plot(*columns(curve), **line)
        if run.failure is not None:
            cross = (run.failure, curve[-1][1] if curve else top)
            axes.plot(*cross, "x", color=line["color"], markersize=7, markeredgewidth=1.6, clip_on=False, zorder=5)


def loss_curve(run: RecordedRun, top: float, scale: float | None = None) -> Points:
    """Training losses before a failure, cut at `top`: of epochs, or of blocks over their SGD steps times `scale`."""
    places: list[tuple[float, float, float]] = [(n, n, loss) for n, loss in enumerate(run.result.train_loss_by_epoch, 1)]
    if scale:
        places = [(step / max(1, run.result.steps_per_epoch), step * scale, loss) for step, loss in run.block_losses]
    end = math.inf if run.failure is None else run.failure
    return [(x, min(max(loss, 1e-12), top)) for epoch, x, loss in places if epoch <= end]


def gather(curves: Iterable[Points]) -> dict[float, list[float]]:
    """Values of all curves by their place, in order."""
    values: dict[float, list[float]] = {}
    for x, y in chain.from_iterable(curves):
        values.setdefault(x, []).append(y)
    return dict(sorted(values.items()))


def medians(curves: Iterable[Points]) -> Points:
    """Medians of curves at every place where one has a value."""
    return [(x, median(values)) for x, values in gather(curves).items()]


def columns(points: Points) -> Any:
    """Places and values, to be plotted."""
    return np.reshape(points, (-1, 2)).T


def mark_levels(axes: Axes, levels: Sequence[float]) -> None:
    """Names levels on the x axis, and nothing else."""
    axes.set_xticks(levels, map(level_text, levels))
    axes.minorticks_off()


def logarithmic(axes: Axes) -> None:
    """Makes the y axis logarithmic, with labels such as 0.01; to be called when everything is drawn."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 30 * low else (1, 2, 3, 5), numticks=9))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _epochs(figure: Figure, groups: Sequence[Group], label: str) -> Axes:
    """Axes over the epochs, with room at the right for the names of the groups."""
    width, height = figure.get_size_inches()
    longest = max(len(line) for each in groups for line in _wrap(each.name).split("\n"))
    room = 0.15 + (0.082 * longest if len(groups) <= LABELS else 0)
    place = (0.75 / width, 0.46 / height, 1 - (0.75 + room) / width, 1 - 0.54 / height)
    return figure.add_axes(place, xlabel="epoch", ylabel=label)


def _label_ends(axes: Axes, groups: Sequence[Group], ends: Sequence[tuple[float, float] | None], palette: Palette) -> None:
    """Names each group at the right of its curve, without overlaps, unless there are too many."""
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = [(to_axes.transform(end)[1], each) for each, end in zip(groups, ends, strict=True) if end]
    gap = 18 / axes.bbox.height  # a line of text in parts of the axis; 100 dots are an inch
    below = -math.inf
    for y, each in sorted(placed, key=lambda pair: pair[0]) if len(groups) <= LABELS else ():
        label = _wrap(each.name)
        below = max(min(y, 1), below + gap * (1 + label.count("\n")))
        axes.text(1.015, below, label, transform=axes.transAxes, va="center", color=palette.of(each))


def _wrap(name: str) -> str:
    """A name for a figure, in two lines at most."""
    return "\n".join(textwrap.wrap(name, 16, max_lines=2, placeholder="…"))
