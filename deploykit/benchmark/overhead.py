"""What a running server adds to its model, and how much it answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from deploykit.benchmark import stats, summary
from deploykit.benchmark.plan import Subject
from deploykit.benchmark.series import Measured, Series
from deploykit.measurements import BenchRow, Comparison


def rows(subjects: Sequence[Subject], measured: Measured) -> list[BenchRow]:
    """One row per subject and batch size; those of a server leave empty what only its own process could tell."""
    clients = {subject.name: subject.clients for subject in subjects}
    return [_row(row, clients[row.name], measured) for row in summary.rows(subjects, measured)]


def _row(row: BenchRow, clients: int, measured: Measured) -> BenchRow:
    launches = measured.of(row.name, row.batch)
    if not clients or not launches:
        return replace(row, clients=clients)
    found = stats.median_interval([_per_second(one) for one in launches])
    return replace(
        row,
        clients=clients,
        throughput_per_s=found.estimate,
        throughput_ci=(found.low, found.high) if found.level else None,
        load_ms=None,
        peak_rss_bytes=None,
    )


def _per_second(one: Series) -> float:
    calls, busy_ns = (sum(getattr(block, name) for block in one.blocks) for name in ("calls", "busy_ns"))
    return stats.throughput(calls, one.batch, busy_ns)


def comparisons(base: Subject, served: Sequence[Subject], measured: Measured) -> list[Comparison]:
    """Every subject of a server against the same variant in-process; none where that was not measured."""
    return [
        _compared(measured, base.name, one.name, batch)
        for batch in sorted(base.feeds)
        if measured.of(base.name, batch)
        for one in served
    ]


def _compared(measured: Measured, base: str, candidate: str, batch: int) -> Comparison:
    found = summary.compare(measured, base, candidate, batch)
    pairs = summary.pairs(measured, base, candidate, batch)
    if not pairs:
        return found
    added = stats.signed_rank_interval([added_ns(*pair) for pair in pairs])
    return replace(found, added_ns=added.estimate, added_ci_ns=(added.low, added.high) if added.level else None)


def added_ns(base: Series, candidate: Series) -> float:
    """What one launch says: the median over its pairs of blocks of the difference of their median times."""
    before = {block.round: block.median_ns for block in base.blocks}
    return median(block.median_ns - before[block.round] for block in candidate.blocks)
