"""Sentences that the runs support: each is made of numbers, and only if its condition holds."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise

from lit_mnist.report.experiments import Configuration, Sweep, level_text
from lit_mnist.report.quantities import (
    DECLARED,
    FINAL_LOSS,
    FIRST_LOSS,
    TEST_ACCURACY,
    Quantity,
    common_steps,
    loss_at_steps,
)
from lit_mnist.report.statistics import Effect, share_interval, trend

SIGNIFICANCE = 0.05
FEW_RUNS = 10  # at a level: too few to see anything but large differences between shares
USELESS = 100  # times from one end of an interval to the other: not worth its numbers
MANY = 5  # steps of a sweep: those without a change are then counted, not listed
NAMED = 3  # levels that the best one is compared with in a sentence of the first screen


def lead_sentences(sweep: Sweep) -> list[str]:
    """Answers what the swept hyperparameter does, in two to four sentences."""
    found = [best_level(sweep, FINAL_LOSS), best_level(sweep, TEST_ACCURACY)]
    failures = failure_trend(sweep) if any(run.result.failed for run in sweep.runs) else ""
    images_and_steps = per_image_and_step(sweep) if sweep.axis == "batch_size" else ""
    return [sentence for sentence in (failures, images_and_steps, *found) if sentence]


def section_sentences(sweep: Sweep) -> list[str]:
    """States every change between neighbouring levels, quantity by quantity, with its interval."""
    first = per_image_and_step(sweep) if sweep.axis == "batch_size" else ""
    found = [failure_trend(sweep), first, *(changes(sweep, quantity) for quantity in DECLARED)]
    return [sentence for sentence in found if sentence]


def failure_trend(sweep: Sweep) -> str:
    """States how the share of failed runs goes with the level, or that too few runs tell."""
    failed, n = ([len(runs) for runs in each] for each in zip(*((c.failed, c.runs) for c in sweep.configurations), strict=True))
    levels = [level_text(each.level(sweep.axis)) for each in sweep.configurations]
    if not sum(failed):
        return f"No run failed at any {sweep.label} (0 of {sum(n)})."
    if sum(failed) == sum(n):
        return f"All {sum(n)} runs failed, whatever the {sweep.label}."
    counts = _list(_counts(failed, n, levels))
    direction, p = trend(failed, n)
    if p < SIGNIFICANCE and direction:
        return f"A higher {sweep.label} makes {'more' if direction > 0 else 'fewer'} runs fail: {counts}; trend p = {_p(p)}."
    if min(n) < FEW_RUNS:
        return f"Some runs failed: {counts}; too few runs to tell if the {sweep.label} matters."
    return f"Failures show no steady trend with the {sweep.label}: {counts}; trend p = {_p(p)}."


def _counts(failed: Sequence[int], n: Sequence[int], levels: Sequence[str]) -> list[str]:
    """Failures at each level, with the interval of their share; neighbouring levels without any are put together."""
    found = []
    for fails, group in groupby(range(len(n)), key=lambda index: failed[index] > 0):
        indices = list(group)
        if fails:
            shares = [share_interval(failed[index], n[index]) for index in indices]
            intervals = [f"({100 * low:.0f} to {100 * high:.0f} %)" for low, high in shares]
            found += [f"{failed[at]} of {n[at]} {text} at {levels[at]}" for at, text in zip(indices, intervals, strict=True)]
        elif len(indices) > 2:
            found.append(f"0 of {sum(n[index] for index in indices)} at {levels[indices[0]]} to {levels[indices[-1]]}")
        else:
            found += [f"0 of {n[index]} at {levels[index]}" for index in indices]
    return found


def best_level(sweep: Sweep, quantity: Quantity) -> str:
    """States which level is best, how far the others are from it, and which of them are too close to tell."""
    return best(sweep.configurations, quantity, lambda each: f"at {_level(sweep, each)}")


def best(configurations: Sequence[Configuration], quantity: Quantity, label: Callable[[Configuration], str]) -> str:
    """States which configuration is best, as `label` calls it, and its distance from the others; "" if there are none."""
    measured = [each for each in configurations if quantity.values(each)]
    if len(measured) < 2:
        return ""
    way = -1 if quantity.is_loss else 1
    first, *others = sorted(measured, key=lambda each: -way * quantity.centre(each))
    if len(others) > NAMED:
        others = [others[0], others[-1]]
    name, word, value = _capital(quantity.name), "lowest" if quantity.is_loss else "highest", quantity.median_text(first)
    called = {each: f"{label(each)}{_counting(each, quantity)}" for each in measured}
    effects = {each: quantity.compare(each, first) for each in others}
    if not any(change and change.known for change in effects.values()):
        rest = _list([f"{quantity.median_text(each)} {called[each]}" for each in others])
        return f"{name} is {word} {called[first]} ({value}), against {rest}; too few runs for an interval."
    told, close = [], []
    for each, change in effects.items():
        if change is None or not change.known:
            told.append(f"against {quantity.median_text(each)} in one run {called[each]}")
        elif change.direction == way:
            told.append(f"{_amount(change)} {'below' if quantity.is_loss else 'above'} that {called[each]}")
        else:
            close.append(f"that {called[each]} ({_range(change)})")
    if not told:
        return f"{name} is not clearly {word} anywhere: {value} {called[first]} is too close to {_list(close)}."
    tie = f"too close to {_list(close)} but " if close else ""
    return f"{name} is {word} {called[first]}: {value}, {tie}{_list(told)}."


def changes(sweep: Sweep, quantity: Quantity) -> str:
    """States the change from each level to the next, with its direction where the interval excludes no change."""
    measured = [each for each in sweep.configurations if quantity.values(each)]
    name = _capital(quantity.name)
    pairs = [(first, second, quantity.compare(first, second)) for first, second in pairwise(measured)]
    if not pairs:
        return ""
    if not any(change and change.known for *_, change in pairs):
        values = [f"{quantity.median_text(each)} at {_level(sweep, each)}" for each in measured]
        return f"{name} is {_list(values)}; without several runs of each there is no interval."
    clauses, unchanged = [], [change for *_, change in pairs if change and change.known and not change.direction]
    for first, second, change in pairs:
        if change in unchanged and len(pairs) >= MANY:
            continue
        where = f"from {_level(sweep, first)} to {_level(sweep, second)}"
        if change is None or not change.known:
            goes = f"goes from {quantity.median_text(first)} to {quantity.median_text(second)}"
            clauses.append(f"{goes} {where} (no interval)")
        elif change.direction:
            clauses.append(f"{'rises' if change.direction > 0 else 'falls'} by {_amount(change, 'a factor of ')} {where}")
        else:
            clauses.append(f"does not change beyond its uncertainty {where} ({_range(change)})")
    if unchanged and len(pairs) >= MANY:
        clauses.append(f"does not change beyond its uncertainty between the other {len(unchanged)} pairs of neighbours")
    partial = [each for each in measured if len(quantity.values(each)) < len(each.runs)]
    counts = [f"{len(quantity.values(each))} of {len(each.runs)} runs at {_level(sweep, each)}" for each in partial]
    return f"{name}{f' (counting {_list(counts)})' if counts else ''} {_list(clauses)}."


def per_image_and_step(sweep: Sweep) -> str:
    """States which batch size is ahead after equal images and after equal SGD steps, as far as the intervals tell."""
    small, large = sweep.configurations[0], sweep.configurations[-1]
    steps = common_steps([small, large])
    compared = [("one epoch", "images", FIRST_LOSS)]
    compared += [(f"{steps:,}", "SGD steps", loss_at_steps(steps))] if steps else []
    said: list[str] = []
    for amount, unit, quantity in compared:
        for ahead, behind in ((small, large), (large, small)):
            change = quantity.compare(behind, ahead)
            if change and change.direction < 0:
                sizes = f"at {ahead.batch_size} than at {behind.batch_size}"
                said.append(
                    f"after equal {unit} ({amount}) {'it' if said else 'the training loss'} is {_amount(change)} lower {sizes}"
                )
    return f"{_capital('; '.join(said))}." if said else ""


def overview(configurations: Sequence[Configuration]) -> list[str]:
    """Describes configurations that form no sweep."""
    found = [best(configurations, quantity, lambda each: f"with {each.name}") for quantity in (FINAL_LOSS, TEST_ACCURACY)]
    failed, n = sum(len(each.failed) for each in configurations), sum(len(each.runs) for each in configurations)
    found.append(f"{failed} of {n} runs failed." if failed else f"No run failed (0 of {n}).")
    return [sentence for sentence in found if sentence]


def best_of_other_sweeps(sweeps: Sequence[Sweep]) -> str:
    """States where the other sweeps over the same hyperparameter have their lowest final loss."""
    places = []
    for sweep in sweeps[1:]:
        measured = [each for each in sweep.configurations if FINAL_LOSS.values(each)]
        if measured:
            lowest = min(measured, key=FINAL_LOSS.centre)
            places.append((sweep.fixed, _level(sweep, lowest)))
    if not places:
        return ""
    if len({level for _, level in places}) == 1:
        where = places[0][0] if len(places) == 1 else f"each of {len(places)} other settings"
        return f"Final training loss is lowest at {places[0][1]} with {where}, too."
    return f"Final training loss is lowest {_list([f'at {level} with {fixed}' for fixed, level in places[:4]])}."


def _level(sweep: Sweep, configuration: Configuration) -> str:
    return level_text(configuration.level(sweep.axis))


def _counting(configuration: Configuration, quantity: Quantity) -> str:
    """The number of runs behind a value, where not all runs have one."""
    counted, n = len(quantity.values(configuration)), len(configuration.runs)
    return f" (counting {counted} of {n} runs)" if counted < n else ""


def _amount(change: Effect, times: str = "") -> str:
    """Size of a change that has a direction, whatever the direction, with its interval."""
    if not change.ratio:
        low, high = sorted((100 * abs(change.low), 100 * abs(change.high)))
        return f"{_points(100 * abs(change.value))} points ({_points(low)} to {_points(high)})"
    larger = change if change.value >= 1 else change.reverse
    if larger.value < 1.5:
        low, value, high = (
            100 * (1 - 1 / end) if change.value < 1 else 100 * (end - 1) for end in (larger.low, larger.value, larger.high)
        )
        return f"{value:.2g} % ({low:.2g} to {high:.2g} %)"
    amount = f"{times}{_digits(larger.value)}" if times else f"{_digits(larger.value)} times"
    return f"{amount} ({_digits(larger.low)} to {_digits(larger.high)})"


def _range(change: Effect) -> str:
    if change.low == change.high:
        return "equal"
    if change.ratio and change.high > USELESS * change.low:
        return "the runs scatter too widely"
    if change.ratio:
        return f"{_digits(change.low)} to {_digits(change.high)} times"
    return f"{100 * change.low:+.2f} to {100 * change.high:+.2f} points".replace("-", "−")


def _points(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _digits(value: float) -> str:
    """Three significant digits, without an exponent below a million."""
    if not 1e-2 <= value < 1e6:
        return f"{value:.1e}"
    if value >= 100:
        return f"{round(value, 2 - math.floor(math.log10(value))):,.0f}"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else f"{p:.0e}".replace("e-0", "e-")


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
