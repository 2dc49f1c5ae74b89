"""Comparisons of what a goal is about: times, throughput and memory by launch, sizes as they are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from deploykit.benchmark import stats, summary
from deploykit.benchmark.metrics import METRICS, Metric
from deploykit.benchmark.series import Measured, Series
from deploykit.measurements import MATTERS, BenchRow, Comparison, Goal


def compare(
    measured: Measured, rows: Sequence[BenchRow], base: str, candidate: str, batch: int, goal: Goal
) -> Comparison:
    """`candidate` against `base`: the ratio of costs, below 1 (`faster`) when the candidate costs less.

    Throughput is compared by the busy time per call and memory by the peak of a launch: both paired by launch like
    latency, with the same interval and the same least difference that matters. Sizes are known exactly;
    `measurements.MATTERS` holds for them as well.

    Args:
        measured: what the launches found.
        rows: the table; sizes are read from it.
        base: name of a subject.
        candidate: name of another.
        batch: the batch size that decides.
        goal: see `measurements.Goal`.
    """
    if goal == "latency":
        return summary.compare(measured, base, candidate, batch)
    if goal == "size":
        return _sizes(rows, base, candidate, batch)
    first, second = (_by_launch(measured.of(name, batch), METRICS[goal]) for name in (base, candidate))
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return Comparison(base, candidate, batch, None, None, None, "not_measured")
    found = stats.ratio_interval([first[one] for one in shared], [second[one] for one in shared])
    ci, level = ((found.low, found.high), found.level) if found.level else (None, None)
    return Comparison(base, candidate, batch, found.estimate, ci, level, stats.verdict(found))


def _by_launch(series: Sequence[Series], metric: Metric) -> dict[int, float]:
    return {one.launch: metric.value(one) for one in series if not metric.refusal(one)}


def _sizes(rows: Sequence[BenchRow], base: str, candidate: str, batch: int) -> Comparison:
    known = {row.name: row.file_bytes for row in rows if row.batch == batch}
    first, second = known.get(base), known.get(candidate)
    if not first or not second:
        return Comparison(base, candidate, batch, None, None, None, "not_measured")
    ratio = second / first
    verdict: Literal["faster", "slower", "indistinguishable"] = "faster" if ratio < 1 else "slower"
    if abs(ratio - 1) < MATTERS:
        verdict = "indistinguishable"
    return Comparison(base, candidate, batch, ratio, None, None, verdict)
