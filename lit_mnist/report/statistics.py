"""Intervals and tests, on plain sequences of numbers. Intervals are at 95 % unless told otherwise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
EXACT_UP_TO = 300  # runs; a test that is exact takes seconds with more


@dataclass(frozen=True)
class Difference:
    """Difference of two means, second minus first, with its interval; NaN where a sample has fewer than two values."""

    value: float
    low: float
    high: float

    @property
    def direction(self) -> int:
        """1 or -1 if the whole interval lies above or below 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def known(self) -> bool:
        """Tells if there is an interval at all."""
        return not math.isnan(self.low)

    def within(self, margin: float) -> bool:
        """Tells if the whole interval lies between -margin and margin."""
        return -margin <= self.low and self.high <= margin


def difference(first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE) -> Difference:
    """Compares two samples by Welch's t interval for unequal variances."""
    if min(len(first), len(second)) < 2:
        return Difference(math.nan, math.nan, math.nan)
    value, margin = float(np.mean(second) - np.mean(first)), 0.0
    a, b = (float(np.var(values, ddof=1)) / len(values) for values in (first, second))
    if a + b > 0:  # scipy's own interval is not defined for samples without any scatter
        freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
        margin = float(stats.t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(a + b)
    return Difference(value, value - margin, value + margin)


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
        Direction of the trend (1, 0 or -1); two-sided p value, given all totals.
    """
    levels, sizes, total = np.arange(len(n)), np.asarray(n), sum(failed)
    observed, share = int(levels @ np.asarray(failed)), total / sizes.sum()
    excess = observed - share * (levels @ sizes)
    if sizes.sum() > EXACT_UP_TO:
        spread_of_levels = levels**2 @ sizes - (levels @ sizes) ** 2 / sizes.sum()
        z = excess / math.sqrt(share * (1 - share) * spread_of_levels)
        return int(np.sign(excess)), float(2 * stats.norm.sf(abs(z)))
    width = total * int(levels[-1]) + 1
    ways = np.zeros((total + 1, width))  # of choosing the failed runs, by their number and statistic
    ways[0, 0] = 1
    for level in np.repeat(levels, sizes):
        ways[1:, level:] += ways[:-1, : width - level]
    last = ways[total]
    return int(np.sign(excess)), float(last[last <= last[observed] * (1 + 1e-9)].sum() / last.sum())


def survival(lengths: Sequence[float], failed: Sequence[bool]) -> tuple[list[float], list[float]]:
    """Estimates the share of runs still training after each time at which one failed (Kaplan and Meier).

    Runs that did not fail ended for another reason. Times and shares begin with 0 and 1.
    """
    curve = stats.ecdf(stats.CensoredData.right_censored(lengths, [not each for each in failed])).sf
    return [0.0, *map(float, curve.quantiles)], [1.0, *map(float, curve.probabilities)]


def rate_interval(count: int, exposure: float) -> tuple[float, float]:
    """Computes Garwood's exact interval of a Poisson rate: `count` events, at least one, in `exposure` units of time."""
    tail = (1 - CONFIDENCE) / 2
    return float(stats.gamma.ppf(tail, count)) / exposure, float(stats.gamma.isf(tail, count + 1)) / exposure


def fails_evenly(lengths: Sequence[float], failed: Sequence[bool]) -> bool:
    """Tells if a constant risk explains when runs failed: a Kolmogorov-Smirnov test at 5 %.

    Under a constant risk failures, of which there is at least one, are spread evenly over the time that all runs trained.
    """
    moments = [length for length, fails in zip(lengths, failed, strict=True) if fails]
    spent = [float(np.minimum(lengths, moment).sum()) / sum(lengths) for moment in moments]
    return bool(stats.kstest(spent, "uniform").pvalue >= 1 - CONFIDENCE)
