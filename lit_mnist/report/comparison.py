"""Differences between the configurations of a ladder, each with an interval, a test and a verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_mnist.report.configuration import Configuration, Ladder
from lit_mnist.report.quantity import COMPARED, Quantity, signed
from lit_mnist.report.statistics import (
    ALPHA,
    Difference,
    holm,
    paired_difference,
    share_p,
    welch_difference,
)

DIFFERS = "differs"
NOT_SEEN = "no difference seen"
NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Comparison:
    """One quantity of the higher rung of a ladder against the lower.

    Attributes:
        quantity: None for the share of failed runs, which Fisher's exact test compares.
        difference: On a logarithmic scale if the quantity is relative; None if too few runs have a value.
        p: Two-sided; None if not tested, and then it does not count among the tests that the others are corrected for.
        corrected_p: The same after Holm's correction for all tests of the section.
    """

    lower: Configuration
    higher: Configuration
    quantity: Quantity | None
    difference: Difference | None
    p: float | None
    corrected_p: float | None = None

    @property
    def label(self) -> str:
        return self.quantity.label if self.quantity else "share of failed runs"

    @property
    def pair(self) -> str:
        return f"{self.higher.name} against {self.lower.name}"

    @property
    def verdict(self) -> str:
        if self.corrected_p is None:
            return NOT_TESTED
        return DIFFERS if self.corrected_p < ALPHA else NOT_SEEN

    @property
    def direction(self) -> int:
        """1 if the higher rung has more of it, -1 if less, 0 if that is not established."""
        if self.verdict != DIFFERS:
            return 0
        if self.difference is None:
            return 1 if _share(self.higher) > _share(self.lower) else -1
        return 1 if self.difference.estimate > 0 else -1

    @property
    def effect(self) -> str:
        """The difference with its interval, higher against lower rung."""
        if self.quantity is None:
            return f"{_failures(self.higher)} against {_failures(self.lower)}"
        if self.difference is None:
            return "not all runs have a value" if self.quantity.censored else "too few runs with a value"
        seen, bounds = self.difference.estimate, self.difference.interval
        if self.quantity.relative:
            value, low, high = (f"{_factor(seen)} times", _factor(bounds.low), _factor(bounds.high))
        else:
            value, low, high = (f"{self._shift(seen)} {self.quantity.unit}", self._shift(bounds.low), self._shift(bounds.high))
        return f"{value} ({low} to {high})" if self.p is not None else f"{value} (no scatter)"

    @property
    def detectable(self) -> str:
        """The least difference that the test would have seen with the power of `POWER`."""
        if self.quantity is None or self.difference is None or self.p is None:
            return "–"
        if self.quantity.relative:
            return f"{_factor(self.difference.detectable)} times"
        return f"{self._shift(self.difference.detectable).lstrip('+')} {self.quantity.unit}"

    @property
    def test(self) -> tuple[str, ...]:
        """Its name, and of how many pairs, or of how many runs of the higher and the lower rung."""
        if self.quantity is None:
            return ("Fisher exact",)
        if self.difference is None or self.p is None:
            return ("–",)
        return (self.difference.test, f"n = {' and '.join(map(str, self.difference.n))}")

    def _shift(self, value: float) -> str:
        assert self.quantity is not None
        assert self.difference is not None
        width = self.difference.interval.high - self.difference.interval.low
        decimals = self.quantity.fitting_decimals(width / 2)
        text = signed(f"{value * self.quantity.factor:.{decimals}f}")
        return f"+{text}" if value > 0 and float(text) > 0 else text


def compare_ladders(ladders: Sequence[Ladder]) -> list[Comparison]:
    """Every compared quantity for every pair of every ladder, corrected for the number of tests."""
    comparisons = [_compare(*pair, quantity) for ladder in ladders for pair in ladder.pairs for quantity in (*COMPARED, None)]
    tested = [each for each in comparisons if each.p is not None]
    corrected = iter(holm([each.p for each in tested if each.p is not None]))
    return [each if each.p is None else replace(each, corrected_p=next(corrected)) for each in comparisons]


def write_p(p: float | None) -> str:
    """Three decimals, or a dash for no test."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _compare(lower: Configuration, higher: Configuration, quantity: Quantity | None) -> Comparison:
    if quantity is None:
        p = None
        if (lower.failed or higher.failed) and min(len(lower.runs), len(higher.runs)) > 1:
            p = share_p(len(lower.failed), len(lower.runs), len(higher.failed), len(higher.runs))
        return Comparison(lower, higher, None, None, p)
    below, above = _by_seed(lower, quantity), _by_seed(higher, quantity)
    if quantity.censored and (len(below) < len(lower.trained) or len(above) < len(higher.trained)):
        return Comparison(lower, higher, quantity, None, None)
    common = sorted(below.keys() & above.keys())
    # settled by which seeds there are, not by their values
    if len(common) > 1 and len(common) == max(len(below), len(above)):
        pairs = [above[seed] for seed in common], [below[seed] for seed in common]
        difference = paired_difference(*pairs, quantity.resolution)
    elif min(len(below), len(above)) > 1:
        difference = welch_difference(list(above.values()), list(below.values()), quantity.resolution)
    else:
        return Comparison(lower, higher, quantity, None, None)
    return Comparison(lower, higher, quantity, difference, difference.p)


def _by_seed(configuration: Configuration, quantity: Quantity) -> dict[int, float]:
    """Values of the trained runs; logarithms where a ratio is asked for."""
    values = ((run.seed, quantity.of(run)) for run in configuration.trained)
    known = {seed: value for seed, value in values if value is not None}
    if quantity.relative:
        return {seed: math.log(value) for seed, value in known.items() if value > 0}
    return known


def _share(configuration: Configuration) -> float:
    return len(configuration.failed) / len(configuration.runs)


def _failures(configuration: Configuration) -> str:
    return f"{len(configuration.failed)} of {len(configuration.runs)}"


def _factor(logarithm: float) -> str:
    """A ratio with three digits, zeros too."""
    ratio = math.exp(min(logarithm, 300))
    return f"{ratio:#.3g}".rstrip(".") if 0.001 <= ratio < 999.5 else f"{ratio:.2e}"
