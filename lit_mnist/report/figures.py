"""Figures of the report: all curves on one axis, each quantity against the swept hyperparameter, accuracies, survival."""

import math
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from lit_mnist.record.result import guessing
from lit_mnist.report.drawing import INK, LARGEST, Drawing, Palette, canvas, to_svg
from lit_mnist.report.experiments import AXES, Axis, Configuration, Sweep, level_text
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.quantities import DECLARED, TEST_ACCURACY, TRAIN_ACCURACY, Quantity
from lit_mnist.report.statistics import share_interval, spread, survival

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = 20  # runs of a configuration that are drawn singly; of more, the band between their quartiles
LABELS = 12  # configurations that are named at the ends of their curves; of more, the key shows the values
FEW_EPOCHS = 4  # epochs of curves that are drawn by block, for they would be points
PANEL = (4.6, 3.1)  # inches
Points = list[tuple[float, float]]


def draw_curves(configurations: Sequence[Configuration], palette: Palette) -> Drawing:
    """Training loss of every run on one logarithmic axis; a failed run ends, marked, where it failed."""
    runs = [run for each in configurations for run in each.runs]
    by_block = max(run.length for run in runs) < FEW_EPOCHS and all(_is_fine(run) for run in runs)
    top = 1.3 * guessing(runs[0].result.classes)
    with canvas(6.0, 4.1) as figure:
        axes = _epochs(figure, configurations, "training loss (nats)")
        ends = []
        for each in configurations:
            curves = [_loss_curve(run, by_block, top) for run in each.survivors]
            ends.append(_draw_group(axes, each, [curve for curve in curves if curve], palette))
            for run in each.failed:
                _draw_failure(axes, _loss_curve(run, by_block, top), run.failure or 0, top, palette.of(each))
        _logarithmic(axes)
        axes.set_ylim(top=top * 1.12)
        _label_ends(axes, configurations, ends, palette)
        return Drawing("training_loss", "Training loss against epoch, every run on one logarithmic axis", to_svg(figure))


def draw_accuracies(configurations: Sequence[Configuration], palette: Palette) -> Drawing:
    """Train beside test accuracy of every run, one row per configuration."""
    rows = [each for each in configurations if TEST_ACCURACY.values(each)]
    with canvas(PANEL[0], max(PANEL[1], 0.24 * len(rows) + 0.8)) as figure:
        axes = figure.add_axes((0.25, 0.145 * PANEL[1] / figure.get_figheight(), 0.73, 0.745), xlabel="accuracy (%)")
        for row, each in enumerate(reversed(rows)):
            color = palette.of(each)
            for quantity, offset, face in ((TRAIN_ACCURACY, 0.14, "none"), (TEST_ACCURACY, -0.14, color)):
                values = [100 * value for value in quantity.values(each)]
                axes.plot(
                    values, [row + offset] * len(values), "o", color=color, markerfacecolor=face, markersize=4.5, alpha=0.75
                )
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks(range(len(rows)), [_wrap(each.name) for each in reversed(rows)])
        for label, face in (("train", "none"), ("test", INK)):
            axes.plot([], [], "o", color=INK, markerfacecolor=face, label=label)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 0.99), ncols=2)
        return Drawing("accuracies", "Train and test accuracy of every run that did not fail", to_svg(figure))


def draw_survival(configurations: Sequence[Configuration], palette: Palette) -> Drawing:
    """Share of runs still training against the epoch, for configurations of which some failed."""
    with canvas(*PANEL) as figure:
        axes = _epochs(figure, configurations, "runs still training (%)")
        ends: list[tuple[float, float] | None] = []
        for each in configurations:
            lengths = [run.length for run in each.runs]
            times, shares = survival(lengths, [run.result.failed for run in each.runs])
            axes.step(times, [100 * share for share in shares], where="post", color=palette.of(each))
            ends.append((times[-1], 100 * shares[-1]))
        axes.set_ylim(0, 103)
        _label_ends(axes, configurations, ends, palette)
        return Drawing("survival", "Share of runs that had not failed, against the epoch", to_svg(figure))


def draw_sweep(axis: Axis, sweeps: Sequence[Sweep], palette: Palette) -> list[Drawing]:
    """Share of failures and the declared quantities against the learning rate or the batch size, a line for each sweep."""
    drawings = []
    for quantity in (None, *DECLARED):
        with canvas(*PANEL) as figure:
            axes = figure.add_axes((0.145, 0.145, 0.825, 0.76), xlabel=AXES[axis], xscale="log")
            for index, sweep in enumerate(sorted(sweeps, key=lambda sweep: sweep.fixed_level)):
                shift = 1 + 0.05 * (index - (len(sweeps) - 1) / 2)
                _draw_line(axes, sweep, quantity, shift, palette)
            levels = sorted({each.level(axis) for sweep in sweeps for each in sweep.configurations})
            axes.set_xticks(levels, _labels(levels))
            axes.minorticks_off()
            unit = "nats" if quantity and quantity.is_loss else "%"
            axes.set_title(f"{quantity.name if quantity else 'failed runs'} ({unit})", loc="left", fontsize=10)
            if quantity is None:
                axes.set_ylim(-4, 104)
            elif quantity.is_loss:
                _logarithmic(axes)
            else:
                axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
            if 1 < len(sweeps) <= 8:
                axes.legend(fontsize=8, handlelength=1.2)
            name = f"{axis}_{(quantity.name if quantity else 'failures').replace(' ', '_')}"
            title = f"{quantity.name if quantity else 'share of failed runs'} against {AXES[axis]}"
            drawings.append(Drawing(name, title[:1].upper() + title[1:], to_svg(figure)))
    return drawings


def _epochs(figure: "Figure", configurations: Sequence[Configuration], label: str) -> "Axes":
    """Axes over the epochs, with room at the right for the names of the configurations."""
    width, height = figure.get_size_inches()
    longest = max(len(line) for each in configurations for line in _wrap(each.name).split("\n"))
    room = 0.15 + 0.082 * longest if len(configurations) <= LABELS else 0.15
    return figure.add_axes(
        (0.75 / width, 0.46 / height, 1 - (0.75 + room) / width, 1 - 0.54 / height), xlabel="epoch", ylabel=label
    )


def _draw_failure(axes: "Axes", curve: Points, epoch: float, top: float, color: str) -> None:
    """Draws the curve of a failed run, and a cross where it failed."""
    if curve:
        axes.plot(*zip(*curve, strict=True), color=color, linewidth=0.7, alpha=0.45)
    height = curve[-1][1] if curve else top
    axes.plot([epoch], [height], "x", color=color, markersize=7, markeredgewidth=1.6, clip_on=False, zorder=5)


def _draw_line(axes: "Axes", sweep: Sweep, quantity: Quantity | None, shift: float, palette: Palette) -> None:
    """Draws one sweep: every run a dot, a line through the medians; or shares with their intervals."""
    color = palette.at(sweep.other, sweep.fixed_level)
    middle: Points = []
    for each in sweep.configurations:
        x = each.level(sweep.axis) * shift
        if quantity is None:
            n, failed = len(each.runs), len(each.failed)
            low, high = share_interval(failed, n)
            axes.plot([x, x], [100 * low, 100 * high], color=color, linewidth=1.2, alpha=0.6)
            middle.append((x, 100 * failed / n))
        elif values := [min(value, LARGEST) * (1 if quantity.is_loss else 100) for value in quantity.values(each)]:
            shown = spread(values)
            middle.append((x, shown.median))
            if len(values) <= LINES:
                axes.plot([x] * len(values), values, "o", color=color, markersize=4.5, alpha=0.45, markeredgewidth=0)
            else:
                axes.plot([x, x], [shown.low, shown.high], color=color, linewidth=5, alpha=0.4, solid_capstyle="butt")
    if middle:
        axes.plot(*zip(*middle, strict=True), color=color, marker="_", markersize=11, label=sweep.fixed)


def _logarithmic(axes: "Axes") -> None:
    """Makes the y axis logarithmic, with labels such as 0.01; to be called when everything is drawn."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 30 * low else (1, 2, 3, 5), numticks=9))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _labels(levels: Sequence[float]) -> list[str]:
    """Texts for ticks on a logarithmic axis; "" where the one before is too near."""
    texts, last = [], -math.inf
    for level in levels:
        place = math.log(level / levels[0]) / math.log(levels[-1] / levels[0])
        is_free = place - last > 0.12
        texts.append(level_text(level) if is_free else "")
        last = place if is_free else last
    return texts


def _is_fine(run: RecordedRun) -> bool:
    """Tells if a run has at least two block losses in its first epoch."""
    return len(run.block_losses) > 1 and run.block_losses[1][0] <= run.result.steps_per_epoch


def _loss_curve(run: RecordedRun, by_block: bool, top: float) -> Points:
    """Loss against epochs, up to the epoch of a failure, cut at `top`."""
    result = run.result
    if by_block and run.block_losses:
        points: Points = [(step / max(1, result.steps_per_epoch), loss) for step, loss in run.block_losses]
    else:
        points = list(enumerate(result.train_loss_by_epoch, 1))
    last = math.inf if run.failure is None else run.failure
    return [(x, min(max(loss, 1e-12), top)) for x, loss in points if x <= last]


def _draw_group(
    axes: "Axes", configuration: Configuration, curves: Sequence[Points], palette: Palette
) -> tuple[float, float] | None:
    """Draws runs thinly, or the band between their quartiles, and their median; returns where that ends."""
    if not curves:
        return None
    color, longest = palette.of(configuration), max(curves, key=len)
    columns = [[point[1] for point in column if point] for column in zip_longest(*curves)]
    x = [point[0] for point in longest]
    low, middle, high = np.array([np.quantile(column, (0.25, 0.5, 0.75)) for column in columns]).T
    if len(curves) > LINES:
        axes.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0)
    elif len(curves) > 1:
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=color, linewidth=0.6, alpha=0.4)
    marker = "o" if len(x) == 1 else None
    axes.plot(x, middle, color=color, linewidth=1.9, linestyle=palette.dash(configuration), marker=marker)
    return x[-1], float(middle[-1])


def _label_ends(
    axes: "Axes", configurations: Sequence[Configuration], ends: Sequence[tuple[float, float] | None], palette: Palette
) -> None:
    """Names each configuration at the right of its curve, without overlaps; or shows a key where there are too many."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if len(configurations) > LABELS:
        for name, color, dash in palette.key():
            axes.plot([], [], color=color, linestyle=dash, label=name)
        axes.legend(loc="upper right", fontsize=7.5, ncols=2, handlelength=1.8)
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = [(to_axes.transform(end)[1], each) for each, end in zip(configurations, ends, strict=True) if end]
    gap = 18 / axes.bbox.height  # a line of text in parts of the axis; 100 dots are an inch
    below = -math.inf
    for y, each in sorted(placed, key=lambda pair: pair[0]):
        label = _wrap(each.name)
        below = max(min(y, 1), below + gap * (1 + label.count("\n")))
        axes.text(1.015, below, label, transform=axes.transAxes, va="center", fontsize=9, color=palette.of(each))


def _wrap(name: str) -> str:
    """A name for a figure, in two lines at most."""
    return "\n".join(textwrap.wrap(name, 16, max_lines=2, placeholder="…"))
