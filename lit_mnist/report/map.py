"""Section on a grid of learning rates and batch sizes: what depends on their ratio, what a larger batch saves, every cell."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy import optimize, stats

from lit_mnist.record.result import guessing
from lit_mnist.report.drawing import FAINT, Drawing, Palette, canvas, to_svg
from lit_mnist.report.experiments import AXES, Group, Sweep, find_sweeps, level_text, sets_alike
from lit_mnist.report.figures import (
    PANEL,
    columns,
    draw_groups,
    draw_runs,
    draw_sweeps,
    logarithmic,
    loss_curve,
    mark_levels,
    medians,
    panel,
)
from lit_mnist.report.findings import NAMED, listed
from lit_mnist.report.quantities import FINAL_LOSS, TARGETS, TEST_ACCURACY, Quantity, steps_to_target
from lit_mnist.report.render import Block, Bullets, Figures, Knob, Section
from lit_mnist.report.statistics import CONFIDENCE
from lit_mnist.report.why import readings

EQUIVALENT = 0.05  # relative difference of losses that linear scaling may leave
TWO_TESTS = 1 - 2 * (1 - CONFIDENCE)  # confidence of the interval that two one-sided tests at 5 % make
MISFIT = 0.3  # relative distance of a batch size from the law, beyond which the law is not stated
FEWEST_SIZES, FEWEST_RATES = 4, 3  # of a law
MOST_CELLS = 40  # of a knob; each is a figure, and takes 0.1 s
LEAST_LOSS = 1e-6  # nats; the axes of its figures end there
_METHODS = (
    "Linear scaling means the same final training loss at equal learning rate / batch size and equal images: two one-sided "
    "t tests of the logarithms at 5 %, for a difference of at most 5 %.",
    "The steps to a target are those at the learning rate with the fewest, among rates at which every run reached it; the "
    "target is the lowest of 0.1, 0.2, 0.5, 1 and 2 nats for which every batch size has such a rate. The law "
    "a (1 + N / batch size) is fitted to their logarithms by least squares (McCandlish et al. 2018).",
)


def find_grid(groups: Sequence[Group]) -> list[Group]:
    """Finds the largest set of groups that differ in nothing but learning rate and batch size, if it is more than a cross."""
    largest = max(sets_alike(groups, AXES), key=len)
    rates, sizes = ({each.level(axis) for each in largest} for axis in AXES)
    return largest if min(len(rates), len(sizes)) > 1 and len(largest) >= len(rates) + len(sizes) else []


def map_section(groups: Sequence[Group], palette: Palette) -> Section | None:
    """Draws and states what the learning rate and the batch size do together; None where they form no grid."""
    grid = find_grid(groups)
    if not grid:
        return None
    lines = sorted(find_sweeps(grid, "lr"), key=lambda line: line.fixed_level)
    drawings = [draw_sweeps(lines, quantity, palette, by_ratio=True) for quantity in (FINAL_LOSS, None)]
    caption = "Every run that has a value is a dot, lines join medians at one batch size; shares with 95 % intervals."
    sentences = linear_scaling(grid)
    steps, best = fastest(lines)
    if best:
        law = fit_law(best, steps)
        drawings.append(_draw_steps([*best], steps, law, palette))
        caption += " Steps are those at the fastest learning rate" + (", and the line is the law." if law else ".")
        sentences += [law_sentence([*best], steps, law)] if law else []
    blocks: list[Block] = [Figures(drawings, caption)]
    blocks += [Bullets(sentences)] if sentences else []
    if knob := _make_knob(grid, palette):
        blocks.append(knob)
    return Section("map", "Learning rate and batch size together", blocks, methods=_METHODS)


def linear_scaling(grid: Sequence[Group]) -> list[str]:
    """States up to which batch size the final loss is the same at equal learning rate / batch size, for each such ratio."""
    chains: dict[str, list[Group]] = {}
    for each in sorted(grid, key=lambda each: each.result.batch_size):
        chains.setdefault(f"{each.result.lr / each.result.batch_size:.6g}", []).append(each)
    holds, breaks = [], []
    for ratio, (first, *larger) in chains.items():
        same = first
        for each in larger:
            is_same = FINAL_LOSS.compare(first, each, TWO_TESTS).within(math.log1p(EQUIVALENT))
            if first.failed or each.failed or not is_same:
                break
            same = each
        if same is not first:
            holds.append(f"from {first.result.batch_size} to {same.result.batch_size} at {ratio}")
        elif larger and not larger[0].failed and (change := FINAL_LOSS.compare(first, larger[0])).direction:
            sizes = f"{first.result.batch_size} to {larger[0].result.batch_size}"
            breaks.append(f"from {sizes} at {ratio} (a factor of {math.exp(change.value):.2f})")
    sentences = []
    if holds:
        sentences.append(
            "At equal learning rate / batch size the final training loss is the same, to within 5 %, for batch sizes "
            f"{listed(holds[:NAMED])}: linear scaling holds there."
        )
    if breaks:
        sentences.append(f"Linear scaling does not hold for batch sizes {listed(breaks[:NAMED])}.")
    return sentences


def fastest(lines: Sequence[Sweep]) -> tuple[Quantity, dict[Group, Sweep]]:
    """Finds the lowest target that all runs at some rate of every batch size reach, and the fastest such rate of each size.

    Args:
        lines: Sweeps over the learning rate, smallest batch size first.

    Returns:
        The SGD steps to the target, and the fastest group of each sweep; none if there is no such target.
    """
    for steps in map(steps_to_target, TARGETS):
        found = {}
        for line in lines:
            reached = [each for each in line.groups if len(steps.values(each)) == len(each.runs)]
            if reached and len(line.groups) >= FEWEST_RATES:
                found[min(reached, key=lambda each: fmean(steps.values(each)))] = line
        if len(found) == len(lines):
            break
        found = {}
    return steps, found


@dataclass(frozen=True)
class Law:
    """SGD steps to a target = least x (1 + images / batch size); `low` and `high` bound the images at 95 %."""

    least: float
    images: float
    low: float
    high: float


def fit_law(best: Mapping[Group, Sweep], steps: Quantity) -> Law | None:
    """Fits the law to the logarithms of the steps of all runs; None if it does not describe them, or they do not bound it.

    At least four batch sizes are needed, each fastest inside its sweep over the learning rate.
    """
    if len(best) < FEWEST_SIZES or any(each in (line.groups[0], line.groups[-1]) for each, line in best.items()):
        return None
    sizes, taken = np.array([(each.result.batch_size, value) for each in best for value in steps.values(each)], float).T

    def logarithm(size: Any, least: float, images: float) -> Any:
        return np.logaddexp(least, least + images - np.log(size))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optimize.OptimizeWarning)  # its covariance is infinite then
        try:
            fitted, covariance = optimize.curve_fit(logarithm, sizes, np.log(taken), [math.log(taken.min() / 2), 4.0])
        except RuntimeError:  # no convergence
            return None
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(taken) - 2)) * math.sqrt(covariance[1, 1])
    misfit = max(abs(math.log(fmean(steps.values(each))) - logarithm(each.result.batch_size, *fitted)) for each in best)
    if not margin < math.log(10) or misfit > math.log1p(MISFIT):
        return None
    least, images = map(math.exp, fitted)
    return Law(least, images, images / math.exp(margin), images * math.exp(margin))


def law_sentence(best: Sequence[Group], steps: Quantity, law: Law) -> str:
    """States up to where a larger batch saves SGD steps, and the gradient noise scale where it was measured."""
    images, scales = f"{law.images:.0f}", []
    for run in (run for each in best for run in each.runs):
        epochs = (steps.of(run) or 0) / max(1, run.result.steps_per_epoch)
        scales += [value for epoch, value in readings(run, "gradient_noise_scale") if epoch <= epochs][-1:]
    noise = (
        f" The gradient noise scale measured on the way there has a median of {median(scales):.0f} images." if scales else ""
    )
    return (
        f"From batch size {best[0].result.batch_size} to {best[-1].result.batch_size}, each at its fastest learning rate, the "
        f"{steps.name} follow {law.least:,.0f} × (1 + {images} / batch size), with {law.low:.0f} to {law.high:.0f} for "
        f"{images}: batches much larger than {images} images save hardly any more steps.{noise}"
    )


def _draw_steps(best: Sequence[Group], steps: Quantity, law: Law | None, palette: Palette) -> Drawing:
    """Draws the SGD steps to the target against the batch size, and the law."""
    sizes = [each.result.batch_size for each in best]
    with canvas(*PANEL) as figure:
        axes = panel(figure, steps.name, "batch size")
        for each, size in zip(best, sizes, strict=True):
            draw_groups(axes, {each: size}, steps, palette.at("batch_size", size))
        if law:
            curve = np.geomspace(sizes[0], sizes[-1], 50)
            axes.plot(curve, law.least * (1 + law.images / curve), color=palette.at("batch_size", sizes[0]), linewidth=1)
        mark_levels(axes, sizes)
        logarithmic(axes)
        return Drawing("steps_to_target", "SGD steps to a target against the batch size", to_svg(figure))


def _make_knob(grid: Sequence[Group], palette: Palette) -> Knob | None:
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
        drawing = _draw_cell(each, [other for other in beside if other], bounds, palette, f"cell_{row}_{column}")
        cells[row, column] = Figures([drawing], _told(each))
    start = min(places, key=lambda place: (len(places[place].failed), median(FINAL_LOSS.values(places[place]) or [math.inf])))
    return Knob([*map(level_text, rates)], [*map(level_text, sizes)], cells, start)


def _told(group: Group) -> str:
    """The level of a cell and the results of its runs, as a caption."""
    parts = [f"{len(group.failed)} of {len(group.runs)} runs failed"]
    parts += [f"median {each.name} {each.median_text(group)}" for each in (FINAL_LOSS, TEST_ACCURACY) if each.values(group)]
    settings = f"Learning rate {level_text(group.result.lr)}, batch size {group.result.batch_size}"
    return f"{settings}: {', '.join(parts)}. Grey: medians of the neighbouring settings."


def _draw_cell(group: Group, neighbours: Sequence[Group], bounds: tuple[float, float], palette: Palette, name: str) -> Drawing:
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
