"""What is shown of the scenarios Offline and Server, as strings."""

from __future__ import annotations

from deploykit.errors import escape
from deploykit.measurements import BenchReport, Load, Sweep
from deploykit.report import served
from deploykit.units import duration, per_second, span_of

SWEEP_HEAD = ("variant", "batch", "samples per second [interval]", "a call", "gain", "launches", "")
LOAD_HEAD = (
    "variant", "requests/s", "busy", "p50", "p90", "p99", "p99.9", "mean wait", "M/D/1", "alone", "verdict",
)  # fmt: skip


def table(report: BenchReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the one that was asked for."""
    return (SWEEP_HEAD, sweep_rows(report)) if report.sweeps else (LOAD_HEAD, load_rows(report))


def sweep_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """A row per variant and batch size, in the order of `SWEEP_HEAD`."""
    rows: list[tuple[str, ...]] = []
    for sweep in report.sweeps:
        if sweep.verdict == "not_measured":
            rows.append((sweep.name, "-", f"not measured: {escape(sweep.reason)}", "", "", "", ""))
        for row in sweep.rows:
            span = f" [{row.throughput_ci[0]:,.0f}, {row.throughput_ci[1]:,.0f}]" if row.throughput_ci else ""
            gain = "-" if row.gain is None else f"{row.gain:+.0%}"
            mark = "" if row.batch != sweep.batch else "saturates here" if sweep.saturated else "fastest measured"
            rows.append(
                (
                    sweep.name,
                    str(row.batch),
                    f"{row.throughput_per_s:,.0f}{span}",
                    duration(row.call_ns),
                    gain,
                    str(row.launches),
                    mark,
                )
            )
    return rows


def load_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """A row per variant, in the order of `LOAD_HEAD`."""
    return [_load_row(load) for load in report.loads]


def _load_row(load: Load) -> tuple[str, ...]:
    if load.verdict == "not_measured":
        return (load.name, f"not measured: {escape(load.reason)}", *[""] * (len(LOAD_HEAD) - 2))
    found = {one.percentile: one.ns for one in load.latency}
    return (
        load.name,
        "-" if load.rate_per_s is None else per_second(load.rate_per_s),
        "-" if load.utilization is None else f"{load.utilization:.0%}",
        *(duration(found.get(name)) for name in ("p50", "p90", "p99", "p99.9")),
        duration(load.mean_wait_ns),
        duration(load.md1_wait_ns),
        duration(load.single_ns),
        load.verdict,
    )


def head(report: BenchReport) -> str:
    """What the table shows."""
    quick = " (quick: indicative, no gate)" if report.protocol.get("quick") else ""
    if report.sweeps:
        return f"offline throughput of {report.bundle}, host to host{quick}"
    if report.protocol.get("rate") is not None:
        whose = f"{report.bundle}{served.place(report)}"
        return f"latency of {whose} under load, from the scheduled time of each request{quick}"
    return f"capacity of {report.bundle}{served.place(report) or ' as a server'}{quick}"


def notes(report: BenchReport) -> list[str]:
    """Lines under the table."""
    lines = [f"{sweep.name}: {sweep.stopped}" for sweep in report.sweeps if sweep.verdict == "measured"]
    lines += _levels(report.sweeps)
    for load in report.loads:
        if load.verdict != "not_measured":
            lines += _load_notes(load)
    lines += served.lines(report)
    if (eager := report.protocol.get("eager", "measured")) != "measured":
        lines.append(f"eager {eager}")
    return [escape(line) for line in lines]


def _levels(sweeps: tuple[Sweep, ...]) -> list[str]:
    found = sorted({(row.ci_level, row.launches) for sweep in sweeps for row in sweep.rows if row.ci_level})
    return [f"interval of the median: {level:.0%} confidence, over {launches} launches" for level, launches in found]


def _load_notes(load: Load) -> list[str]:
    """The verdict in a sentence, then what was refused and why."""
    lines = [f"{load.name}: {_verdict(load)}"]
    refused: dict[str, list[str]] = {}
    for one in load.latency:
        if one.ns is None:
            refused.setdefault(one.reason, []).append(one.percentile)
    lines += [f"{load.name}: no {', '.join(names)}: {reason}" for reason, names in refused.items()]
    if load.late:
        what = f"{load.late:,} of {load.calls:,} requests were sent late by the generator or the machine under it"
        lines.append(f"{load.name}: {what} (99 % of all within {duration(load.pacing_ns)}); they count")
    return lines


def _verdict(load: Load) -> str:
    assumed = " (assumed: 10 × the median alone)" if load.slo_assumed else ""
    held = f" {load.slo}{assumed}" if load.slo else ""
    why = f"; {load.reason}" if load.reason else ""
    asked = next((one for one in load.latency if load.slo and load.slo.startswith(f"{one.percentile} ")), None)
    span = ""
    if asked and asked.ci_ns:
        sure = f" at {asked.ci_level:.0%} confidence" if asked.ci_level else ""
        span = f", {asked.percentile} interval [{span_of(*asked.ci_ns)}]{sure}"
    bound = f", at most {per_second(load.closed_loop_per_s)} one after another" if load.closed_loop_per_s else ""
    if load.searched and load.rate_per_s is not None:
        return f"capacity {per_second(load.rate_per_s)} requests per second with{held}{span}{bound}{why}"
    if load.searched:
        return f"no capacity found with{held}{bound}{why}"
    return f"{load.verdict}{held}{span}{bound}{why}"
