"""Section "Why": what was measured while the runs trained, and the sentences whose conditions hold."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations, pairwise
from statistics import median

from matplotlib.ticker import LogLocator

from lit_mnist.record.result import guessing
from lit_mnist.report.drawing import INK, Drawing, Palette, canvas, to_svg
from lit_mnist.report.experiments import Group, Sweep
from lit_mnist.report.figures import PANEL, Points, gather, logarithmic, loss_curve, panel
from lit_mnist.report.findings import listed, points
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.quantities import three_digits
from lit_mnist.report.render import Block, Bullets, Figures, Section
from lit_mnist.report.statistics import difference, fails_evenly, rate_interval

BATCH_EDGE, EDGE = "lr_batch_sharpness_half", "lr_sharpness_half"
SETTLED = 2.0  # epochs after which the position relative to the edge of stability is stated
FEWEST_MEASURED = 3  # runs of a group
FEWEST_FAILURES = 5  # of a group whose risk per epoch is stated
EQUAL_LOSSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # nats, at which test accuracies are compared
SAME_ACCURACY = 0.003  # a difference whose whole interval is smaller is called none
MANY = 6  # groups: more have no legend and are not all named
_METHODS = (
    "Sharpness is the largest eigenvalue of the Hessian of the training loss, on the same images in all runs. Batch sharpness "
    "is the mean over mini-batches of g'Hg / g'g, each with its own gradient g and Hessian H.",
    "An image activates a hidden unit if the unit's output is above 0; a unit that no measured image activates is dead. Shares "
    "are means over the hidden layers.",
    "The risk of failure per epoch is the number of failures over all epochs trained, with the exact Poisson interval; it "
    "is given for five failures or more, unless a Kolmogorov-Smirnov test tells them from failures at a constant risk.",
    "Test accuracies are compared where the loss of an epoch's last block first falls to 0.5, 0.2, 0.1, 0.05, 0.02 or 0.01 "
    "nats, interpolated between the ends of epochs.",
)


def why_section(groups: Sequence[Group], sweeps: Sequence[Sweep], palette: Palette) -> Section | None:
    """Draws and states what explains the results; None where nothing was measured and nothing can be said.

    `sweeps` are the main ones.
    """
    sentences = [edge_of_stability(groups)]
    sentences += [units(sweep, kind) for sweep in sweeps for kind in ("active", "dead")]
    sentences += [risk(groups), *map(equal_accuracy, sweeps)]
    drawings = []
    for name, label in ((BATCH_EDGE, "learning rate × batch sharpness / 2"), ("active", "active hidden units (%)")):
        curves = {each: [readings(run, name) for run in each.runs] for each in groups}
        drawings += _draw(name, label, "epoch", curves, palette)
    for sweep in sweeps:
        top = 1.3 * guessing(sweep.groups[0].result.classes)
        for amount in ("images", "SGD steps") if sweep.axis == "batch_size" else ():
            scales = {each: each.result.batch_size if amount == "images" else 1 for each in sweep.groups}
            curves = {each: [loss_curve(run, top, scale) for run in each.runs] for each, scale in scales.items()}
            name = f"loss_by_{amount.split()[-1]}"
            drawings += _draw(name, "training loss (nats)", amount, curves, Palette(sweep.groups))
    blocks: list[Block] = []
    if drawings:
        bands = palette.key if len(groups) > MANY else "Bands reach from the lowest run to the highest."
        blocks.append(Figures(drawings, f"Lines join medians. {bands} A run counts until it fails."))
    if said := [*filter(None, sentences)]:
        blocks.append(Bullets(said))
    return Section("why", "Why", blocks, methods=_METHODS) if blocks else None


def readings(run: RecordedRun, name: str) -> Points:
    """Reads what was measured before the run ended or failed, by epoch, leaving out what no training can give.

    Args:
        run: Any run.
        name: A measurement above 0; or "active" or "dead", the mean share of the units of the hidden layers, in percent.
    """
    found = []
    for moment in run.result.instruments.get("measurements", []):
        layers = [value for key, value in moment.items() if key.startswith(f"{name}_units_")]
        value = 100 * sum(layers) / len(layers) if layers else moment.get(name, 0.0)
        is_possible = 0 <= value <= 100 if layers else value > 0
        epoch = moment.get("epoch", 0.0)
        if is_possible and 0 < epoch <= run.length and epoch != run.failure:
            found.append((epoch, value))
    return found


def edge_of_stability(groups: Sequence[Group]) -> str:
    """States on which side of the edge of stability the runs train; "" without three measured runs of a group."""
    places = _measured(groups, partial(_settled, name=BATCH_EDGE))
    shown = sorted(places, key=lambda each: median(places[each]))
    shown = shown if len(shown) <= MANY else shown[: MANY // 2] + shown[-(MANY // 2) :]
    sides: dict[str, list[str]] = {}
    for each in shown:
        low, high = min(places[each]), max(places[each])
        side = "below 1" if high < 1 else "above 1" if low > 1 else "on both sides of 1"
        ends = f"{three_digits(low)} to {three_digits(high)}"
        place = f"{three_digits(median(places[each]))}; {ends} in {_counted(each, places[each])}"
        sides.setdefault(side, []).append(f"{each.name} ({place})")
    if not sides:
        return ""
    told = ", and ".join(f"{side} with {listed(names)}" for side, names in sides.items())
    whole = _measured(shown, partial(_settled, name=EDGE))
    named = [f"{three_digits(median(values))} with {each.name}" for each, values in whole.items()]
    return (
        f"From epoch {SETTLED:g} on, the median of learning rate × batch sharpness / 2 is {told}. At 1, the edge of stability, "
        "a step no longer lowers the loss of its own mini-batch."
        + (f" With the sharpness of the whole training loss, it is {listed(named)}." if named else "")
    )


def units(sweep: Sweep, kind: str) -> str:
    """States at which levels the fewest and the most units are "active" or "dead", if the ranges of the runs are disjoint."""
    last = _measured(sweep.groups, partial(_last, name=kind))
    ranked = sorted(last, key=lambda each: median(last[each]))
    if not ranked or max(last[ranked[0]]) >= min(last[ranked[-1]]):
        return ""
    few, most = (
        (f"{_from_to(last[each])} %", f"{sweep.level(each)} ({_counted(each, last[each])})") for each in (ranked[0], ranked[-1])
    )
    what = "of the hidden units are active on an average image" if kind == "active" else "of the hidden units are dead"
    return f"When last measured, {few[0]} {what} at {sweep.label} {few[1]}, but {most[0]} at {most[1]}."


def _from_to(shares: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys((f"{min(shares):.1f}", f"{max(shares):.1f}")))


def risk(groups: Sequence[Group]) -> str:
    """States the risk of failure per epoch where at least five runs of a group failed, and at a constant risk; else ""."""
    told = []
    for each in sorted(groups, key=lambda each: -len(each.failed)):
        lengths, failed = [run.length for run in each.runs], [run.result.failed for run in each.runs]
        count, epochs = sum(failed), sum(lengths)
        if count >= FEWEST_FAILURES and fails_evenly(lengths, failed):
            low, high = (100 * end for end in rate_interval(count, epochs))
            counted = f"{count} of {len(lengths)} runs failed in {epochs:.0f} epochs"
            told.append(f"{100 * count / epochs:.1f} % with {each.name} ({low:.1f} to {high:.1f} %; {counted})")
    if not told:
        return ""
    return (
        f"The risk of failure per epoch is {listed(told[:MANY])}. Nothing suggests that it changes as training goes on, so a "
        "longer run is more likely to fail."
    )


def equal_accuracy(sweep: Sweep) -> str:
    """States the widest pair of levels whose test accuracies are the same, within 0.3 points, at two equal losses at least.

    "" where there is none, or where accuracies at another equal loss are further apart than that beyond doubt.
    """
    samples = {loss: _measured(sweep.groups, partial(accuracy_at, loss=loss)) for loss in EQUAL_LOSSES}
    pairs = sorted(combinations(sweep.groups, 2), key=lambda pair: -pair[1].level(sweep.axis) / pair[0].level(sweep.axis))
    for first, second in pairs:
        both = {loss: (found[first], found[second]) for loss, found in samples.items() if {first, second} <= found.keys()}
        changes = {loss: difference(*accuracies) for loss, accuracies in both.items()}
        same = [
            f"{points(change)} at {loss:g} nats in {len(both[loss][0])} and {len(both[loss][1])} runs"
            for loss, change in changes.items()
            if change.within(SAME_ACCURACY)
        ]
        if len(same) > 1 and all(change.low <= SAME_ACCURACY and change.high >= -SAME_ACCURACY for change in changes.values()):
            return (
                f"At equal training loss, test accuracy at {sweep.label} {sweep.level(first)} and {sweep.level(second)} is the "
                f"same to within {100 * SAME_ACCURACY:g} points ({same[0]}, {same[-1]})."
            )
    return ""


def accuracy_at(run: RecordedRun, loss: float) -> float | None:
    """Test accuracy when the training loss first fell to `loss`, between two ends of epochs; None if it never did."""
    blocks, per_epoch = dict(run.block_losses), run.result.steps_per_epoch
    ends = enumerate(run.result.test_accuracy_by_epoch, 1)
    curve = [(blocks[epoch * per_epoch], accuracy) for epoch, accuracy in ends if epoch * per_epoch in blocks]
    for (before, low), (after, high) in pairwise(curve):
        if after <= loss < before:
            share = math.log(before / loss) / math.log(before / after) if after > 0 else 1.0
            return low + share * (high - low)
    return None


def _measured(groups: Sequence[Group], of: Callable[[RecordedRun], float | None]) -> dict[Group, list[float]]:
    """Values of the runs, of groups with three at least."""
    values = {each: [value for run in each.runs if (value := of(run)) is not None] for each in groups}
    return {each: found for each, found in values.items() if len(found) >= FEWEST_MEASURED}


def _settled(run: RecordedRun, name: str) -> float | None:
    """Median of the readings from epoch 2 on."""
    values = [value for epoch, value in readings(run, name) if epoch >= SETTLED]
    return median(values) if values else None


def _last(run: RecordedRun, name: str) -> float | None:
    """The last reading of a run that did not fail."""
    found = [] if run.result.failed else readings(run, name)
    return found[-1][1] if found else None


def _counted(group: Group, measured: Sequence[float]) -> str:
    """The number of runs behind a value, and of failures among all, to be put in parentheses."""
    of = f" of {len(group.runs)}" if len(measured) < len(group.runs) else ""
    return f"{len(measured)}{of} runs" + (f", {len(group.failed)} failed" if group.failed else "")


def _draw(file: str, label: str, xlabel: str, curves: Mapping[Group, Sequence[Points]], palette: Palette) -> list[Drawing]:
    """Draws medians and ranges of the curves of each group's runs; nothing if there are no points."""
    values = {each: gather(runs) for each, runs in curves.items() if any(runs)}
    if not values:
        return []
    with canvas(*PANEL) as figure:
        axes = panel(figure, label, xlabel)
        for each, found in values.items():
            middle, low, high = ([pick(some) for some in found.values()] for pick in (median, min, max))
            if len(values) <= MANY:
                axes.fill_between([*found], low, high, color=palette.of(each), alpha=0.15, linewidth=0)
            axes.plot([*found], middle, color=palette.of(each), linestyle=palette.dash(each), label=each.name)
        if file == BATCH_EDGE:
            axes.axhline(1, color=INK, linewidth=0.9, linestyle="dashed")
        if file != "active":
            logarithmic(axes)
        if xlabel == "epoch":
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}" if xlabel == "epoch" else "{x:,.0f}")
        if len(values) <= MANY:
            axes.legend(fontsize=8, handlelength=1.6)
        return [Drawing(file, f"{label.capitalize()} against {xlabel}", to_svg(figure))]
