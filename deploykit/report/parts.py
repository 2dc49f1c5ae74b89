"""What a page says of a benchmark beside its table of latencies: the parts that only some reports have."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.measurements import BenchReport
from deploykit.report import conditions, profiles, rows, scenarios, served, speed_gate, tuned


@dataclass(frozen=True)
class Part:
    """A title, a table where there is one, then lines."""

    title: str
    head: tuple[str, ...] = ()
    body: tuple[tuple[str, ...], ...] = ()
    lines: tuple[str, ...] = ()


def title(report: BenchReport) -> str:
    """Of the whole report."""
    if report.sweeps or report.loads:
        return scenarios.head(report)
    if report.tuned:
        return tuned.render(report).partition("\n")[0]
    if report.gates:
        return f"what the speed gate of {report.bundle} measured, host to host"
    quick = " (quick: indicative, no gate)" if report.protocol.get("quick") else ""
    return f"latency of {report.bundle}{served.place(report)}, host to host{quick}"


def main(report: BenchReport) -> Part:
    """What was asked for: latencies, a sweep, a load, or settings."""
    if report.sweeps or report.loads:
        head, body = scenarios.table(report)
        return Part(title(report), head, tuple(body), (*scenarios.notes(report), *conditions.lines(report)))
    if report.tuned:
        _, *lines = tuned.render(report).split("\n")
        return Part(title(report), lines=tuple(line.strip() for line in lines))
    notes = (
        *rows.bench_notes(report),
        *conditions.lines(report),
        *speed_gate.sampling_lines(report),
        *profiles.device_lines(report),
        *served.lines(report),
    )
    return Part(title(report), rows.BENCH_HEAD, tuple(rows.bench_rows(report)), notes)


def further(report: BenchReport) -> list[Part]:
    """The speed gate's answers and the profiles, where there are any."""
    found = []
    if report.gates:
        found.append(Part("speed gate", lines=tuple(line.strip() for line in speed_gate.lines(report) if line)))
    if report.profiles:
        body = tuple(profiles.profile_rows(report))
        found.append(Part(profiles.head(), profiles.HEAD, body, tuple(profiles.notes(report))))
    return found
