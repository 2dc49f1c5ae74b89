"""What is shown of a running server that was measured, as strings."""

from __future__ import annotations

from deploykit.measurements import BenchReport, Comparison
from deploykit.units import duration, per_second, span_of


def place(report: BenchReport) -> str:
    """` served at URL`; empty where no server was asked."""
    return f" served at {report.protocol['url']}" if report.protocol.get("url") else ""


def lines(report: BenchReport) -> list[str]:
    """Who was asked and how, what the server adds to a call, and what it answers in all."""
    if not place(report):
        return []
    server = report.protocol.get("server") or {}
    name = " ".join(filter(None, (server.get("name"), server.get("version")))) or "a server that tells no name"
    found = [f"asked {name}, tensors as {server.get('wire', '?')}; {_clients(report)}"]
    alone = {row.name for row in report.variants if row.clients == 1}
    found += [_added(one) for one in report.comparisons if one.candidate in alone and one.added_ns is not None]
    for row in report.variants:
        if row.clients and row.throughput_per_s and row.throughput_ci:
            low, high = (per_second(one / row.batch) for one in row.throughput_ci)
            what = f"{per_second(row.throughput_per_s / row.batch)} requests per second [{low}, {high}]"
            together = " of all clients together" if row.clients > 1 else ""
            found.append(f"{row.name}, batch {row.batch}: {what}{together}")
    return found


def _clients(report: BenchReport) -> str:
    if report.loads:
        return "a request waits for a free client where all are busy, and that counts"
    return "load and memory of its process are its own and not shown"


def _added(one: Comparison) -> str:
    assert one.added_ns is not None
    span = ""
    if one.added_ci_ns and one.ci and one.ci_level:
        ratio = f"ratio {one.ratio:.3g} [{one.ci[0]:.3g}, {one.ci[1]:.3g}]"
        span = f" [{span_of(*one.added_ci_ns)}], {ratio}, at {one.ci_level:.0%} confidence"
    return f"the server adds {duration(one.added_ns)} to a call of {one.base} at batch {one.batch}{span}"
