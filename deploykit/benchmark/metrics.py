"""What the speed gate can compare: one number per launch and side, and the log ratio of the two sides. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

import numpy as np

from deploykit.benchmark import summary
from deploykit.benchmark.series import Series
from deploykit.errors import UsageError

P90_CALLS = 20
"""Calls in a launch from which its p90 is taken: two lie beyond it; ten launches make that the twenty of the table."""


@dataclass(frozen=True)
class Metric:
    """One metric; of all of them less is better.

    Attributes:
        value: of one side in one launch; nanoseconds or bytes.
        refusal: why that cannot be had honestly; empty when it can.
        log_ratio: candidate over base in one launch.
        is_time: the value is a time, to which the gate's floor applies.
    """

    value: Callable[[Series], float]
    refusal: Callable[[Series], str]
    log_ratio: Callable[[Series, Series], float]
    is_time: bool = True

    def typical(self, launches: Iterable[Series]) -> float:
        """Median over launches."""
        return median(self.value(one) for one in launches)


def _always(one: Series) -> str:
    """It can always be had."""
    del one
    return ""


def _of(
    value: Callable[[Series], float], refusal: Callable[[Series], str] = _always, *, is_time: bool = True
) -> Metric:
    """A metric whose ratio is that of two values."""
    return Metric(value, refusal, lambda base, candidate: math.log(value(candidate) / value(base)), is_time)


def _p90(one: Series) -> float:
    return float(np.quantile(one.call_ns, 0.90, method="inverted_cdf"))


def _no_p90(one: Series) -> str:
    if one.repeats > 1:
        return f"calls are too short to time one by one: {one.repeats} to a reading"
    calls = len(one.call_ns)
    return "" if calls >= P90_CALLS else f"{calls} calls in a launch, {P90_CALLS} are needed"


def _per_call(one: Series) -> float:
    """Busy time over calls: batch over this is the throughput really had."""
    return sum(block.busy_ns for block in one.blocks) / sum(block.calls for block in one.blocks)


def _no_memory(one: Series) -> str:
    return "" if one.peak_rss_bytes else "the system does not tell the peak memory"


METRICS = {
    "median": Metric(lambda one: one.median_ns, _always, summary.log_ratio),
    "p90": _of(_p90, _no_p90),
    "throughput": _of(_per_call),
    "memory": _of(lambda one: float(one.peak_rss_bytes or 0), _no_memory, is_time=False),
    "load": _of(lambda one: one.load_ms * 1e6),
}
"""Name to metric: `median` is paired block by block, the others launch by launch."""


def names(text: str) -> tuple[str, ...]:
    """`median,p90` as names, each once.

    Raises:
        UsageError: BAD_METRIC, there is none or one is unknown.
    """
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in found if name not in METRICS]
    if unknown or not found:
        what = f"no metric called {unknown[0]}" if unknown else "no metric is named"
        raise UsageError(f"--metrics {text}", what, f"some of {', '.join(METRICS)}", "BAD_METRIC")
    return found
