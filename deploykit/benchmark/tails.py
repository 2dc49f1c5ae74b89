"""Percentiles under load and how sure they are. Pure.

Waits of neighbours in a queue are alike, so that the calls of a launch are no independent sample, and limits from
order statistics alone are too narrow. Whole launches are drawn again as well; but a bootstrap of a few of them is too
narrow, too: with five that differ by 10 % it encloses the truth in about 80 % of cases. So the order statistics of the
launches' own percentiles count as well, whose level is exact, and the widest limits are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deploykit.benchmark.objective import QUANTILES, Objective
from deploykit.benchmark.stats import CONFIDENCE, NEEDED_CALLS, median_interval

NEEDED = {0.5: 10, **NEEDED_CALLS, 0.999: 10_000}
"""Calls under which a percentile is refused: ten of them lie beyond it, on average."""

DRAWS = 1000
"""Bootstrap samples: the 2.5 % tail of them holds 25."""

FAR = 2.0
"""An interval without `CONFIDENCE` decides only when all of it is this factor away from the limit."""


@dataclass(frozen=True)
class Estimate:
    """A percentile and its limits in nanoseconds, or why there is none.

    Attributes:
        low, high: None where one launch says nothing about the next.
        level: confidence of the limits: that of the launches' order statistics, `CONFIDENCE` at most; 0 without limits.
    """

    percentile: str
    ns: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    level: float = 0.0


def estimate(launches: Sequence[NDArray[Any]], percentile: str, seed: int = 0) -> Estimate:
    """One percentile over all calls of all launches, by the rules of `stats.percentile`.

    Args:
        launches: per launch, the latencies of its calls in nanoseconds.
        percentile: a key of `QUANTILES`.
        seed: of the bootstrap.
    """
    quantile = QUANTILES[percentile]
    calls = np.sort(np.concatenate([np.asarray(one, np.float64) for one in launches]))
    if len(calls) < NEEDED[quantile]:
        return Estimate(percentile, None, reason=f"{len(calls):,} calls, {NEEDED[quantile]:,} are needed")
    value = float(np.quantile(calls, quantile, method="inverted_cdf"))
    reaching = sum(bool(np.any(one >= value)) for one in launches)
    if 2 * reaching < len(launches):
        why = f"the tail comes from {reaching} of {len(launches)} launches, half are needed"
        return Estimate(percentile, None, reason=why)
    if len(launches) < 2:
        return Estimate(percentile, value, reason="one launch says nothing about the next")
    level, *own = launch_limits(launches, quantile)
    lows, highs = zip(order_limits(calls, quantile), cluster_limits(launches, quantile, seed), own, strict=True)
    return Estimate(percentile, value, min(lows), max(highs), level=level)


def launch_limits(launches: Sequence[NDArray[Any]], quantile: float) -> tuple[float, float, float]:
    """Level and limits for the quantile of a typical launch: order statistics of the launches' own quantiles.

    Nothing is assumed of the launches but that they are independent (`stats.median_interval`): three have 75 %, five
    93.75 %, six or more have 95 %. No higher level is claimed, since the other limits have no more.

    Args:
        launches: at least two.
        quantile: 0 to 1.
    """
    own = [float(np.quantile(one, quantile, method="inverted_cdf")) for one in launches if len(one)]
    found = median_interval(own)
    return min(found.level, CONFIDENCE), found.low, found.high


def order_limits(ordered: NDArray[Any], quantile: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Limits for a quantile of independent calls: the k-th and the l-th smallest.

    The number of calls below the quantile is Bin(n, q); k and l leave at most half the error beyond them (H. A.
    David and H. N. Nagaraja, "Order Statistics", 3rd ed. 2003, section 7.1). Where no call lies that far out, the
    outermost one is the limit.

    Args:
        ordered: float[n] ascending.
        quantile: 0 to 1.
        confidence: of both limits together.
    """
    from scipy.stats import binom

    count, tail = len(ordered), (1 - confidence) / 2
    low = int(binom.ppf(tail, count, quantile))
    high = int(binom.ppf(1 - tail, count, quantile))
    return float(ordered[max(low - 1, 0)]), float(ordered[min(high, count - 1)])


def cluster_limits(
    launches: Sequence[NDArray[Any]], quantile: float, seed: int = 0, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Limits for a quantile of calls that are alike within a launch: bootstrap of whole launches.

    A draw is a number of times that each launch counts; the calls are sorted once and weighted (A. C. Davison and
    D. V. Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).
    """
    count = len(launches)
    owner = np.concatenate([np.full(len(one), index) for index, one in enumerate(launches)])
    calls = np.concatenate([np.asarray(one, np.float64) for one in launches])
    order = np.argsort(calls, kind="stable")
    calls, owner = calls[order], owner[order]
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, [1 / count] * count, size=DRAWS)
    kinds, which = np.unique(drawn, axis=0, return_inverse=True)  # equal draws have equal quantiles
    values = np.empty(len(kinds))
    for index, times in enumerate(kinds):
        reached = np.cumsum(times[owner])
        values[index] = calls[np.searchsorted(reached, quantile * reached[-1])]
    spread = values[which.ravel()]
    tail = (1 - confidence) / 2
    low, high = np.quantile(spread, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def judged(found: Estimate, objective: Objective) -> Literal["met", "missed", "inconclusive"]:
    """Met or missed when the limits agree about it; limits without `CONFIDENCE` have to be `FAR` from the limit."""
    if found.ns is None or found.low is None or found.high is None:
        return "inconclusive"
    away = 1.0 if found.level >= CONFIDENCE else FAR
    if found.high * away <= objective.limit_ns:
        return "met"
    return "missed" if found.low > objective.limit_ns * away else "inconclusive"
