import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from deploykit.benchmark import stats

finite = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize("count", range(1, 9))
def test_signed_rank_counts_by_enumeration(count):
    sums = [
        sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in itertools.product((0, 1), repeat=count)
    ]
    brute = np.bincount(sums, minlength=count * (count + 1) // 2 + 1)
    assert stats.signed_rank_counts(count) == brute.tolist()


@pytest.mark.parametrize("count", [2, 3, 5, 10, 14, 30])
def test_order_statistic_level_against_the_binomial(count):
    values = np.arange(count, dtype=float)
    found = stats.median_interval(values.tolist())
    rank = int(found.low) + 1
    assert found.high == count - rank
    assert found.level == pytest.approx(1 - 2 * reference.binom.cdf(rank - 1, count, 0.5))
    narrower = 1 - 2 * reference.binom.cdf(rank, count, 0.5)
    assert found.level >= 0.95 > narrower or rank == 1


def test_three_launches_give_75_percent():
    assert stats.median_interval([3.0, 1.0, 2.0]) == stats.Interval(2.0, 1.0, 3.0, 0.75)
    assert stats.signed_rank_interval([3.0, 1.0, 2.0]) == stats.Interval(2.0, 1.0, 3.0, 0.75)


def test_ten_launches_reach_95_percent():
    values = [float(value) for value in range(10)]
    assert stats.median_interval(values).level == pytest.approx(1 - 22 / 1024)
    found = stats.signed_rank_interval(values)
    assert found.level == pytest.approx(0.951171875)  # k = 9, the tabled 0.0244 in each tail
    assert stats.signed_rank_interval(values, 0.90).level < found.level


def test_one_launch_has_no_interval():
    for found in (stats.median_interval([5.0]), stats.signed_rank_interval([5.0])):
        assert found == stats.Interval(5.0, -math.inf, math.inf, 0.0)
    ratio = stats.ratio_interval([10.0], [1.0])
    assert (ratio.low, ratio.high) == (0.0, math.inf)
    assert stats.verdict(ratio) == "indistinguishable"


@given(st.lists(finite, min_size=2, max_size=9))
def test_hodges_lehmann_by_brute_force(values):
    walsh = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2))
    found = stats.signed_rank_interval(values)
    assert found.estimate == pytest.approx(float(np.median(walsh)))
    assert found.low <= found.estimate <= found.high
    assert walsh[0] <= found.low
    assert found.high <= walsh[-1]


@pytest.mark.parametrize("count", [4, 6, 8])
def test_signed_rank_limits_cover_what_the_exact_test_does_not_reject(count):
    random = np.random.default_rng(count)
    for _ in range(20):
        values = random.normal(0.3, 1, count)
        found = stats.signed_rank_interval(values.tolist())
        for shift in np.linspace(-3, 3, 41):
            p = reference.wilcoxon(values - shift, method="exact").pvalue
            inside = found.low < shift < found.high
            assert inside == (p > 1 - found.level + 1e-12)


def test_coverage_of_both_intervals_is_what_they_say():
    random = np.random.default_rng(0)
    for interval in (stats.median_interval, stats.signed_rank_interval):
        hits = 0
        for _ in range(2000):
            found = interval(random.normal(1.0, 1, 7).tolist())
            hits += found.low <= 1.0 <= found.high
        assert hits / 2000 == pytest.approx(found.level, abs=0.015)


@given(st.lists(st.tuples(st.floats(1, 1e9), st.floats(1, 1e9)), min_size=2, max_size=8))
def test_swapping_base_and_candidate_inverts_the_ratio(pairs):
    base, candidate = zip(*pairs, strict=True)
    there, back = stats.ratio_interval(base, candidate), stats.ratio_interval(candidate, base)
    assert there.estimate == pytest.approx(1 / back.estimate)
    assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low))
    assert there.level == back.level


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        ((0.5, 0.4, 0.6), "faster"),
        ((1.5, 1.4, 1.6), "slower"),
        ((0.9, 0.7, 1.1), "indistinguishable"),
        ((1.01, 1.005, 1.015), "indistinguishable"),
        ((0.985, 0.98, 0.99), "indistinguishable"),
        ((1.03, 1.02, 1.04), "slower"),
    ],
)
def test_verdict(ratio, verdict):
    assert stats.verdict(stats.Interval(*ratio, 0.95)) == verdict


def test_percentile_is_a_call_that_was_measured():
    launches = [np.arange(1, 51), np.arange(51, 101)]
    assert stats.percentile(launches, 0.90) == (90.0, None)


def test_percentile_refusals():
    calls = np.random.default_rng(0).normal(1000, 10, 300)
    assert stats.percentile([calls], 0.90, repeats=4) == (
        None,
        "calls are too short to time one by one: 4 to a reading",
    )
    assert stats.percentile([calls[:99]], 0.90) == (None, "99 calls, 100 are needed")
    assert stats.percentile([calls] * 3, 0.99) == (None, "900 calls, 1000 are needed")
    slow = [calls + 500, calls, calls, calls]  # one disturbed launch makes the whole tail
    assert stats.percentile(slow, 0.90) == (None, "the tail comes from 1 of 4 launches, half are needed")
    value, reason = stats.percentile([calls] * 4, 0.99)
    assert reason is None
    assert value == np.sort(np.tile(calls, 4))[1187]


def test_throughput_is_calls_per_busy_second():
    assert stats.throughput(calls=500, batch=8, busy_ns=2_000_000_000) == 2000
