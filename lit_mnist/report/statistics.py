"""Medians, intervals and tests, on plain sequences of numbers. All intervals are at 95 %."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
EXACT_UP_TO = 300  # runs; a test that is exact takes seconds with more


class Spread(NamedTuple):
    """First quartile, median and third quartile."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Effect:
    """Difference of two means with its interval; a ratio if the means are of logarithms.

    Attributes:
        value: Second minus first, or second over first.
        low, high: Welch's t interval; NaN where a sample has fewer than two values.
        ratio: True if all three are ratios.
    """

    value: float
    low: float
    high: float
    ratio: bool

    @property
    def direction(self) -> int:
        """1 or -1 if the whole interval lies above or below no difference, else 0."""
        same = 1.0 if self.ratio else 0.0
        return int(self.low > same) - int(self.high < same)

    @property
    def known(self) -> bool:
        """Tells if there is an interval at all."""
        return not math.isnan(self.low)

    @property
    def reverse(self) -> "Effect":
        """First against second."""
        if self.ratio:
            return Effect(1 / self.value, 1 / self.high, 1 / self.low, True)
        return Effect(-self.value, -self.high, -self.low, False)


def spread(values: Sequence[float]) -> Spread:
    """Computes median and quartiles of at least one value."""
    return Spread(*map(float, np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75))))


def effect(first: Sequence[float], second: Sequence[float], ratio: bool) -> Effect:
    """Compares two samples by Welch's t interval, for unequal variances; by their logarithms if a ratio is asked for.

    Args:
        first, second: At least one value each; positive for a ratio.
        ratio: Compare geometric means by their ratio, as suits losses over orders of magnitude.
    """
    samples = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    if ratio:
        samples = [np.log(np.maximum(values, 1e-12)) for values in samples]  # a loss may round to 0
    difference = float(samples[1].mean() - samples[0].mean())
    margin = math.nan
    if min(map(len, samples)) > 1:
        a, b = (float(values.var(ddof=1)) / len(values) for values in samples)
        margin = 0.0
        if a + b > 0:
            freedom = (a + b) ** 2 / (a**2 / (len(samples[0]) - 1) + b**2 / (len(samples[1]) - 1))
            margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(a + b)
    ends = (difference, difference - margin, difference + margin)
    if ratio:
        ends = tuple(math.nan if math.isnan(end) else math.exp(min(max(end, -200), 200)) for end in ends)  # type: ignore[assignment]
    return Effect(*ends, ratio)


def share_interval(count: int, n: int) -> tuple[float, float]:
    """Computes Wilson's interval of a share, count of n."""
    interval = stats.binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def trend(failed: Sequence[int], n: Sequence[int]) -> tuple[int, float]:
    """Tests for a trend of failures over ordered levels (Cochran and Armitage's statistic, scores 0, 1, 2, ...).

    Exact up to `EXACT_UP_TO` runs, where two levels make it Fisher's test; with more by the normal approximation.

    Args:
        failed: Failed runs at each level; some, but not all of the runs.
        n: All runs at each level.

    Returns:
        Direction of the trend (1, 0 or -1) and the two-sided p value: the probability, given all totals, of a statistic
        that is no more probable than the observed one.
    """
    levels, sizes, total = np.arange(len(n)), np.asarray(n), sum(failed)
    observed, share = int(levels @ np.asarray(failed)), total / sizes.sum()
    excess = observed - share * (levels @ sizes)
    if sizes.sum() > EXACT_UP_TO:
        spread_of_levels = levels**2 @ sizes - (levels @ sizes) ** 2 / sizes.sum()
        z = excess / math.sqrt(share * (1 - share) * spread_of_levels)
        return int(np.sign(excess)), float(2 * stats.norm.sf(abs(z)))
    ways = np.zeros((total + 1, total * int(levels[-1]) + 1))  # by failures so far and statistic so far
    ways[0, 0] = 1
    for level, size in enumerate(n):
        longer = np.zeros_like(ways)
        for more in range(min(size, total) + 1):
            height, width = ways.shape[0] - more, ways.shape[1] - level * more
            longer[more:, level * more :] += math.comb(size, more) / 2**size * ways[:height, :width]
        ways = longer
    last = ways[total]
    return int(np.sign(excess)), float(last[last <= last[observed] * (1 + 1e-9)].sum() / last.sum())


def survival(lengths: Sequence[float], failed: Sequence[bool]) -> tuple[list[float], list[float]]:
    """Estimates the share of runs still training after each time at which one failed (Kaplan and Meier).

    Args:
        lengths: How long each run trained.
        failed: If it failed then, or ended for another reason.

    Returns:
        Times and shares, beginning with 0 and 1.
    """
    ended = [length for length, is_failure in zip(lengths, failed, strict=True) if is_failure]
    going = [length for length, is_failure in zip(lengths, failed, strict=True) if not is_failure]
    curve = stats.ecdf(stats.CensoredData(uncensored=ended, right=going)).sf
    return [0.0, *map(float, curve.quantiles)], [1.0, *map(float, curve.probabilities)]
