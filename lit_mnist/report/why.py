"""Section "Why": what was measured while the runs trained, and the sentences whose conditions hold."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from statistics import median

from lit_mnist.record.result import guessing
from lit_mnist.report.drawing import FAINT, INK, Drawing, Palette, canvas, to_svg
from lit_mnist.report.experiments import Group, Sweep
from lit_mnist.report.figures import PANEL, logarithmic
from lit_mnist.report.findings import listed
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.render import Block, Bullets, Figures, Section
from lit_mnist.report.statistics import difference, fails_evenly, rate_interval

Readings = list[tuple[float, float]]  # epoch and value
BATCH_EDGE, EDGE = "lr_batch_sharpness_half", "lr_sharpness_half"
SETTLED = 2.0  # epochs after which the position relative to the edge of stability is stated
FEWEST_MEASURED = 3  # runs of a group
FEWEST_FAILURES = 5  # of a group whose risk per epoch is stated
EQUAL_LOSSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # nats, at which test accuracies are compared
SAME_ACCURACY = 0.003  # a difference whose whole interval is smaller is called none
MOST_IN_LEGEND = 6  # groups
NAMED = 4  # groups in one sentence
METHODS = (
    "Sharpness is the largest eigenvalue of the Hessian of the training loss, on the same images in all runs. Batch sharpness "
    "is the mean over mini-batches of g'Hg / g'g, each with its own gradient g and Hessian H.",
    "A hidden unit is active on an image if its output is above 0, and dead if that is so for none of the measured images.",
    "The risk of failure per epoch is the number of failures over all epochs trained, with the exact Poisson interval; it "
    "counts as constant unless a binomial test tells the failures in the first half of these epochs from those in the second.",
)


def why_section(groups: Sequence[Group], sweeps: Sequence[Sweep], palette: Palette) -> Section | None:
    """Draws and states what explains the results; None where nothing was measured and nothing can be said.

    Args:
        groups: All groups.
        sweeps: The main sweep of each hyperparameter.
        palette: Colours of the groups.
    """
    measured = [each for each in groups if any(run.result.instruments for run in each.runs)]
    by_batch = [sweep for sweep in sweeps if sweep.axis == "batch_size"]
    sentences = [edge_of_stability(measured), *units(measured), *map(risk, groups)]
    sentences += map(equal_loss, sweeps)
    drawings = []
    if any(readings(run, BATCH_EDGE) for each in measured for run in each.runs):
        drawings.append(_draw(measured, palette, "edge_of_stability", "learning rate × batch sharpness / 2", BATCH_EDGE))
    if any(readings(run, "active") for each in measured for run in each.runs):
        drawings.append(_draw(measured, palette, "active_units", "active hidden units (%)", "active"))
    if drawings and by_batch:
        drawings += [_draw_losses(by_batch[0].groups, palette, amount) for amount in ("images", "SGD steps")]
    key = f" {palette.key}" if len(measured) > MOST_IN_LEGEND else ""
    blocks: list[Block] = [Bullets(found)] if (found := [each for each in sentences if each]) else []
    if drawings:
        crossed = " At the dashed line a step leaves the loss of its own mini-batch as it was." if len(drawings) > 1 else ""
        blocks.insert(0, Figures(drawings, f"Every measured run a dot, lines join medians.{crossed}{key}"))
    return Section("why", "Why", blocks) if blocks else None


def readings(run: RecordedRun, name: str) -> Readings:
    """Reads what was measured before a failure, by epoch; "active" and "dead" units in percent, the mean of the layers."""
    found = []
    for moment in run.result.instruments.get("measurements", []):
        layers = [value for key, value in moment.items() if key.startswith(f"{name}_units_")]
        value = 100 * sum(layers) / len(layers) if layers else moment.get(name, 0.0)
        epoch = moment.get("epoch", 0.0)
        if 0 < epoch <= (run.failure or math.inf) and (value > 0 or layers):
            found.append((epoch, value))
    return found


def edge_of_stability(groups: Sequence[Group]) -> str:
    """States where training sits relative to the edge of stability; "" without three measured runs of a group."""
    shown = _outermost(groups, lambda each: _settled(each, BATCH_EDGE))
    if not shown:
        return ""
    batch = [
        f"{median(values):.2f} with {each.name} ({_counted(each, len(values))})"
        for each in shown
        if (values := _settled(each, BATCH_EDGE))
    ]
    full = [f"{median(values):.2f} with {each.name}" for each in shown if (values := _settled(each, EDGE))]
    return (
        f"From epoch {SETTLED:g} on, the median of learning rate × batch sharpness / 2 is {listed(batch)}. At 1, the edge of "
        "stability, a step no longer lowers the loss of its own mini-batch."
        + (f" By the sharpness of the loss of all images it is {listed(full)}." if full else "")
    )


def _settled(group: Group, name: str) -> list[float]:
    """Median of each run's readings from epoch 2 on; none where fewer than three runs have any."""
    values = [[value for epoch, value in readings(run, name) if epoch >= SETTLED] for run in group.runs]
    medians = [median(each) for each in values if each]
    return medians if len(medians) >= FEWEST_MEASURED else []


def units(groups: Sequence[Group]) -> list[str]:
    """States with which settings the fewest and the most units are active, and dead, if the ranges of the runs are disjoint."""
    sentences = []
    for name in ("active", "dead"):
        last = {
            each: [found[-1][1] for run in each.runs if not run.result.failed and (found := readings(run, name))]
            for each in groups
        }
        ranked = sorted((each for each in groups if len(last[each]) >= FEWEST_MEASURED), key=lambda each: median(last[each]))
        if len(ranked) < 2 or max(last[ranked[0]]) >= min(last[ranked[-1]]):
            continue
        few, most = (
            f"with {each.name}, {min(last[each]):.1f} to {max(last[each]):.1f} % ({_counted(each, len(last[each]))})"
            for each in (ranked[0], ranked[-1])
        )
        sentences.append(f"At the end of training, the fewest hidden units are {name} {few}, and the most {most}.")
    return sentences


def risk(group: Group) -> str:
    """States the risk of failure per epoch; "" with fewer than five failures, or if the risk is not constant."""
    lengths, failed = [run.length for run in group.runs], [run.result.failed for run in group.runs]
    count, epochs = sum(failed), sum(lengths)
    if count < FEWEST_FAILURES or not fails_evenly(lengths, failed):
        return ""
    low, high = (100 * end for end in rate_interval(count, epochs))
    return (
        f"With {group.name}, {count} of {len(lengths)} runs failed in {epochs:.0f} epochs of training: a risk of "
        f"{100 * count / epochs:.1f} % per epoch ({low:.1f} to {high:.1f} %). It shows no change as training goes on, so a "
        "longer run fails more often."
    )


def equal_loss(sweep: Sweep) -> str:
    """States the levels farthest apart with the same test accuracy at two equal training losses, within 0.3 points."""
    levels = sweep.groups
    pairs = sorted(combinations(range(len(levels)), 2), key=lambda pair: pair[0] - pair[1])  # those far apart first
    for first, second in ((levels[low], levels[high]) for low, high in pairs):
        same = []
        for loss in EQUAL_LOSSES:
            samples = [
                [found for run in each.runs if (found := accuracy_at(run, loss)) is not None] for each in (first, second)
            ]
            if min(map(len, samples)) >= FEWEST_MEASURED:
                change = difference(*samples)
                if max(abs(change.low), abs(change.high)) <= SAME_ACCURACY:
                    same.append(
                        f"{100 * change.low:+.2f} to {100 * change.high:+.2f} points at {loss:g} nats".replace("-", "−")
                    )
        if len(same) > 1:
            where = f"{sweep.label} {sweep.level(first)} and {sweep.level(second)}"
            return (
                f"At equal training loss, test accuracy at {where} is the same to within {100 * SAME_ACCURACY:g} points "
                f"({listed([same[0], same[-1]])})."
            )
    return ""


def accuracy_at(run: RecordedRun, loss: float) -> float | None:
    """Test accuracy when an epoch's training loss first fell to `loss`, interpolated between epochs; None if it never did."""
    curve = list(zip(run.result.train_loss_by_epoch, run.result.test_accuracy_by_epoch, strict=False))
    for (before, low), (after, high) in pairwise(curve):
        if after <= loss < before:
            share = math.log(before / loss) / math.log(before / after) if after > 0 else 1.0
            return low + share * (high - low)
    return None


def _outermost(groups: Sequence[Group], values: Callable[[Group], list[float]]) -> list[Group]:
    """The measured groups by their median, or the two lowest and the two highest of many."""
    ranked = sorted((each for each in groups if values(each)), key=lambda each: median(values(each)))
    return ranked if len(ranked) <= NAMED + 1 else ranked[: NAMED // 2] + ranked[-NAMED // 2 :]


def _counted(group: Group, measured: int) -> str:
    """The number of runs behind a value, and of failures among all, to be put in parentheses."""
    of = f" of {len(group.runs)}" if measured < len(group.runs) else ""
    return f"{measured}{of} runs" + (f"; {len(group.failed)} failed" if group.failed else "")


def _draw(groups: Sequence[Group], palette: Palette, file: str, label: str, name: str) -> Drawing:
    """Draws a reading against the epoch: every run a dot, medians joined."""
    with canvas(*PANEL) as figure:
        axes = figure.add_axes((0.145, 0.145, 0.825, 0.76), xlabel="epoch", xscale="log")
        axes.set_title(label, loc="left")
        for each in groups:
            by_epoch: dict[float, list[float]] = {}
            for run in each.runs:
                for epoch, value in readings(run, name):
                    by_epoch.setdefault(epoch, []).append(value)
                    axes.plot(epoch, value, "o", color=palette.of(each), alpha=0.3, markersize=3, markeredgewidth=0)
            epochs = sorted(by_epoch)
            middle = [median(by_epoch[epoch]) for epoch in epochs]
            axes.plot(epochs, middle, color=palette.of(each), linestyle=palette.dash(each), label=each.name)
        if name == BATCH_EDGE:
            axes.axhline(1, color=INK, linewidth=0.9, linestyle="dashed")
            logarithmic(axes)
        axes.xaxis.set_major_formatter("{x:g}")
        if len(groups) <= MOST_IN_LEGEND:
            axes.legend(fontsize=8, handlelength=1.6)
        return Drawing(file, f"{label.capitalize()} against epoch, every measured run", to_svg(figure))


def _draw_losses(groups: Sequence[Group], palette: Palette, amount: str) -> Drawing:
    """Draws the median training loss of blocks of mini-batches against images or SGD steps, on two logarithmic axes."""
    top = 1.3 * guessing(groups[0].result.classes)
    with canvas(*PANEL) as figure:
        axes = figure.add_axes(
            (0.145, 0.145, 0.825, 0.76), xlabel=f"{amount} seen" if amount == "images" else amount, xscale="log"
        )
        axes.set_title("training loss (nats)", loc="left")
        for each in groups:
            by_step: dict[int, list[float]] = {}
            for run in each.runs:
                for step, loss in run.block_losses if not run.result.failed else []:
                    by_step.setdefault(step, []).append(min(max(loss, 1e-12), top))
            scale = each.result.batch_size if amount == "images" else 1
            steps = sorted(by_step)
            middle = [median(by_step[step]) for step in steps]
            axes.plot([scale * step for step in steps], middle, color=palette.of(each), linestyle=palette.dash(each),
                      linewidth=1.1, label=each.name)  # fmt: skip
        logarithmic(axes)
        axes.grid(color=FAINT)
        axes.legend(fontsize=8, handlelength=1.6)
        return Drawing(f"loss_by_{amount.split()[-1]}", f"Training loss against {amount}", to_svg(figure))
