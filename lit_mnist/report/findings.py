"""Sentences that the runs support: each is made of numbers, and only if its condition holds."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from statistics import fmean

from lit_mnist.record.result import Result
from lit_mnist.report.experiments import AXES, Group, Sweep, find_sweeps, group_runs
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.quantities import DECLARED, FINAL_LOSS, FIRST_LOSS, TEST_ACCURACY, Quantity, loss_at_steps
from lit_mnist.report.statistics import Difference, share_interval, trend

SIGNIFICANCE = 0.05
FEW_RUNS = 10  # at a level: too few to see anything but large differences between shares
NAMED = 3  # levels that the best one is compared with, and other things of one kind, in a sentence


def answers(results: Mapping[Path, Result]) -> list[str]:
    """Answers what the learning rate and the batch size do in one run or more, in the sentences of the first screen."""
    groups, _ = group_runs([RecordedRun(str(path), result, path) for path, result in results.items()])
    main = [sweeps[0] for axis in AXES if (sweeps := find_sweeps(groups, axis))]
    return [sentence for sweep in main for sentence in lead_sentences(sweep)] or overview(groups)


def lead_sentences(sweep: Sweep) -> list[str]:
    """Answers what the swept hyperparameter does, in two to four sentences."""
    failures = failure_trend(sweep) if any(each.failed for each in sweep.groups) else ""
    found = [best(sweep.groups, quantity, lambda each: f"at {sweep.level(each)}") for quantity in (FINAL_LOSS, TEST_ACCURACY)]
    return [*filter(None, (failures, per_image_and_step(sweep), *found))]


def section_sentences(sweep: Sweep) -> list[str]:
    """States how each quantity changes along the levels, with intervals."""
    found = [failure_trend(sweep), per_image_and_step(sweep), *(changes(sweep, quantity) for quantity in DECLARED)]
    return [*filter(None, found)]


def overview(groups: Sequence[Group]) -> list[str]:
    """Describes groups that form no sweep."""
    found = [best(groups, quantity, lambda each: f"with {each.name}") for quantity in (FINAL_LOSS, TEST_ACCURACY)]
    failed, n = sum(len(each.failed) for each in groups), sum(len(each.runs) for each in groups)
    found.append(f"{failed} of {n} runs failed." if failed else f"No run failed (0 of {n}).")
    return [*filter(None, found)]


def failure_trend(sweep: Sweep) -> str:
    """States how the share of failed runs goes with the level, or that too few runs tell."""
    failed, n = [len(each.failed) for each in sweep.groups], [len(each.runs) for each in sweep.groups]
    if not sum(failed):
        return f"No run failed at any {sweep.label} (0 of {sum(n)})."
    if sum(failed) == sum(n):
        return f"All {sum(n)} runs failed, whatever the {sweep.label}."
    counts = []
    for fails, level in groupby(sweep.groups, lambda each: len(each.failed) / len(each.runs)):
        alike = list(level)
        runs, first, last = sum(len(each.runs) for each in alike), sweep.level(alike[0]), sweep.level(alike[-1])
        low, high = share_interval(round(fails * runs), runs)
        where = f"from {first} to {last}" if len(alike) > 1 else f"at {first}"
        interval = f" ({100 * low:.0f} to {100 * high:.0f} %)" if fails else ""
        counts.append(f"{fails * runs:.0f} of {runs} {where}{interval}")
    direction, p = trend(failed, n)
    told = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    if p < SIGNIFICANCE and direction:
        more = "More" if direction > 0 else "Fewer"
        return f"{more} runs fail as the {sweep.label} increases: {listed(counts)}; trend {told}."
    if min(n) < FEW_RUNS:
        return f"Some runs failed: {listed(counts)}; too few runs to tell whether the {sweep.label} matters."
    return f"Failures show no steady trend with the {sweep.label}: {listed(counts)}; trend {told}."


def best(groups: Sequence[Group], quantity: Quantity, label: Callable[[Group], str]) -> str:
    """States which group is best, as `label` calls it, and its distance from the others; "" if there are none."""
    measured = [each for each in groups if quantity.values(each)]
    if len(measured) < 2:
        return ""
    first, *others = sorted(measured, key=lambda each: fmean(quantity.compared(each)), reverse=not quantity.is_loss)
    if len(others) > NAMED:
        others = [others[0], others[-1]]
    apart, close, unknown = [], [], []
    for each in others:
        change, counted = quantity.compare(first, each), _counted(each, quantity)
        if not change.known:
            unknown.append(f"{quantity.median_text(each)} {label(each)}")
        elif change.direction:
            value, interval = _size(change, quantity)
            amount = f"{value} times as high" if quantity.is_loss else f"{value} points lower"
            apart.append(f"{amount} {label(each)} ({interval}{counted})")
        else:
            close.append(f"{label(each)} ({quantity.median_text(each)}{counted}; {_range(change, quantity)})")
    name, word = quantity.name.capitalize(), "lowest" if quantity.is_loss else "highest"
    value = f"{quantity.median_text(first)}{_counted(first, quantity)}"
    told = apart + ([f"{listed(unknown)} (too few runs for an interval)"] if unknown else [])
    if not close:
        return f"{name} is {word} {label(first)}: {value}. It is {listed(told)}."
    tie = f"{name} is {word} {label(first)} ({value}) or {' or '.join(close)}"
    if not told:
        return f"{tie}: too close to tell."
    return f"{tie}. It is {listed(told)} {'as' if quantity.is_loss else 'than'} {label(first)}."


def changes(sweep: Sweep, quantity: Quantity) -> str:
    """States the changes along the levels, those in one direction together, which is named where the interval excludes 0."""
    measured = [each for each in sweep.groups if quantity.values(each)]
    clauses = []
    for _, stretch in groupby(pairwise(measured), lambda pair: _kind(quantity.compare(*pair))):
        pairs = list(stretch)
        first, second = pairs[0][0], pairs[-1][1]
        where, change = f"from {sweep.level(first)} to {sweep.level(second)}", quantity.compare(first, second)
        if not change.known:
            medians = f"{quantity.median_text(first)} to {quantity.median_text(second)}"
            clauses.append(f"goes from {medians} {where} (too few runs for an interval)")
        elif change.direction:
            value, interval = _size(change, quantity)
            amount = f"a factor of {value}" if quantity.is_loss else f"{value} points"
            clauses.append(f"{'rises' if change.direction > 0 else 'falls'} by {amount} ({interval}) {where}")
        else:
            clauses.append(f"does not change beyond its uncertainty {where} ({_range(change, quantity)})")
    counts = [f"{text[2:]} at {sweep.level(each)}" for each in measured if (text := _counted(each, quantity))]
    counting = f" (counting {listed(counts)})" if counts else ""
    return f"{quantity.name.capitalize()}{counting} {listed(clauses)}." if clauses else ""


def _kind(change: Difference) -> int | None:
    return change.direction if change.known else None


def per_image_and_step(sweep: Sweep) -> str:
    """States which batch size is ahead after equal images and after equal SGD steps, as far as the intervals tell."""
    if sweep.axis != "batch_size":
        return ""
    small, large = sweep.groups[0], sweep.groups[-1]
    reached = [[run.block_losses[-1][0] for run in each.runs if run.block_losses] for each in (small, large)]
    steps = min(max(ends, default=0) for ends in reached)
    said: list[str] = []
    for amount, quantity in (("one epoch (equal images)", FIRST_LOSS), (f"{steps:,} SGD steps", loss_at_steps(steps))):
        change = quantity.compare(small, large)
        if change.direction:
            ahead, behind = (small, large) if change.direction > 0 else (large, small)
            value, interval = _size(change, quantity)
            where = f"at {sweep.level(behind)} as at {sweep.level(ahead)}"
            it = "it" if said else "the training loss"
            said.append(f"After {amount}, {it} is {value} times as high {where} ({interval}).")
    return " ".join(said)


def _counted(group: Group, quantity: Quantity) -> str:
    """The number of runs behind a value, where not all runs have one, to be added to an interval."""
    counted, n = len(quantity.values(group)), len(group.runs)
    return f"; {counted} of {n} runs" if counted < n else ""


def _size(change: Difference, quantity: Quantity) -> tuple[str, str]:
    """Size and interval of a change that has a direction: a factor above 1, or percentage points above 0."""
    value, *ends = (_shown(abs(end), quantity) for end in (change.value, change.low, change.high))
    return value, " to ".join(ends if abs(change.low) < abs(change.high) else ends[::-1])


def _range(change: Difference, quantity: Quantity) -> str:
    return f"{_shown(change.low, quantity)} to {_shown(change.high, quantity)} times" if quantity.is_loss else points(change)


def points(change: Difference) -> str:
    """Writes the interval of a difference of fractions in percentage points."""
    return f"{100 * change.low:+.2f} to {100 * change.high:+.2f} points".replace("-", "−")


def _shown(value: float, quantity: Quantity) -> str:
    """A difference of logarithms as a factor, of fractions in percentage points; no exponent from 0.01 up to a million."""
    value = math.exp(min(value, 200)) if quantity.is_loss else 100 * value
    if not 1e-2 <= value < 1e6:
        return f"{value:.1e}"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.{2 if value < 9.995 else 1}f}"


def listed(parts: Sequence[str]) -> str:
    """Joins parts by commas, and the last one by "and"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
