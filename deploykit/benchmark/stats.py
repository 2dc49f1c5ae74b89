"""The statistics of a benchmark. Pure; no assumption but that launches are independent.

Levels are exact and therefore steps: with few launches the wanted confidence cannot be had, and the one that was
had is stated instead (three launches: 75 %).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deploykit.measurements import MATTERS

CONFIDENCE = 0.95
"""Wanted confidence of the intervals in the report."""

NEEDED_CALLS = {0.90: 100, 0.99: 1000}
"""Calls under which a percentile is refused: ten of them lie beyond it, on average."""


@dataclass(frozen=True)
class Interval:
    """An estimate, its limits, and the confidence they really have; `low` and `high` are infinite at level 0."""

    estimate: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Limits:
    """An estimate with two one-sided limits; one that too few values cannot give is infinite, its level 0.

    Attributes:
        low: the centre lies above it with confidence `low_level`.
        high: the centre lies below it with confidence `high_level`.
    """

    estimate: float
    low: float
    high: float
    low_level: float
    high_level: float


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Median and order-statistic interval around it: the narrowest symmetric one with `confidence`, else the widest.

    The k-th smallest and k-th largest of n values enclose the median with probability 1 - 2·P(Bin(n, ½) ≤ k - 1)
    (H. A. David and H. N. Nagaraja, "Order Statistics", 3rd ed. 2003, section 7.1).
    """
    ordered = sorted(values)
    count = len(ordered)
    if count < 2:
        return Interval(ordered[0], -math.inf, math.inf, 0.0)
    tails = [tail / 2**count for tail in accumulate(math.comb(count, k) for k in range(count // 2))]
    rank, level = _rank(tails, confidence)
    return Interval(float(np.median(ordered)), ordered[rank - 1], ordered[count - rank], level)


def signed_rank_interval(differences: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Hodges-Lehmann estimate of the centre of paired `differences`, and the interval of the signed-rank test.

    The estimate is the median of the M = n(n+1)/2 Walsh averages (xᵢ + xⱼ)/2, i ≤ j; the k-th smallest and k-th
    largest of them are limits with confidence 1 - 2·P(T⁺ ≤ k - 1), T⁺ being Wilcoxon's statistic under symmetry
    (J. L. Hodges and E. L. Lehmann, Annals of Mathematical Statistics 34 (1963) 598-611; M. Hollander, D. A. Wolfe
    and E. Chicken, "Nonparametric Statistical Methods", 3rd ed. 2014, sections 3.2 and 3.3).
    """
    walsh = _walsh(differences)
    estimate = float(np.median(walsh))
    if len(differences) < 2:
        return Interval(estimate, -math.inf, math.inf, 0.0)
    tails = _signed_rank_tails(len(differences))[: len(walsh) // 2]
    rank, level = _rank(tails, confidence)
    return Interval(estimate, float(walsh[rank - 1]), float(walsh[len(walsh) - rank]), level)


def signed_rank_limits(differences: Sequence[float], low: float, high: float) -> Limits:
    """Hodges-Lehmann estimate with a lower limit of confidence `low` and an upper one of confidence `high`.

    Each limit is a question of its own, asked of one side only; n values reach a confidence of 1 - 2⁻ⁿ at best.
    """
    walsh = _walsh(differences)
    tails = _signed_rank_tails(len(differences))
    below, low_level = _one_sided(tails, low)
    above, high_level = _one_sided(tails, high)
    return Limits(
        float(np.median(walsh)),
        float(walsh[below - 1]) if below else -math.inf,
        float(walsh[len(walsh) - above]) if above else math.inf,
        low_level,
        high_level,
    )


def signed_rank_p(differences: Sequence[float], shift: float = 0.0) -> float:
    """Exact one-sided p-value of the signed-rank test that the centre of `differences` is above `shift`.

    T⁺ is counted as the number of Walsh averages above `shift`; those that equal it count for the null hypothesis,
    which keeps the level where values are tied. So p ≤ 1 - confidence exactly where the lower limit of that confidence
    lies above `shift` (Hollander, Wolfe and Chicken, sections 3.1 to 3.3, where Walsh averages give both).
    """
    walsh = _walsh(differences)
    not_above = int(np.sum(walsh <= shift))
    return _signed_rank_tails(len(differences))[not_above]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having asked all of these questions, in the order given.

    Rejecting where the adjusted value is at most α keeps the chance of any false alarm at α, whatever depends on what
    (S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979)).
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = running
    return adjusted


def signed_rank_counts(count: int) -> list[int]:
    """In how many of the 2ⁿ sign patterns of the ranks 1…n their positive sum is 0, 1, …, n(n+1)/2."""
    ways = [1] + [0] * (count * (count + 1) // 2)
    for rank in range(1, count + 1):
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    return ways


@cache
def _signed_rank_tails(count: int) -> list[float]:
    """P(T⁺ ≤ k) for k = 0, 1, …, n(n+1)/2."""
    return [tail / 2**count for tail in accumulate(signed_rank_counts(count))]


def _walsh(differences: Sequence[float]) -> NDArray[np.float64]:
    """float64[n(n+1)/2] the averages of all pairs, each value with itself included, ascending."""
    values = np.asarray(differences, dtype=np.float64)
    first, second = np.triu_indices(len(values))
    return np.sort((values[first] + values[second]) / 2)


def _one_sided(tails: list[float], confidence: float) -> tuple[int, float]:
    """Largest rank k whose one-sided limit has `confidence`, and what it has; 0 where no limit has it."""
    rank = sum(tail <= 1 - confidence + ROUNDING for tail in tails[:-1])
    return (rank, 1 - tails[rank - 1]) if rank else (0, 0.0)


ROUNDING = 1e-12
"""1 - 0.99 is not 0.01 in binary."""


def _rank(tails: list[float], confidence: float) -> tuple[int, float]:
    """Largest rank k (at least 1) whose limits have `confidence`, and what they have; `tails[k-1]` is one tail."""
    fitting = sum(1 - 2 * tail >= confidence for tail in tails)
    rank = max(1, fitting)
    return rank, 1 - 2 * tails[rank - 1]


def log_ratio_interval(logs: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The interval of `signed_rank_interval` for logarithms of ratios, one per launch, as ratios."""
    found = signed_rank_interval(logs, confidence)
    return Interval(math.exp(found.estimate), math.exp(found.low), math.exp(found.high), found.level)


def half_width(ratio: Interval, confidence: float = CONFIDENCE) -> float:
    """Half the width of a ratio's interval, relative to its middle: 0.01 is ±1 %; infinite without `confidence`."""
    if ratio.level < confidence:
        return math.inf
    return math.sqrt(ratio.high / ratio.low) - 1


def ratio_interval(base: Sequence[float], candidate: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """`candidate` over `base`, paired by launch: Hodges-Lehmann of the log ratio and its limits, as ratios."""
    logs = [math.log(c) - math.log(b) for b, c in zip(base, candidate, strict=True)]
    return log_ratio_interval(logs, confidence)


def verdict(ratio: Interval) -> Literal["faster", "slower", "indistinguishable"]:
    """What a ratio of times says: nothing when its limits hold 1, or when it is too close to 1 to matter."""
    if ratio.low <= 1 <= ratio.high or abs(ratio.estimate - 1) < MATTERS:
        return "indistinguishable"
    return "faster" if ratio.estimate < 1 else "slower"


def percentile(
    launches: Sequence[NDArray[Any]], quantile: float, repeats: int = 1
) -> tuple[float, None] | tuple[None, str]:
    """The `quantile` over all calls of all launches, or None and why it would be no honest number.

    The value is one that was measured: the smallest with at least `quantile` of the calls at or below it (type 1 of
    R. J. Hyndman and Y. Fan, "Sample quantiles in statistical packages", The American Statistician 50 (1996)).

    Args:
        launches: per launch, the times of its calls.
        quantile: one of `NEEDED_CALLS`.
        repeats: calls per reading; a reading of several hides the tail of a single one.
    """
    if repeats > 1:
        return None, f"calls are too short to time one by one: {repeats} to a reading"
    calls = np.concatenate([np.asarray(launch) for launch in launches])
    needed = NEEDED_CALLS[quantile]
    if len(calls) < needed:
        return None, f"{len(calls)} calls, {needed} are needed"
    value = float(np.quantile(calls, quantile, method="inverted_cdf"))
    reaching = sum(bool(np.any(np.asarray(launch) >= value)) for launch in launches)
    if 2 * reaching < len(launches):
        return None, f"the tail comes from {reaching} of {len(launches)} launches, half are needed"
    return value, None


def call_limit(readings: Sequence[NDArray[Any]], repeats: Sequence[int], quantile: float) -> float | None:
    """An upper limit of `percentile` where readings hold several calls; None where there are too few of them.

    A call takes at most as long as the whole reading that it is a part of. So when readings that hold a share
    `quantile` of all calls are no longer than this value, at least that share of the calls is not either.

    Args:
        readings: per block, the times of its readings, undivided.
        repeats: per block, calls in a reading.
        quantile: one of `NEEDED_CALLS`, which counts readings here.
    """
    times = np.concatenate([np.asarray(block) for block in readings])
    if len(times) < NEEDED_CALLS[quantile]:
        return None
    weights = np.repeat(np.asarray(repeats), [len(block) for block in readings])
    order = np.argsort(times, kind="stable")
    held = np.cumsum(weights[order])
    return float(times[order][np.searchsorted(held, quantile * held[-1])])


def throughput(calls: int, batch: int, busy_ns: int) -> float:
    """Samples per second really done: calls × batch over the time spent in them."""
    return calls * batch / (busy_ns / 1e9)
