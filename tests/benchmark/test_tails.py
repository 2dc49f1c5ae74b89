from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats

from deploykit.benchmark import stats, tails
from deploykit.benchmark.objective import Objective


def launches(count, calls, seed=0, spread=0.0):
    random = np.random.default_rng(seed)
    return [random.exponential(1e6, calls) * np.exp(spread * random.standard_normal()) for _ in range(count)]


@pytest.mark.parametrize(("percentile", "quantile"), [("p90", 0.9), ("p99", 0.99)])
@pytest.mark.parametrize("calls", [10, 99, 100, 400, 1000])
def test_the_same_rules_as_the_table_has(percentile, quantile, calls):
    found = launches(3, calls, seed=calls)
    value, reason = stats.percentile(found, quantile)
    mine = tails.estimate(found, percentile)
    assert mine.ns == value
    if value is None:
        assert mine.reason.replace(",", "") == reason.replace(",", "")


def test_the_far_tail_needs_ten_thousand_calls():
    assert tails.estimate(launches(3, 3333), "p99.9").ns is None
    assert tails.estimate(launches(4, 3000), "p99.9").ns is not None


def test_a_tail_from_one_launch_is_refused():
    found = launches(5, 1000)
    found[0] = found[0] * 1000
    assert "1 of 5 launches" in tails.estimate(found, "p99").reason


def test_one_launch_has_no_interval():
    found = tails.estimate(launches(1, 5000), "p99")
    assert found.ns is not None
    assert (found.low, found.high) == (None, None)
    assert found.reason


def test_order_limits_cover_what_they_promise():
    random = np.random.default_rng(1)
    for quantile in (0.5, 0.9, 0.99):
        truth = scipy_stats.expon.ppf(quantile)
        inside = 0
        for _ in range(600):
            low, high = tails.order_limits(np.sort(random.exponential(size=2000)), quantile)
            inside += low <= truth <= high
        assert inside / 600 > 0.93, quantile


def test_cluster_limits_are_those_of_a_bootstrap_by_hand():
    """With three launches there are 27 equally likely draws: their exact distribution is what 1,000 of them show."""
    found = launches(3, 40, seed=2, spread=0.5)
    values = [
        np.quantile(np.concatenate([found[one] for one in draw]), 0.9, method="inverted_cdf")
        for draw in product(range(3), repeat=3)
    ]
    low, high = tails.cluster_limits(found, 0.9)
    assert (low, high) == (min(values), max(values))  # the extremes have 1 in 27, more than 2.5 %


def test_launches_that_differ_widen_the_interval():
    alike, unlike = launches(5, 2000, seed=3), launches(5, 2000, seed=3, spread=0.3)
    narrow, wide = tails.estimate(alike, "p99"), tails.estimate(unlike, "p99")
    orders = tails.order_limits(np.sort(np.concatenate(unlike)), 0.99)
    assert (wide.high - wide.low) > 1.5 * (orders[1] - orders[0])
    assert (wide.high - wide.low) / wide.ns > (narrow.high - narrow.low) / narrow.ns
    assert narrow.low <= narrow.ns <= narrow.high


@pytest.mark.parametrize(("limit", "verdict"), [(1e6, "missed"), (4.6e6, "inconclusive"), (1e7, "met")])
def test_verdicts(limit, verdict):
    found = tails.estimate(launches(5, 2000), "p99")  # 4.6 ms in truth
    assert tails.judged(found, Objective("p99", limit)) == verdict


def test_nothing_is_judged_by_what_was_refused():
    objective = Objective("p99", 1e12)
    assert tails.judged(tails.estimate(launches(3, 100), "p99"), objective) == "inconclusive"
    assert tails.judged(tails.estimate(launches(1, 5000), "p99"), objective) == "inconclusive"
