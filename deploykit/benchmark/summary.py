"""From raw readings to the table and its comparisons. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from deploykit.benchmark import stats
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.series import Measured, Series
from deploykit.measurements import BenchRow, Comparison

BASES = ("eager", "onnx")
"""What everything is compared with: the first of these that was measured, else the first subject that was."""


def rows(subjects: Sequence[Subject], measured: Measured) -> list[BenchRow]:
    """One row per subject and batch size, batch after batch."""
    batches = sorted({batch for subject in subjects for batch in subject.feeds})
    return [_row(subject, batch, measured) for batch in batches for subject in subjects if batch in subject.feeds]


def _row(subject: Subject, batch: int, measured: Measured) -> BenchRow:
    launches = measured.of(subject.name, batch)
    if not launches:
        why = measured.reason(subject.name, batch)
        reason = f"{why.code}: {why.reason}" if why else "nothing was measured"
        settings = subject.settings
        return BenchRow(
            subject.name, settings.provider, batch, settings.threads, "not_measured", reason,
            file_bytes=subject.file_bytes, settings=settings.words,
        )  # fmt: skip
    restless = sum(not one.steady for one in launches)
    said = f"the warm-up did not settle in {restless} of {len(launches)} launches" if restless else ""
    calls = sum(block.calls for one in launches for block in one.blocks)
    busy_ns = sum(block.busy_ns for one in launches for block in one.blocks)
    peaks = [one.peak_rss_bytes for one in launches if one.peak_rss_bytes is not None]
    return BenchRow(
        subject.name,
        launches[0].provider,
        batch,
        launches[0].threads,
        "not_steady" if 2 * restless > len(launches) else "measured",  # one noisy launch does not speak for the rest
        said,
        **_times(launches),
        throughput_per_s=stats.throughput(calls, batch, busy_ns),
        load_ms=median(one.load_ms for one in launches),
        first_call_ms=median(one.first_call_ms for one in launches),
        peak_rss_bytes=int(median(peaks)) if peaks else None,
        file_bytes=subject.file_bytes,
        calls=calls,
        launches=len(launches),
        settings=subject.settings.words,
    )


def _times(launches: Sequence[Series]) -> dict[str, Any]:
    """The fields of a BenchRow that are nanoseconds."""
    middle = stats.median_interval([one.median_ns for one in launches])
    sure = middle.level > 0
    tails: dict[str, Any] = {}
    repeats = max(one.repeats for one in launches)
    calls = [one.call_ns for one in launches]
    blocks = [block for one in launches for block in one.blocks]
    for quantile, name in ((0.90, "p90_ns"), (0.99, "p99_ns")):
        tails[name], tails[f"{name}_reason"] = stats.percentile(calls, quantile, repeats)
    phases = [np.median(one.phases, axis=0) for one in launches if len(one.phases)]
    h2d, compute, d2h = (float(ns) for ns in np.median(phases, axis=0)) if phases else (None, None, None)
    return {
        "median_ns": middle.estimate,
        "median_ci_ns": (middle.low, middle.high) if sure else None,
        "median_ci_level": middle.level if sure else None,
        "median_ci_ns_reason": None if sure else "one launch says nothing about the next",
        "h2d_ns": h2d,
        "compute_ns": compute,
        "d2h_ns": d2h,
        **tails,
        "p90_at_most_ns": stats.call_limit([b.ns for b in blocks], [b.repeats for b in blocks], 0.90)
        if repeats > 1
        else None,
    }


def sampling(measured: Measured) -> dict[str, Any]:
    """How the sample came about: launches made and why no more, rounds and how many of them were dropped."""
    disturbed = [one.disturbed for one in measured.disturbed]
    return {
        "launches_made": len(measured.launches),
        "ended": measured.ended,
        "rounds": len(measured.rounds),
        "rounds_dropped": len(measured.dropped),
        "rounds_disturbed": {reason: disturbed.count(reason) for reason in sorted(set(disturbed))},
    }


def compare(measured: Measured, base: str, candidate: str, batch: int) -> Comparison:
    """`candidate` against `base` over the launches that have both."""
    shared = pairs(measured, base, candidate, batch)
    if not shared:
        return Comparison(base, candidate, batch, None, None, None, "not_measured")
    ratio = stats.log_ratio_interval([log_ratio(*pair) for pair in shared])
    ci, level = ((ratio.low, ratio.high), ratio.level) if ratio.level else (None, None)
    return Comparison(base, candidate, batch, ratio.estimate, ci, level, stats.verdict(ratio))


def pairs(measured: Measured, base: str, candidate: str, batch: int) -> list[tuple[Series, Series]]:
    """The launches that have both, each without the rounds in which one of them has no block."""
    candidates = {one.launch: one for one in measured.of(candidate, batch)}
    found = []
    for one in measured.of(base, batch):
        other = candidates.get(one.launch)
        if other is not None and (both := {b.round for b in one.blocks} & {b.round for b in other.blocks}):
            found.append((_only(one, both), _only(other, both)))
    return found


def _only(one: Series, rounds: set[int]) -> Series:
    kept = tuple(block for block in one.blocks if block.round in rounds)
    return one if len(kept) == len(one.blocks) else replace(one, blocks=kept)


def log_ratio(base: Series, candidate: Series) -> float:
    """What one launch says: the median over its pairs of blocks of the log ratio of their median times."""
    before = {block.round: block.median_ns for block in base.blocks}
    logs = [math.log(block.median_ns / before[block.round]) for block in candidate.blocks]
    return float(median(logs))


def narrow(protocol: Protocol, wanted: Sequence[tuple[str, str, int]]) -> Callable[[Measured], bool]:
    """Whether the 95 % interval of every (base, candidate, batch) in `wanted` is as narrow as `protocol` asks.

    It looks at the width alone, and never at where the interval lies: who stops when the answer pleases will be
    pleased by noise. What went missing gets no narrower.
    """

    def enough(measured: Measured) -> bool:
        for base, candidate, batch in wanted:
            shared = pairs(measured, base, candidate, batch)
            lost = measured.reason(base, batch) or measured.reason(candidate, batch)
            ratio = stats.log_ratio_interval([log_ratio(*pair) for pair in shared]) if shared else None
            if lost is None and (ratio is None or stats.half_width(ratio) > protocol.half_width):
                return False
        return True

    return enough


def deciding(subjects: Sequence[Subject], batch: int, origins: Mapping[str, str]) -> list[tuple[str, str, int]]:
    """The comparisons at `batch` that a recommendation rests on, as far as they are known before any measurement.

    Every subject with the base line, and every variant with the one it was made from: reduced precision has to earn
    its place over its origin. Which two will be the best is not known beforehand, and choosing them by what was
    measured would let the answer decide when to stop.

    Args:
        subjects: what is measured.
        batch: the batch that decides.
        origins: variant to the one it was made from; empty for what was exported from the module.
    """
    by_name = {subject.name: subject for subject in subjects if batch in subject.feeds}
    names = list(by_name)
    base = next((name for name in (*BASES, *names) if name in by_name), None)
    wanted = [(base, name, batch) for name in names if base is not None and name != base]
    for name, subject in by_name.items():
        variant = subject.variant or name
        origin = name.replace(variant, origins.get(variant, ""), 1)  # `onnx-fp16@device_graph=on` against `onnx@…`
        if origins.get(variant) and origin in by_name:
            wanted.append((origin, name, batch))
    return list(dict.fromkeys(wanted))


def comparisons(subjects: Sequence[Subject], measured: Measured) -> list[Comparison]:
    """Every subject against the base line, per batch; none where nothing was measured."""
    batches = sorted({batch for subject in subjects for batch in subject.feeds})
    found: list[Comparison] = []
    for batch in batches:
        names = [subject.name for subject in subjects if batch in subject.feeds]
        alive = [name for name in names if measured.of(name, batch)]
        base = next((name for name in (*BASES, *alive) if name in alive), None)
        if base is not None:
            found += [compare(measured, base, name, batch) for name in names if name != base]
    return found
