"""A grid of learning rates and batch sizes at a glance."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from lit_mnist.report.configuration import Configuration
from lit_mnist.report.document import Figure
from lit_mnist.report.drawing import INK, WIDTH, margins, style, to_svg
from lit_mnist.report.quantity import FINAL_LOSS, TEST_ACCURACY, Quantity

Grid = Mapping[tuple[float, float], Configuration]  # by (lr, batch size)


def find_grids(configurations: Sequence[Configuration]) -> list[Grid]:
    """All sets of configurations that differ in learning rate and batch size alone and hold two of each, crossed."""
    families: dict[str, dict[tuple[float, float], Configuration]] = {}
    for configuration in configurations:
        key = (configuration.lr, float(configuration.batch_size))
        families.setdefault(configuration.rest("lr", "batch_size"), {}).setdefault(key, configuration)
    return [grid for grid in families.values() if _is_crossed(grid)]


def _is_crossed(grid: Grid) -> bool:
    by_batch: dict[float, set[float]] = {}
    for lr, batch_size in grid:
        by_batch.setdefault(batch_size, set()).add(lr)
    rows = list(by_batch.values())
    return any(len(one & other) > 1 for index, one in enumerate(rows) for other in rows[:index])


def draw_heat_map(grid: Grid, name: str) -> Figure:
    """(e) Final training loss and test accuracy over learning rate x batch size; cells with failed runs marked."""
    lrs, batch_sizes = (sorted({key[axis] for key in grid}) for axis in (0, 1))
    with style():
        canvas = Canvas(figsize=(WIDTH, 0.9 + 0.55 * len(batch_sizes)))
        margins(canvas, right=0.1, top=0.3, between=(0.75, 0), panels=(2, 1))
        for axes, quantity in zip(canvas.subplots(1, 2), (FINAL_LOSS, TEST_ACCURACY), strict=True):
            _cells(axes, grid, lrs, batch_sizes, quantity)
            axes.set_title(quantity.label)
            axes.set(xlabel="learning rate", ylabel="batch size", xlim=(0, len(lrs)), ylim=(0, len(batch_sizes)))
            axes.set_xticks([index + 0.5 for index in range(len(lrs))], [f"{lr:g}" for lr in lrs])
            axes.set_yticks([index + 0.5 for index in range(len(batch_sizes))], [f"{size:g}" for size in batch_sizes])
            axes.grid(visible=False)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        return Figure(
            name,
            "Final training loss and test accuracy over learning rate and batch size",
            "Means over the trained runs of each cell; brighter is better. ✕: runs that collapsed or diverged, of all runs of "
            "the cell. A hatched cell has no trained run, an empty one no run.",
            to_svg(canvas),
        )


def _cells(axes: Axes, grid: Grid, lrs: Sequence[float], batch_sizes: Sequence[float], quantity: Quantity) -> None:
    means = {key: fmean(values) for key, cell in grid.items() if (values := quantity.values(cell.trained))}
    colours = mpl.colormaps["cividis_r" if quantity is FINAL_LOSS else "cividis"]
    low, high = min(means.values(), default=0.0), max(means.values(), default=1.0)
    positive_span = quantity is FINAL_LOSS and 0 < low < high
    norm = LogNorm(low, high) if positive_span else Normalize(low, high if high > low else low + 1)
    for (lr, batch_size), cell in grid.items():
        corner = lrs.index(lr), batch_sizes.index(batch_size)
        middle, height = corner[0] + 0.5, corner[1] + 0.5
        failed = f"✕ {len(cell.failed)} of {len(cell.runs)}" if cell.failed else ""
        mean = means.get((lr, batch_size))
        if mean is None:
            axes.add_patch(Rectangle(corner, 1, 1, facecolor="none", edgecolor=INK, hatch="///", linewidth=0.8))
            label = axes.text(middle, height, failed, ha="center", va="center", fontsize=8)
            label.set_bbox({"facecolor": "#ffffff", "edgecolor": "none", "pad": 1.5})
            label.set_color("#000000")
            continue
        colour = colours(norm(mean))
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="#ffffff", linewidth=0.8))
        dark = math.sqrt(0.241 * colour[0] ** 2 + 0.691 * colour[1] ** 2 + 0.068 * colour[2] ** 2) < 0.55
        text = quantity.write(mean) + (f"\n{failed}" if failed else "")
        axes.text(middle, height, text, ha="center", va="center", fontsize=8, color="#ffffff" if dark else "#000000")
