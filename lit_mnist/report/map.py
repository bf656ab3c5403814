"""Section on a grid of learning rates and batch sizes: what depends on their ratio, and what a larger batch saves."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter
from scipy import optimize, stats

from lit_mnist.report.drawing import Drawing, Palette, canvas, to_svg
from lit_mnist.report.experiments import AXES, Group, experiment_key, level_text
from lit_mnist.report.figures import PANEL, logarithmic
from lit_mnist.report.findings import NAMED, listed
from lit_mnist.report.knob import make_knob
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.quantities import FINAL_LOSS, TARGETS, steps_to
from lit_mnist.report.render import Block, Bullets, Figures, Section
from lit_mnist.report.statistics import CONFIDENCE, equivalent, share_interval
from lit_mnist.report.why import readings

EQUIVALENT = 0.05  # relative difference of losses that linear scaling may leave
MISFIT = 0.3  # relative distance of a batch size from the law, beyond which the law is not stated
FEWEST_SIZES, FEWEST_RATES = 4, 3  # of a law
_METHODS = (
    "Linear scaling means the same final training loss at equal learning rate / batch size and equal images: two one-sided "
    "t tests of the logarithms at 5 %, for a difference of at most 5 %.",
    "The steps to a target are those at the learning rate with the fewest, among rates at which every run reached it; the "
    "target is the lowest of 0.1, 0.2, 0.5, 1 and 2 nats for which every batch size has such a rate. The law "
    "a (1 + N / batch size) is fitted to their logarithms by least squares (McCandlish et al. 2018).",
)


@dataclass(frozen=True)
class Fastest:
    """The learning rate that takes a batch size to the target in the fewest SGD steps.

    Attributes:
        group: Its runs.
        steps: SGD steps to the target of each run.
        is_inside: True if a lower and a higher learning rate were tried.
    """

    group: Group
    steps: list[float]
    is_inside: bool


def find_grid(groups: Sequence[Group]) -> list[Group]:
    """Finds the largest set of groups that differ in nothing but learning rate and batch size, if it is more than a cross."""
    alike: dict[str, list[Group]] = {}
    for each in groups:
        alike.setdefault(experiment_key(each.result.hyperparameters, AXES), []).append(each)
    largest = max(alike.values(), key=len)
    rates, sizes = ({each.level(axis) for each in largest} for axis in AXES)
    return largest if min(len(rates), len(sizes)) > 1 and len(largest) >= len(rates) + len(sizes) else []


def map_section(groups: Sequence[Group], palette: Palette) -> Section | None:
    """Draws and states what the learning rate and the batch size do together; None where they form no grid.

    Args:
        groups: All groups.
        palette: Colours of the groups.
    """
    grid = find_grid(groups)
    if not grid:
        return None
    drawings = [_draw_ratio(grid, palette, failures) for failures in (False, True)]
    caption = "Every run that has a value is a dot, lines join medians at one batch size; shares with 95 % intervals."
    sentences = linear_scaling(grid)
    target, best = fastest(grid)
    if best:
        law = fit_law(best)
        drawings.append(_draw_steps(best, target, law, palette))
        caption += " Steps are those at the fastest learning rate" + (", and the line is the law." if law else ".")
        sentences.append(law_sentence(best, target, law))
    blocks: list[Block] = [Figures(drawings, caption)]
    if found := [each for each in sentences if each]:
        blocks.append(Bullets(found))
    if knob := make_knob(grid, palette):
        blocks.append(knob)
    return Section("map", "Learning rate and batch size together", blocks, methods=_METHODS)


def linear_scaling(grid: Sequence[Group]) -> list[str]:
    """States up to which batch size the final loss is the same at equal learning rate / batch size, for each such ratio."""
    chains: dict[str, list[Group]] = {}
    for each in sorted(grid, key=lambda each: each.result.batch_size):
        chains.setdefault(f"{each.result.lr / each.result.batch_size:.6g}", []).append(each)
    holds, breaks = [], []
    for ratio, chain in chains.items():
        first, same = chain[0], [chain[0]]
        for each in chain[1:]:
            samples = FINAL_LOSS.compared(first), FINAL_LOSS.compared(each)
            if each.failed or first.failed or not equivalent(*samples, math.log1p(EQUIVALENT)):
                break
            same.append(each)
        if len(same) > 1:
            holds.append(f"from {first.result.batch_size} to {same[-1].result.batch_size} at {ratio}")
        elif len(chain) > 1 and not chain[1].failed and FINAL_LOSS.compared(first):
            change = FINAL_LOSS.compare(first, chain[1])
            if change and change.direction:
                sizes = f"{first.result.batch_size} to {chain[1].result.batch_size}"
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


def fastest(grid: Sequence[Group]) -> tuple[float, list[Fastest]]:
    """Finds the lowest target that all runs at some rate of every batch size reach, and the fastest such rate of each size.

    Returns:
        The target in nats, and the batch sizes, smallest first; none if there is no such target.
    """
    sizes = sorted({each.result.batch_size for each in grid})
    for target in TARGETS:
        found = []
        for size in sizes:
            line = sorted((each for each in grid if each.result.batch_size == size), key=lambda each: each.result.lr)
            times = {each: [steps for run in each.runs if (steps := steps_to(run, target))] for each in line}
            reached = [each for each in line if len(times[each]) == len(each.runs)]
            if len(line) >= FEWEST_RATES and reached:
                best = min(reached, key=lambda each: fmean(times[each]))
                found.append(Fastest(best, times[best], best not in (line[0], line[-1])))
        if len(found) == len(sizes):
            return target, found
    return math.nan, []


@dataclass(frozen=True)
class Law:
    """SGD steps to a target = least x (1 + images / batch size); `low` and `high` bound the images at 95 %."""

    least: float
    images: float
    low: float
    high: float

    def steps(self, size: Any) -> Any:
        """Computes the steps at a batch size, or at many."""
        return self.least * (1 + self.images / size)


def fit_law(best: Sequence[Fastest]) -> Law | None:
    """Fits the law to the logarithms of the steps of all runs; None if it does not describe them, or they do not bound it.

    Args:
        best: At least four batch sizes, each fastest at a rate inside the grid; else None is returned.
    """
    if len(best) < FEWEST_SIZES or not all(each.is_inside for each in best):
        return None
    sizes = np.array([each.group.result.batch_size for each in best for _ in each.steps], float)
    steps = np.array([steps for each in best for steps in each.steps])

    def logarithm(size: Any, least: float, images: float) -> Any:
        return np.logaddexp(least, least + images - np.log(size))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optimize.OptimizeWarning)  # its covariance is infinite then
        try:
            fitted, covariance = optimize.curve_fit(logarithm, sizes, np.log(steps), [math.log(steps.min() / 2), 4.0])
        except RuntimeError:  # no convergence
            return None
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(steps) - 2)) * math.sqrt(covariance[1, 1])
    misfit = max(abs(math.log(fmean(each.steps)) - logarithm(each.group.result.batch_size, *fitted)) for each in best)
    if not margin < math.log(10) or misfit > math.log1p(MISFIT):
        return None
    least, images = map(math.exp, fitted)
    return Law(least, images, images / math.exp(margin), images * math.exp(margin))


def law_sentence(best: Sequence[Fastest], target: float, law: Law | None) -> str:
    """States up to where a larger batch saves SGD steps; "" without a law."""
    if law is None:
        return ""
    scales = [reading for each in best for run in each.group.runs if (reading := _noise_scale(run, target)) is not None]
    noise = (
        f" The gradient noise scale measured on the way there has a median of {median(scales):.0f} images." if scales else ""
    )
    smallest, largest = (each.group.result.batch_size for each in (best[0], best[-1]))
    images = f"{law.images:.0f}"
    return (
        f"From batch size {smallest} to {largest}, each at its fastest learning rate, the SGD steps to a training loss of "
        f"{target:g} follow {law.least:,.0f} × (1 + {images} / batch size), with {law.low:.0f} to {law.high:.0f} for {images}: "
        f"batches much larger than {images} images save hardly any more steps.{noise}"
    )


def _noise_scale(run: RecordedRun, target: float) -> float | None:
    reached = steps_to(run, target)
    before = [
        value
        for epoch, value in readings(run, "gradient_noise_scale")
        if reached and epoch * run.result.steps_per_epoch <= reached
    ]
    return before[-1] if before else None


def _draw_ratio(grid: Sequence[Group], palette: Palette, failures: bool) -> Drawing:
    """Draws final losses, or shares of failures, against learning rate / batch size, a line for each batch size."""
    name = "failed runs (%)" if failures else "final training loss (nats)"
    with canvas(*PANEL) as figure:
        axes = figure.add_axes((0.145, 0.145, 0.825, 0.76), xlabel="learning rate / batch size", xscale="log")
        axes.set_title(name, loc="left")
        for size in sorted({each.result.batch_size for each in grid}):
            color, points = palette.at("batch_size", size), []
            for each in sorted((each for each in grid if each.result.batch_size == size), key=lambda each: each.result.lr):
                x, n = each.result.lr / size, len(each.runs)
                if failures:
                    interval = [100 * end for end in share_interval(len(each.failed), n)]
                    axes.plot([x, x], interval, color=color, linewidth=1, alpha=0.3)
                    points.append((x, 100 * len(each.failed) / n))
                elif values := FINAL_LOSS.values(each):
                    axes.plot([x] * len(values), values, "o", color=color, alpha=0.4, markersize=3.5, markeredgewidth=0)
                    points.append((x, median(values)))
            axes.plot([x for x, _ in points], [y for _, y in points], color=color, label=level_text(size))
        if failures:
            axes.set_ylim(-4, 104)
        else:
            logarithmic(axes)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=8, handlelength=1.2, title="batch size", title_fontsize=8)
        file = "failed_runs_by_ratio" if failures else "final_loss_by_ratio"
        return Drawing(file, f"{name.partition(' (')[0].capitalize()} against learning rate / batch size", to_svg(figure))


def _draw_steps(best: Sequence[Fastest], target: float, law: Law | None, palette: Palette) -> Drawing:
    """Draws the SGD steps to the target against the batch size, and the law."""
    with canvas(*PANEL) as figure:
        axes = figure.add_axes((0.145, 0.145, 0.825, 0.76), xlabel="batch size", xscale="log")
        axes.set_title(f"SGD steps to a training loss of {target:g}", loc="left")
        sizes = [each.group.result.batch_size for each in best]
        for size, each in zip(sizes, best, strict=True):
            axes.plot([size] * len(each.steps), each.steps, "o", color=palette.at("batch_size", size), alpha=0.6)
        if law:
            curve = np.geomspace(sizes[0], sizes[-1], 50)
            axes.plot(curve, law.steps(curve), color=palette.at("batch_size", sizes[0]), linewidth=1)
        axes.set_xticks(sizes, map(level_text, sizes))
        axes.minorticks_off()
        logarithmic(axes)
        return Drawing("steps_to_target", "SGD steps to a target against the batch size", to_svg(figure))
