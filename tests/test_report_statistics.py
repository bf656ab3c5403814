"""The statistics agree with scipy's own tests, with textbook values and with simulation."""

import math
from dataclasses import astuple
from itertools import product

import numpy as np
import pytest
from scipy import stats

from lit_mnist.report.statistics import (
    detectable_shift,
    holm,
    mean_interval,
    paired_difference,
    share_interval,
    share_p,
    summarise,
    welch_difference,
)

ONE = [98.1, 98.4, 98.2, 98.6, 98.3]
OTHER = [97.6, 97.9, 97.5, 98.2, 97.4]


def test_a_summary_has_a_sample_sd_and_a_single_value_has_none() -> None:
    summary = summarise([1.0, 2.0, 6.0])
    assert (summary.n, summary.mean, summary.low, summary.high) == (3, 3.0, 1.0, 6.0)
    assert summary.sd == pytest.approx(math.sqrt(7))
    assert summarise([1.0]).sd is None
    assert mean_interval([1.0]) is None


def test_the_interval_of_a_mean_is_students() -> None:
    interval = mean_interval(ONE)
    assert interval is not None
    low, high = stats.t.interval(0.95, 4, np.mean(ONE), stats.sem(ONE))
    assert astuple(interval) == pytest.approx((low, high))


def test_a_paired_difference_is_scipys_paired_t_test() -> None:
    difference, expected = paired_difference(ONE, OTHER), stats.ttest_rel(ONE, OTHER)
    assert difference.p == pytest.approx(expected.pvalue)
    assert difference.estimate == pytest.approx(0.6)
    bounds = expected.confidence_interval()
    assert astuple(difference.interval) == pytest.approx((bounds.low, bounds.high))


def test_an_unpaired_difference_is_welchs() -> None:
    difference, expected = welch_difference(ONE, OTHER[:3]), stats.ttest_ind(ONE, OTHER[:3], equal_var=False)
    assert difference.p == pytest.approx(expected.pvalue)
    bounds = expected.confidence_interval()
    assert astuple(difference.interval) == pytest.approx((bounds.low, bounds.high))


def test_equal_whole_numbers_keep_the_scatter_of_their_rounding() -> None:
    difference = paired_difference([14, 14, 14], [3, 3, 3], resolution=1)
    assert difference.estimate == 11
    error = math.sqrt(1 / 12 + 1 / 12) / math.sqrt(3)
    assert difference.interval.high - 11 == pytest.approx(stats.t.ppf(0.975, 2) * error)
    assert difference.p is not None
    assert 0 < difference.p < 0.001


@pytest.mark.parametrize("others", [[2.0, 2.0], [3.0, 3.0]])
def test_values_that_do_not_scatter_at_all_have_no_t(others: list[float]) -> None:
    assert paired_difference([2.0, 2.0], others).p is None
    assert welch_difference([2.0, 2.0, 2.0], others).p is None


@pytest.mark.parametrize(("count", "n"), [(0, 5), (1, 5), (5, 5), (12, 20)])
def test_the_interval_of_a_share_is_wilsons(count: int, n: int) -> None:
    expected = stats.binomtest(count, n).proportion_ci(method="wilson")
    interval = share_interval(count, n)
    assert astuple(interval) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_two_shares_are_compared_by_fishers_exact_test() -> None:
    for count, other in product(range(6), range(9)):
        expected = stats.fisher_exact([[count, 5 - count], [other, 8 - other]]).pvalue
        assert share_p(count, 5, other, 8) == pytest.approx(expected), (count, other)


def test_holm_corrects_in_the_order_of_the_p_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_detectable_difference_is_detected_in_four_of_five_simulated_studies(n: int) -> None:
    shift = detectable_shift(n - 1) / math.sqrt(n)
    studies = np.random.default_rng(1).normal(shift, 1, (20_000, n))
    t = studies.mean(1) / (studies.std(1, ddof=1) / math.sqrt(n))
    assert np.mean(np.abs(t) > stats.t.ppf(0.975, n - 1)) == pytest.approx(0.8, abs=0.01)
