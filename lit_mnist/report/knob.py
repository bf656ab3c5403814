"""The knob of a grid: a reader chooses a learning rate and a batch size, and sees what the recorded runs there did."""

import math
from collections.abc import Sequence
from itertools import zip_longest
from statistics import median

from lit_mnist.record.result import guessing
from lit_mnist.report.drawing import FAINT, INK, Drawing, Palette, canvas, to_svg
from lit_mnist.report.experiments import AXES, Group, level_text
from lit_mnist.report.figures import PANEL, logarithmic
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.quantities import FINAL_LOSS, TEST_ACCURACY
from lit_mnist.report.render import Cell, Knob

MOST_CELLS = 40  # each is a figure, and takes 0.1 s
LEAST_LOSS = 1e-6  # nats; the axis ends there


def make_knob(grid: Sequence[Group], palette: Palette) -> Knob | None:
    """Prepares a figure and a sentence for each cell of the grid; None if they would be too many for a page.

    Args:
        grid: Groups that differ in learning rate and batch size only; a cell may be missing.
        palette: Colours of the groups.
    """
    if not 1 < len(grid) <= MOST_CELLS:
        return None
    rates, sizes = (sorted({each.level(axis) for each in grid}) for axis in AXES)
    places = {(rates.index(each.result.lr), sizes.index(each.result.batch_size)): each for each in grid}
    losses = [loss for each in grid for run in each.runs for loss in _curve(run)]
    bounds = max(LEAST_LOSS, min(losses, default=1) / 1.3), 1.5 * guessing(grid[0].result.classes)
    cells = []
    for (row, column), each in places.items():
        beside = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        neighbours = [places[place] for place in beside if place in places]
        drawing = _draw(each, neighbours, bounds, palette, f"cell_{row}_{column}")
        cells.append(Cell(row, column, drawing, _told(each)))
    start = min(places, key=lambda place: (len(places[place].failed), median(FINAL_LOSS.values(places[place]) or [math.inf])))
    return Knob([level_text(rate) for rate in rates], [level_text(size) for size in sizes], cells, start)


def _told(group: Group) -> str:
    parts = [f"{len(group.failed)} of {len(group.runs)} runs failed"]
    if FINAL_LOSS.values(group):
        parts.append(f"median final training loss {FINAL_LOSS.median_text(group)}")
    if TEST_ACCURACY.values(group):
        parts.append(f"median test accuracy {TEST_ACCURACY.median_text(group)}")
    return f"Learning rate {level_text(group.result.lr)}, batch size {group.result.batch_size}: {', '.join(parts)}."


def _curve(run: RecordedRun) -> list[float]:
    """Training losses of the epochs before a failure."""
    return [loss for epoch, loss in enumerate(run.result.train_loss_by_epoch, 1) if epoch <= (run.failure or math.inf)]


def _draw(group: Group, neighbours: Sequence[Group], bounds: tuple[float, float], palette: Palette, name: str) -> Drawing:
    """Draws every run of a group over the medians of its neighbours, on axes that all cells share."""
    with canvas(*PANEL) as figure:
        axes = figure.add_axes((0.145, 0.145, 0.825, 0.76), xlabel="epoch")
        axes.set_title("training loss (nats)", loc="left")
        for each in neighbours:
            columns = zip_longest(*map(_curve, each.runs))
            middle = [median(loss for loss in column if loss is not None) for column in columns]
            axes.plot(range(1, len(middle) + 1), middle, color=FAINT, linewidth=1.4)
        for run in group.runs:
            curve = [min(loss, bounds[1]) for loss in _curve(run)]
            axes.plot(range(1, len(curve) + 1), curve, color=palette.of(group), linewidth=1.2, marker="o", markersize=3)
            if run.failure is not None:
                axes.plot(run.failure, curve[-1] if curve else bounds[1], "x", color=INK, markersize=7, clip_on=False, zorder=5)
        logarithmic(axes)
        axes.set_ylim(*bounds)
        axes.set_xlim(0, group.result.hyperparameters.get("max_epochs") or None)
        return Drawing(name, f"Training loss of every run at {group.name}", to_svg(figure))
