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


@pytest.mark.parametrize("count", [3, 5, 8, 12, 20])
def test_one_sided_p_values_are_those_of_the_exact_test(count):
    random = np.random.default_rng(count)
    for _ in range(20):
        values = random.normal(0.4, 1, count)
        shift = float(random.normal(0, 0.5))
        expected = reference.wilcoxon(values - shift, alternative="greater", method="exact").pvalue
        assert stats.signed_rank_p(values.tolist(), shift) == pytest.approx(expected)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_p_values_with_ties_never_cry_wolf(values):
    """Against all sign patterns of the same magnitudes: the chance of a p as small as this is no larger than it."""
    p = stats.signed_rank_p(values)
    magnitudes = [abs(value) for value in values]
    patterns = list(itertools.product((-1, 1), repeat=len(values)))
    as_small = sum(
        stats.signed_rank_p([sign * size for sign, size in zip(signs, magnitudes, strict=True)]) <= p
        for signs in patterns
    )
    assert as_small / len(patterns) <= p + 1e-12


@given(st.lists(finite, min_size=1, max_size=12), finite)
def test_a_limit_above_and_a_small_p_are_the_same(values, shift):
    limits = stats.signed_rank_limits(values, 0.99, 0.95)
    assert (limits.low > shift) == (stats.signed_rank_p(values, shift) <= 0.01 + stats.ROUNDING)
    mirrored = stats.signed_rank_p([-value for value in values], -shift)
    assert (limits.high < shift) == (mirrored <= 0.05 + stats.ROUNDING)


def test_one_sided_limits_need_launches():
    few = stats.signed_rank_limits([0.1] * 6, 0.99, 0.95)
    assert (few.low, few.low_level) == (-math.inf, 0.0)
    assert few.high == 0.1
    assert few.high_level == pytest.approx(1 - 3 / 64)  # P(T ≤ 2) of six: the third smallest average
    enough = stats.signed_rank_limits([0.1] * 7, 0.99, 0.95)
    assert enough.low == 0.1
    assert enough.low_level == pytest.approx(1 - 1 / 128)


def test_one_sided_limits_cover_as_often_as_they_say():
    random = np.random.default_rng(1)
    low = high = 0
    for _ in range(2000):
        found = stats.signed_rank_limits(random.normal(1.0, 1, 10).tolist(), 0.99, 0.95)
        low += found.low <= 1.0
        high += found.high >= 1.0
    assert low / 2000 == pytest.approx(found.low_level, abs=0.007)
    assert high / 2000 == pytest.approx(found.high_level, abs=0.015)


def test_holm():
    # Holm's steps by hand: 4 × 0.005, 3 × 0.01, then the running maximum, 1 × 0.04
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.2]) == [0.2]
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_holm_keeps_the_chance_of_any_false_alarm():
    random = np.random.default_rng(2)
    alarms = sum(min(stats.holm(random.random(5).tolist())) <= 0.05 for _ in range(4000))
    assert alarms / 4000 == pytest.approx(1 - (1 - 0.01) ** 5, abs=0.01)


def test_half_width_is_relative():
    assert stats.half_width(stats.Interval(1.0, 0.98, 1.02, 0.95)) == pytest.approx(0.0202, abs=2e-4)
    assert stats.half_width(stats.Interval(3.0, 2.94, 3.06, 0.95)) == pytest.approx(0.0202, abs=2e-4)
    assert stats.half_width(stats.Interval(1.0, 0.0, math.inf, 0.0)) == math.inf
    assert stats.half_width(stats.Interval(1.0, 1.0, 1.0, 0.75)) == math.inf  # three launches know nothing


def test_the_limit_of_a_call_counts_calls_and_not_readings():
    slow, fast = np.full(50, 900), np.full(950, 10)
    assert stats.call_limit([slow, fast], [1, 1], 0.9) == 10
    assert stats.call_limit([slow, fast], [100, 1], 0.9) == 900  # 5,000 of 5,950 calls were in the slow readings
    assert stats.call_limit([slow], [7], 0.9) is None
