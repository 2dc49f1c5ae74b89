import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from deploykit.parity import statistics
from deploykit.parity.statistics import Paired

Z = stats.norm.ppf(0.95)


def paired(n, lost, won):
    return Paired(n, lost, won, max(lost, n - won))


def restricted(lost, won, n, delta):
    """Tango's nuisance parameter, the most likely share of wins if the drop is `delta`, found by search."""
    low, high = max(0.0, -delta), (1.0 - delta) / 2.0

    def surprise(q):
        parts = ((lost, q + delta), (won, q), (n - lost - won, 1.0 - 2.0 * q - delta))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

    found = optimize.minimize_scalar(surprise, bounds=(low, high), method="bounded", options={"xatol": 1e-13})
    return min((low, high, found.x), key=surprise)


def brute_bounds(lost, won, n):
    def score(delta):
        q = restricted(lost, won, n, delta)
        return (lost - won - n * delta) / math.sqrt(n * (2.0 * q + delta * (1.0 - delta)))

    drop = (lost - won) / n
    near = 1e-9
    upper = optimize.brentq(lambda d: score(d) + Z, drop + near, 1 - near, xtol=1e-12)
    lower = optimize.brentq(lambda d: score(d) - Z, -1 + near, drop - near, xtol=1e-12)
    return lower, upper


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(12, 2, 50), (2, 12, 50), (1, 0, 20), (0, 1, 20), (5, 5, 100), (30, 20, 1000), (3, 9, 400)]
)
def test_tangos_bounds_against_a_search_for_the_restricted_likelihood(lost, won, n):
    assert statistics.drop_bounds(paired(n, lost, won)) == pytest.approx(brute_bounds(lost, won, n), abs=2e-6)


@pytest.mark.parametrize("n", [1, 5, 50, 539, 10_000])
def test_without_discordant_pairs_the_bound_has_a_closed_form(n):
    lower, upper = statistics.drop_bounds(paired(n, 0, 0))
    assert upper == pytest.approx(Z**2 / (n + Z**2), rel=1e-9)
    assert lower == pytest.approx(-upper, rel=1e-9)


@given(st.integers(1, 3000), st.data())
@settings(deadline=None)
def test_the_bounds_enclose_the_drop_and_turn_with_the_sign(n, data):
    lost = data.draw(st.integers(0, n))
    won = data.draw(st.integers(0, n - lost))
    pair = paired(n, lost, won)
    lower, upper = statistics.drop_bounds(pair)
    assert -1.0 <= lower <= pair.drop <= upper <= 1.0
    turned = statistics.drop_bounds(paired(n, won, lost))
    assert turned == pytest.approx((-upper, -lower), abs=1e-9)


@given(st.integers(2, 3000), st.data())
@settings(deadline=None)
def test_one_more_lost_sample_never_makes_the_bound_smaller(n, data):
    lost = data.draw(st.integers(0, n - 1))
    won = data.draw(st.integers(0, n - 1 - lost))
    before = statistics.drop_bounds(paired(n, lost, won))[1]
    assert statistics.drop_bounds(paired(n, lost + 1, won))[1] >= before - 1e-9


@given(st.integers(1, 500), st.integers(2, 20), st.data())
@settings(deadline=None)
def test_more_samples_of_the_same_kind_narrow_the_bound(n, times, data):
    lost = data.draw(st.integers(0, n))
    won = data.draw(st.integers(0, n - lost))
    few = statistics.drop_bounds(paired(n, lost, won))[1]
    assert statistics.drop_bounds(paired(n * times, lost * times, won * times))[1] <= few + 1e-9


@given(st.integers(1, 5000), st.data())
def test_clopper_pearson_is_the_beta_quantile(n, data):
    count = data.draw(st.integers(0, n))
    bound = statistics.proportion_upper(count, n)
    expected = 1.0 if count == n else stats.beta.ppf(0.95, count + 1, n - count)
    assert bound == pytest.approx(expected, rel=1e-6)
    assert bound >= count / n
    if count < n:  # by its definition: so few would be seen with 5 % chance only
        assert stats.binom.cdf(count, n, bound) == pytest.approx(0.05, rel=1e-6)


def test_nothing_seen_leaves_everything_possible():
    assert statistics.proportion_upper(0, 0) == 1.0
    assert statistics.proportion_upper(0, 2995) < 0.001 < statistics.proportion_upper(0, 2993)


@pytest.mark.parametrize(("n", "lost", "won"), [(100, 0, 0), (300, 2, 2), (60, 0, 1), (1000, 3, 1), (64, 1, 1)])
def test_the_number_of_samples_that_is_named_really_decides(n, lost, won):
    margin = 0.005
    pair = paired(n, lost, won)
    needed = statistics.samples_needed(pair, margin)

    def upper(total):
        scale = total / n
        return statistics.drop_bounds(Paired(total, lost * scale, won * scale, total))[1]

    assert needed > n
    assert upper(needed) < margin <= upper(needed - 1)


def test_539_samples_without_a_flip_exclude_half_a_point():
    assert statistics.samples_needed(paired(10, 0, 0), 0.005) == 539


def test_no_number_of_samples_shows_that_a_real_drop_is_none():
    assert statistics.samples_needed(paired(100, 2, 0), 0.005) is None
    assert statistics.samples_needed(paired(200, 1, 0), 0.005) is None  # exactly on the margin
    assert statistics.samples_needed(paired(1_000_000, 4_999, 0), 0.005) is None  # more than anyone has


@given(st.integers(1, 2000), st.data())
@settings(deadline=None, max_examples=50)
def test_enough_samples_need_no_more(n, data):
    lost = data.draw(st.integers(0, n // 100))
    pair = paired(n, lost, lost)
    upper = statistics.drop_bounds(pair)[1]
    assume(upper < 0.2)
    assert statistics.samples_needed(pair, upper + 1e-6) == n


def test_drop_and_ratio_are_of_the_same_samples():
    pair = Paired(200, 4, 2, 190)
    assert pair.drop == pytest.approx(0.01)
    assert pair.ratio == pytest.approx(188 / 190)
    assert Paired(10, 0, 0, 0).ratio == 1.0
    assert Paired(10, 0, 3, 0).ratio == math.inf


@given(st.integers(1, 5000), st.data())
@settings(deadline=None)
def test_both_bounds_of_a_proportion_are_scipys_exact_ones(n, data):
    count = data.draw(st.integers(0, n))
    exact = stats.binomtest(count, n).proportion_ci(confidence_level=0.9, method="exact")
    assert statistics.proportion_bounds(count, n) == pytest.approx((exact.low, exact.high), rel=1e-6, abs=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemars_p_is_the_exact_binomial_one(lost, won):
    p = statistics.mcnemar_p(paired(200, lost, won))
    assert p == pytest.approx(stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0, rel=1e-9)


@pytest.mark.parametrize("limit", [0.001, 0.005, 0.01, 0.02])
def test_the_rows_that_decide_without_a_single_flip_have_a_closed_form(limit):
    needed = statistics.rows_needed(0, 10, limit)
    assert needed == math.ceil(math.log(0.05) / math.log1p(-limit))
    assert stats.beta.ppf(0.95, 1, needed) <= limit < stats.beta.ppf(0.95, 1, needed - 1)


@given(st.integers(20, 3000), st.integers(1, 20), st.sampled_from([0.005, 0.01, 0.02]))
@settings(deadline=None)
def test_the_rows_that_are_named_really_decide(n, count, limit):
    assume(statistics.proportion_upper(count, n) > limit)
    needed = statistics.rows_needed(count, n, limit)
    if count / n >= limit:
        assert needed is None
        return
    assume(needed is not None)
    assert needed > n

    def bound(total):
        flips = math.ceil(count / n * total)
        return stats.beta.ppf(0.95, flips + 1, total - flips)

    assert bound(needed) <= limit < bound(needed - 1)


def test_nobody_has_the_rows_that_a_rate_on_the_limit_needs():
    assert statistics.rows_needed(10, 1000, 0.01) is None
    assert statistics.rows_needed(9_999, 1_000_000, 0.01) is None
