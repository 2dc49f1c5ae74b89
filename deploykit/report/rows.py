"""What every form of a report shows of a result, as strings: one place decides on digits and units."""

from __future__ import annotations

import math

from deploykit.diagnosis import remedy
from deploykit.errors import escape
from deploykit.measurements import BenchReport, BenchRow, Comparison, Recommendation
from deploykit.report import location
from deploykit.results import Check, VariantReport, VerifyReport
from deploykit.units import duration, size, span_of, times

VERIFY_HEAD = ("variant", "verdict", "tightest check", "value", "limit", "head-room", "reason")
BENCH_HEAD = (
    "variant",
    "batch",
    "median [interval]",
    "p90",
    "p99",
    "per second",
    "load",
    "first call",
    "peak RSS",
    "file",
    "vs base",
)


def verify_rows(report: VerifyReport) -> list[tuple[str, ...]]:
    """A row per variant, in the order of `VERIFY_HEAD`."""
    return [_verify_row(variant) for variant in report.variants]


def _verify_row(variant: VariantReport) -> tuple[str, ...]:
    check = tightest(variant)
    if check is None:
        return (variant.name, variant.verdict, variant.code or "-", "-", "-", "-", escape(variant.reason))
    sign = "≥" if check.at_least else "≤"
    return (
        variant.name,
        variant.verdict,
        f"{check.id} {check.metric}",
        number(check.value),
        "-" if check.limit is None else f"{sign} {number(check.limit)}",
        headroom(check),
        escape(variant.reason if variant.verdict != "pass" else check.reason),
    )


_APART = {"task", "weights", "graph"}
"""Classes of checks that hold by their nature (rounding is half a step at most): they count when they fail."""


def tightest(variant: VariantReport) -> Check | None:
    """The check that decides: the one that the reason speaks of where it did not pass, else the least head-room."""
    for verdict in ("fail", "inconclusive"):
        found = [check for check in variant.checks if check.verdict == verdict]
        named = (check for check in found if f"{check.id}: {check.reason}" in variant.reason)
        if found:
            return next(named, found[0])
    limited = [
        check
        for check in variant.checks
        if check.limit and check.value is not None and check.verdict != "skipped" and check.input_class not in _APART
    ]
    return min((check for check in limited if _nearness(check) >= 1.0), key=_nearness, default=None)


def _nearness(check: Check) -> float:
    """Comparable head-room: decibels as the ratio of amplitudes they stand for."""
    room = check.headroom
    if room is None:
        return math.inf
    return float(10.0 ** (min(room, 400.0) / 20.0)) if check.metric.endswith("_db") else room


def findings(variant: VariantReport) -> list[str]:
    """What deserves a line of its own under the table: where it diverged, what to do about it, warnings."""
    lines = []
    if variant.first_divergence:
        lines.append(f"{variant.name}: {variant.code} worst at {escape(variant.first_divergence)}")
    lines += location.lines(variant, measured(variant))
    if variant.verdict != "pass" and (advice := remedy(variant.code)):
        lines.append(f"{variant.name}: {variant.code}, what to do: {advice}")
    return lines + [f"{variant.name}: warning {line}" for line in warnings(variant)]


def measured(variant: VariantReport) -> str:
    """Output, metric and value of the check that decides, `logits R=5.3e3`; empty where no check has a value."""
    check = tightest(variant)
    if check is None or check.value is None:
        return ""
    return f"{check.output} {check.metric}={number(check.value)}".strip()


def warnings(variant: VariantReport) -> list[str]:
    """What a variant passed with, each reason once: `CODE: reason (where)`."""
    warned: dict[str, list[Check]] = {}
    for check in variant.checks:
        if check.verdict == "warn":
            warned.setdefault(f"{check.code}: {check.reason}", []).append(check)
    return [
        f"{escape(reason)} ({', '.join(dict.fromkeys(check.id for check in checks))})"
        for reason, checks in warned.items()
    ]


def task_lines(report: VerifyReport) -> list[str]:
    """What became of the decisions, variants with the same line together."""
    found: dict[str, list[str]] = {}
    for variant in report.variants:
        for check in variant.checks:
            if check.id == "top1-agreement":
                found.setdefault(f"top-1: {check.reason}", []).append(variant.name)
            if check.id == "top1-drop" and check.verdict != "inconclusive":
                bound = f"drop at most {check.value or 0.0:.2%} (95 %), limit {check.limit or 0.0:.2%}"
                found.setdefault(f"top-1: {check.reason}; {bound}", []).append(variant.name)
    return [f"{line} ({', '.join(names)})" for line, names in found.items()]


def bench_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """A row per variant and batch, in the order of `BENCH_HEAD`."""
    ratios = {(c.candidate, c.batch): c for c in report.comparisons}
    rows = []
    for row in report.variants:
        if row.verdict == "not_measured":
            rows.append(
                (row.name, str(row.batch), f"not measured: {escape(row.reason)}", *[""] * (len(BENCH_HEAD) - 3))
            )
            continue
        found = ratios.get((row.name, row.batch))
        rows.append((*_bench_row(row), _against(found)))
    return rows


def _against(found: Comparison | None) -> str:
    if found is None or not found.ratio:
        return "base"
    if found.verdict == "indistinguishable":
        return "the same"
    return f"{times(max(found.ratio, 1 / found.ratio))} {found.verdict}"


def _bench_row(row: BenchRow) -> tuple[str, ...]:
    span = f" [{span_of(*row.median_ci_ns)}]" if row.median_ci_ns else ""
    mark = " *" if row.verdict == "not_steady" else ""
    return (
        row.name,
        str(row.batch),
        duration(row.median_ns) + span + mark,
        duration(row.p90_ns),
        duration(row.p99_ns),
        f"{row.throughput_per_s:,.0f}" if row.throughput_per_s else "-",
        f"{row.load_ms:.0f} ms" if row.load_ms is not None else "-",
        f"{row.first_call_ms:.2f} ms" if row.first_call_ms is not None else "-",
        size(row.peak_rss_bytes),
        size(row.file_bytes),
    )


def bench_notes(report: BenchReport) -> list[str]:
    """Lines under the table: what was refused and why, each reason once."""
    notes: dict[str, list[str]] = {}
    for row in report.variants:
        if row.verdict == "not_measured":
            continue
        refused: dict[str, list[str]] = {}
        for what, reason in (
            ("p90", row.p90_ns_reason),
            ("p99", row.p99_ns_reason),
            ("interval", row.median_ci_ns_reason),
        ):
            if reason:
                refused.setdefault(reason, []).append(what)
        for reason, what_all in refused.items():
            notes.setdefault(f"no {' and '.join(what_all)}: {reason}", []).append(row.name)
        if row.verdict == "not_steady":
            notes.setdefault(f"* not steady: {row.reason}", []).append(row.name)
    spans = sorted({(row.median_ci_level, row.launches) for row in report.variants if row.median_ci_level})
    lines = [f"interval of the median: {level:.0%} confidence, over {launches} launches" for level, launches in spans]
    if (eager := report.protocol.get("eager", "measured")) != "measured":
        lines.append(f"eager {escape(str(eager))}")
    lines += _fork_lines(report)
    return lines + [f"{escape(text)} ({', '.join(dict.fromkeys(names))})" for text, names in notes.items()]


def _fork_lines(report: BenchReport) -> list[str]:
    """That launches were not independent, where they were not."""
    line = "workers are forks of one process and share its memory layout: another run may lie outside the intervals"
    lines = [line] if report.protocol.get("forked") else []
    fresh = (f"{name} in fresh processes: {why}" for name, why in report.protocol.get("not_forked", {}).items())
    return [*lines, *map(escape, fresh)]


def asked(choice: Recommendation) -> str:
    """What the recommendation goes by, `goal latency, with size ≤ 10.0 MB`; empty where nothing was asked for."""
    if not choice.constraints and choice.goal == "latency":
        return ""
    return f"goal {choice.goal}" + (f", with {' and '.join(choice.constraints)}" if choice.constraints else "")


def front_lines(choice: Recommendation) -> list[str]:
    """The Pareto front, and what beats each variant that is not on it; nothing where nothing was ranked."""
    if not choice.pareto:
        return []
    head = f"Pareto front (latency, memory, size, exactness): {', '.join(choice.pareto)}"
    return [escape(head), *(escape(f"not on it: {item.variant}: {item.reason}") for item in choice.dominated)]


def number(value: float | None) -> str:
    """Four significant digits; `-` for what could not be had."""
    return "-" if value is None else f"{value:.4g}"


def headroom(check: Check) -> str:
    """`3.1×` or `12.4 dB`."""
    room = check.headroom
    if room is None:
        return "-"
    if math.isinf(room):
        return "exact" if room > 0 else "none"
    if check.metric.endswith("_db"):
        return f"{room:.1f} dB"
    return f"{room:.1f}×" if room < 10_000 else "> 10⁴×"
