"""Figures of the report: all curves on one axis, each quantity against the swept hyperparameter, accuracies, survival."""

import math
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from lit_mnist.plots import DRAWABLE
from lit_mnist.record.result import guessing
from lit_mnist.report.drawing import INK, Drawing, Palette, canvas, to_svg
from lit_mnist.report.experiments import AXES, Axis, Group, Sweep, level_text
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.quantities import DECLARED, TEST_ACCURACY, TRAIN_ACCURACY, Quantity
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
            color, curves = palette.of(each), {run: _loss_curve(run, by_block, top) for run in each.runs}
            for run, curve in curves.items():
                axes.plot(*_columns(curve), color=color, linewidth=0.6, alpha=0.4)
                if run.failure is not None:
                    height = curve[-1][1] if curve else top
                    axes.plot(run.failure, height, "x", color=color, markersize=7, markeredgewidth=1.6, clip_on=False, zorder=5)
            middle = _medians([curve for run, curve in curves.items() if not run.result.failed])
            marker = "o" if len(middle) == 1 else None
            axes.plot(*_columns(middle), color=color, linewidth=1.9, linestyle=palette.dash(each), marker=marker)
            ends.append(middle[-1] if middle else None)
        _logarithmic(axes)
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


def draw_sweep(axis: Axis, sweeps: Sequence[Sweep], palette: Palette) -> list[Drawing]:
    """Share of failures and the declared quantities against the learning rate or the batch size, a line for each sweep."""
    drawings = []
    levels = sorted({each.level(axis) for sweep in sweeps for each in sweep.groups})
    marked = levels[:: -(-len(levels) // 6)]  # names of more would overlap
    for quantity in (None, *DECLARED):
        name, unit = (quantity.name, "nats" if quantity.is_loss else "%") if quantity else ("failed runs", "%")
        with canvas(*PANEL) as figure:
            axes = figure.add_axes((0.145, 0.145, 0.825, 0.76), xlabel=AXES[axis], xscale="log")
            axes.set_title(f"{name} ({unit})", loc="left")
            for index, sweep in enumerate(sorted(sweeps, key=lambda sweep: sweep.fixed_level)):
                shift = 1 + 0.05 * (index - (len(sweeps) - 1) / 2)
                _draw_line(axes, sweep, quantity, shift, palette.at(sweep.other, sweep.fixed_level))
            axes.set_xticks(marked, map(level_text, marked))
            axes.minorticks_off()
            if quantity is None:
                axes.set_ylim(-4, 104)
            elif quantity.is_loss:
                _logarithmic(axes)
            else:
                axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
            if 1 < len(sweeps) <= 8:
                axes.legend(fontsize=8, handlelength=1.2)
            file, title = f"{axis}_{name.replace(' ', '_')}", f"{name.capitalize()} against {AXES[axis]}"
            drawings.append(Drawing(file, title, to_svg(figure)))
    return drawings


def _draw_line(axes: Axes, sweep: Sweep, quantity: Quantity | None, shift: float, color: str) -> None:
    """Draws one sweep: every run a dot, a line through the medians; or shares with their intervals."""
    middle: Points = []
    for each in sweep.groups:
        x = each.level(sweep.axis) * shift
        if quantity is None:
            n, failed = len(each.runs), len(each.failed)
            axes.plot([x, x], [100 * end for end in share_interval(failed, n)], color=color, linewidth=1.2, alpha=0.6)
            middle.append((x, 100 * failed / n))
        elif values := [min(value, DRAWABLE) * (1 if quantity.is_loss else 100) for value in quantity.values(each)]:
            axes.plot([x] * len(values), values, "o", color=color, alpha=0.45, markeredgewidth=0)
            middle.append((x, median(values)))
    axes.plot(*_columns(middle), color=color, marker="_", markersize=11, label=sweep.fixed)


def _epochs(figure: Figure, groups: Sequence[Group], label: str) -> Axes:
    """Axes over the epochs, with room at the right for the names of the groups."""
    width, height = figure.get_size_inches()
    longest = max(len(line) for each in groups for line in _wrap(each.name).split("\n"))
    room = 0.15 + (0.082 * longest if len(groups) <= LABELS else 0)
    place = (0.75 / width, 0.46 / height, 1 - (0.75 + room) / width, 1 - 0.54 / height)
    return figure.add_axes(place, xlabel="epoch", ylabel=label)


def _loss_curve(run: RecordedRun, by_block: bool, top: float) -> Points:
    """Loss against epochs, up to the epoch of a failure, cut at `top`."""
    points: Points = list(enumerate(run.result.train_loss_by_epoch, 1))
    if by_block:
        points = [(step / max(1, run.result.steps_per_epoch), loss) for step, loss in run.block_losses]
    return [(x, min(max(loss, 1e-12), top)) for x, loss in points if run.failure is None or x <= run.failure]


def _medians(curves: Sequence[Points]) -> Points:
    """Medians of curves over the same x, as far as the longest one."""
    columns = [[point for point in column if point] for column in zip_longest(*curves)]
    return [(column[0][0], median(loss for _, loss in column)) for column in columns]


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _logarithmic(axes: Axes) -> None:
    """Makes the y axis logarithmic, with labels such as 0.01; to be called when everything is drawn."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 30 * low else (1, 2, 3, 5), numticks=9))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


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
