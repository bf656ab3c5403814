"""The statistics of a few seeds: means, intervals, comparisons, and what so few runs can show at all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

from scipy import special

LEVEL = 0.95  # of every interval
ALPHA = 1 - LEVEL
POWER = 0.8  # the usual meaning of "would be seen"


@dataclass(frozen=True)
class Interval:
    """The bounds of an interval at `LEVEL`."""

    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Some values in short; the standard deviation (n - 1 in the denominator) is None for fewer than two."""

    n: int
    mean: float
    sd: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How far the values of one sample lie above those of another.

    Attributes:
        estimate: Mean difference.
        interval: t interval of the mean difference.
        p: Two-sided; None where nothing scatters, for there is no t then.
        test: "paired t" or "Welch t".
        n: Pairs, or the sizes of the two samples.
        detectable: Least true difference that this test would have called one with probability `POWER`, given the scatter seen.
    """

    estimate: float
    interval: Interval
    p: float | None
    test: str
    n: tuple[int, ...]
    detectable: float


def summarise(values: Sequence[float]) -> Summary:
    """The summary of at least one value."""
    sd = stdev(values) if len(values) > 1 else None
    return Summary(len(values), fmean(values), sd, min(values), max(values))


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's t interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = _critical(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half)


def share_interval(count: int, n: int) -> Interval:
    """Wilson's interval of a proportion.

    For small n it is nearer to its level than Clopper and Pearson's (Brown, Cai and DasGupta 2001).
    """
    z2 = float(special.ndtri(1 - ALPHA / 2)) ** 2
    middle = (count + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (count * (n - count) / n + z2 / 4)) / (n + z2)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def share_p(count: int, n: int, other_count: int, other_n: int) -> float:
    """Fisher's exact test, two-sided: all tables with the same margins that are no likelier than this one."""
    total = count + other_count

    def ways(first: int) -> int:
        return math.comb(n, first) * math.comb(other_n, total - first)

    possible = [ways(first) for first in range(max(0, total - other_n), min(n, total) + 1)]
    return sum(each for each in possible if each <= ways(count)) / sum(possible)


def paired_difference(values: Sequence[float], others: Sequence[float], resolution: float = 0) -> Difference:
    """`values` above `others`, pair by pair; at least two pairs.

    Args:
        values: One sample, in the order of its partners.
        others: The other sample.
        resolution: The step in which a value comes (1 for a number of epochs). Whole steps can agree in all of a few seeds;
            a scatter below the rounding error (resolution / sqrt(12) for each value) is then not believed.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    sd = max(stdev(differences), resolution * math.sqrt(2 / 12))
    n = len(differences)
    return _difference(fmean(differences), sd / math.sqrt(n), n - 1, "paired t", (n,))


def welch_difference(values: Sequence[float], others: Sequence[float], resolution: float = 0) -> Difference:
    """`values` above `others` as two independent samples of unequal variance, at least two values each."""
    errors = [max(stdev(sample), resolution / math.sqrt(12)) ** 2 / len(sample) for sample in (values, others)]
    total = sum(errors)
    sizes = (len(values), len(others))
    # Welch-Satterthwaite; where nothing scatters at all, the smaller sample's degrees of freedom
    df = min(sizes) - 1.0
    if total > 0:
        df = total**2 / sum(error**2 / (size - 1) for error, size in zip(errors, sizes, strict=True))
    return _difference(fmean(values) - fmean(others), math.sqrt(total), df, "Welch t", sizes)


def _difference(estimate: float, error: float, df: float, test: str, n: tuple[int, ...]) -> Difference:
    half = _critical(df) * error
    p = float(2 * special.stdtr(df, -abs(estimate) / error)) if error > 0 else None
    interval = Interval(estimate - half, estimate + half)
    return Difference(estimate, interval, p, test, n, detectable_shift(df) * error)


@cache
def detectable_shift(df: float) -> float:
    """The true mean, in standard errors, at which a two-sided t test at 5 % rejects with probability `POWER`.

    The square of a noncentral t is a noncentral F, whose upper tail covers both sides.
    """
    return math.sqrt(special.ncfdtrinc(1, df, 1 - POWER, _critical(df) ** 2))


def _critical(df: float) -> float:
    """What a t at `df` degrees of freedom exceeds on either side with probability `ALPHA`."""
    return float(special.stdtrit(df, 1 - ALPHA / 2))


def holm(ps: Sequence[float]) -> list[float]:
    """The p values, corrected for their number (Holm 1979): below 0.05 means at most 5 % risk of one false find among all."""
    corrected = [0.0] * len(ps)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected
