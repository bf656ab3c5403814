"""The knob of a grid: a reader chooses a learning rate and a batch size, and sees what the recorded runs there did."""

import math
from collections.abc import Sequence
from statistics import median

from lit_mnist.record.result import guessing
from lit_mnist.report.drawing import FAINT, Drawing, Palette, canvas, to_svg
from lit_mnist.report.experiments import AXES, Group, level_text
from lit_mnist.report.figures import PANEL, columns, draw_runs, logarithmic, loss_curve, medians, panel
from lit_mnist.report.quantities import FINAL_LOSS, TEST_ACCURACY
from lit_mnist.report.render import Figures, Knob

MOST_CELLS = 40  # each is a figure, and takes 0.1 s
LEAST_LOSS = 1e-6  # nats; the axis ends there


def make_knob(grid: Sequence[Group], palette: Palette) -> Knob | None:
    """Prepares a figure and a sentence for each cell of the grid; None if they would be too many for a page."""
    if len(grid) > MOST_CELLS:
        return None
    rates, sizes = (sorted({each.level(axis) for each in grid}) for axis in AXES)
    places = {(rates.index(each.result.lr), sizes.index(each.result.batch_size)): each for each in grid}
    top = 1.5 * guessing(grid[0].result.classes)
    losses = [loss for each in grid for run in each.runs for _, loss in loss_curve(run, top)]
    bounds = max(LEAST_LOSS, min(losses, default=1) / 1.3), top
    cells = {}
    for (row, column), each in places.items():
        beside = [places.get(place) for place in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))]
        drawing = _draw(each, [other for other in beside if other], bounds, palette, f"cell_{row}_{column}")
        cells[row, column] = Figures([drawing], _told(each))
    start = min(places, key=lambda place: (len(places[place].failed), median(FINAL_LOSS.values(places[place]) or [math.inf])))
    return Knob([*map(level_text, rates)], [*map(level_text, sizes)], cells, start)


def _told(group: Group) -> str:
    """The level of a cell and the results of its runs, as a caption."""
    parts = [f"{len(group.failed)} of {len(group.runs)} runs failed"]
    parts += [f"median {each.name} {each.median_text(group)}" for each in (FINAL_LOSS, TEST_ACCURACY) if each.values(group)]
    settings = f"Learning rate {level_text(group.result.lr)}, batch size {group.result.batch_size}"
    return f"{settings}: {', '.join(parts)}. Grey: medians of the neighbouring settings."


def _draw(group: Group, neighbours: Sequence[Group], bounds: tuple[float, float], palette: Palette, name: str) -> Drawing:
    """Draws every run of a group over the medians of its neighbours, on axes that all cells share."""
    with canvas(*PANEL) as figure:
        axes = panel(figure, "training loss (nats)", "epoch", "linear")
        for each in neighbours:
            middle = medians(loss_curve(run, bounds[1]) for run in each.runs)
            axes.plot(*columns(middle), color=FAINT, linewidth=1.4)
        draw_runs(axes, group.runs, bounds[1], color=palette.of(group), linewidth=1.2, marker="o", markersize=3)
        logarithmic(axes)
        axes.set_ylim(*bounds)
        axes.set_xlim(0, group.result.hyperparameters.get("max_epochs") or None)
        return Drawing(name, f"Training loss of every run at {group.name}", to_svg(figure))
