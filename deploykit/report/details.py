"""What the bench table has no room for, as a second one: where and how it ran, and a device's share of a call."""

from __future__ import annotations

from collections.abc import Callable

from deploykit.measurements import BenchReport, BenchRow
from deploykit.units import duration, per_second, size

_COLUMNS: tuple[tuple[str, Callable[[BenchRow], str]], ...] = (
    ("variant", lambda row: row.name),
    ("batch", lambda row: str(row.batch)),
    ("provider", lambda row: row.provider),
    ("threads", lambda row: "" if row.threads is None else str(row.threads)),
    ("settings", lambda row: row.settings),
    ("clients", lambda row: str(row.clients or "")),
    ("verdict", lambda row: row.verdict),
    ("launches", lambda row: str(row.launches or "")),
    ("calls", lambda row: f"{row.calls:,}" if row.calls else ""),
    ("confidence", lambda row: f"{row.median_ci_level:.1%}" if row.median_ci_level else ""),
    ("per second, interval", lambda row: _rates(row.throughput_ci)),
    ("p90 at most", lambda row: _time(row.p90_at_most_ns)),
    ("to device", lambda row: _time(row.h2d_ns)),
    ("compute", lambda row: _time(row.compute_ns)),
    ("by events", lambda row: _time(row.events_ns)),
    ("to host", lambda row: _time(row.d2h_ns)),
    ("device memory", lambda row: size(row.gpu_memory_bytes) if row.gpu_memory_bytes is not None else ""),
    ("nodes", lambda row: ", ".join(f"{name} {count}" for name, count in row.nodes.items())),
    ("why not", lambda row: "; ".join(_reasons(row))),
)


def table(report: BenchReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows, a row per variant and batch; a column that is empty throughout is left out."""
    cells = [[read(row) for _, read in _COLUMNS] for row in report.variants]
    kept = [index for index in range(len(_COLUMNS)) if any(row[index] for row in cells)]
    return tuple(_COLUMNS[index][0] for index in kept), [tuple(row[index] for index in kept) for row in cells]


def _time(ns: float | None) -> str:
    return "" if ns is None else duration(ns)


def _rates(limits: tuple[float, float] | None) -> str:
    return "" if limits is None else f"[{per_second(limits[0])}, {per_second(limits[1])}]"


def _reasons(row: BenchRow) -> list[str]:
    """Every number that is missing with its reason, each reason once."""
    told: dict[str, list[str]] = {}
    for what, reason in (
        ("", row.reason),
        ("interval", row.median_ci_ns_reason),
        ("p90", row.p90_ns_reason),
        ("p99", row.p99_ns_reason),
        ("device memory", row.gpu_memory_reason),
        ("events", row.events_ns_reason),
    ):
        if reason:
            told.setdefault(reason, []).append(what)
    return [f"no {' and '.join(whats)}: {reason}" if any(whats) else reason for reason, whats in told.items()]
