"""The report's statistics, against scipy, against all permutations, and against numbers worked out by hand."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from lit_mnist.report.statistics import difference, share_interval, survival, trend


def test_an_effect_has_the_interval_of_welch() -> None:
    first, second = [1.0, 2.0, 4.0, 4.5], [2.0, 5.0, 9.0]
    expected = stats.ttest_ind(second, first, equal_var=False).confidence_interval()
    found = difference(first, second)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(np.mean(second) - np.mean(first))


def test_an_effect_has_a_direction_only_if_its_interval_excludes_none() -> None:
    assert difference([1.0, 1.1, 0.9], [2.0, 2.1, 1.9]).direction == 1
    assert difference([2.0, 2.1, 1.9], [1.0, 1.1, 0.9]).direction == -1
    assert difference([1.0, 3.0, 0.9], [2.0, 1.1, 1.9]).direction == 0
    assert difference([1.0], [2.0, 3.0]).direction == 0
    assert not difference([1.0], [2.0, 3.0]).known


def test_equal_samples_have_no_width_and_no_direction() -> None:
    same = difference([0.98, 0.98], [0.98, 0.98])
    assert (same.low, same.high, same.direction) == (0, 0, 0)


def test_the_trend_of_two_levels_is_fishers_test() -> None:
    for failed, n in (([9, 0], [20, 10]), ([1, 3], [3, 3]), ([2, 9], [20, 20])):
        table = [failed, [size - count for count, size in zip(failed, n, strict=True)]]
        assert trend(failed, n)[1] == pytest.approx(stats.fisher_exact(table).pvalue)


def test_the_trend_over_three_levels_counts_all_arrangements() -> None:
    n, failed = [3, 4, 3], [0, 1, 3]
    levels = [level for level, size in enumerate(n) for _ in range(size)]
    statistics = [sum(levels[index] for index in chosen) for chosen in combinations(range(10), sum(failed))]
    shares = {value: statistics.count(value) for value in statistics}
    observed = shares[sum(level * count for level, count in enumerate(failed))]
    expected = sum(count for count in shares.values() if count <= observed) / len(statistics)
    direction, p = trend(failed, n)
    assert direction == 1
    assert p == pytest.approx(expected)


def test_the_trend_of_many_runs_is_near_the_exact_one() -> None:
    few, many = trend([10, 20, 30], [100, 100, 100])[1], trend([10, 20, 30], [101, 100, 100])[1]
    assert 0.5 < many / few < 2


def test_shares_have_the_interval_of_wilson() -> None:
    low, high = share_interval(9, 20)
    assert (low, high) == pytest.approx((0.2582, 0.6579), abs=1e-4)
    assert share_interval(0, 5)[0] == 0


def test_survival_counts_runs_that_ended_whole_as_at_risk_until_then() -> None:
    times, shares = survival([1, 2, 3, 4], [True, False, True, False])
    assert dict(zip(times, shares, strict=True))[3] == pytest.approx(0.75 * 0.5)
    assert (times[0], shares[0]) == (0, 1)
    assert shares[-1] == pytest.approx(0.375)
