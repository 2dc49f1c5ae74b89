"""What is shown of profiles and of devices, as strings."""

from __future__ import annotations

from deploykit.errors import escape
from deploykit.measurements import BenchReport, BenchRow
from deploykit.profile_results import Profile
from deploykit.units import duration, size

HEAD = ("variant", "operator", "type", "on", "calls", "a call takes", "share")
"""Of the table of operators; `a call` is one of the model."""

SHOWN = 5
"""Operators per variant in a table; the JSON report holds more, the trace all."""

NAME, TYPE = 40, 22
"""Longest name and type of an operator in a table: longer ones keep their beginning and their end."""

_SUFFIX = "ExecutionProvider"


def profile_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """The top operators of every profile, in the order of `HEAD`; a variant is named in its first row."""
    rows: list[tuple[str, ...]] = []
    for profile in report.profiles:
        for index, one in enumerate(profile.operators[:SHOWN]):
            rows.append(
                (
                    "" if index else escape(profile.name),
                    escape(_short(one.name, NAME)),
                    escape(_short(one.op_type, TYPE)),
                    one.provider.removesuffix(_SUFFIX),
                    f"{one.calls / profile.calls:.3g}×",
                    duration(one.median_us * 1e3),
                    f"{one.share:.0%}",
                )
            )
    return rows


def _short(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 1]}…{text[-end:]}"


def head() -> str:
    """The line above the table."""
    return (
        "where the time goes, medians over calls by the engines' own profilers "
        "(they cost time: compare nothing with the table above)"
    )


def notes(report: BenchReport) -> list[str]:
    """A line per profile: what it covers, where its trace lies, or why there is none."""
    return [_note(profile) for profile in report.profiles]


def _note(profile: Profile) -> str:
    if profile.reason or profile.call_us is None or profile.covered is None:
        return escape(f"{profile.name}: no profile: {profile.reason}")
    a_call = duration(profile.call_us * 1e3)
    covered = f"{profile.operator_count} operators are {profile.covered:.0%} of {a_call} a call with the profiler on"
    trace = f"; {profile.trace} opens in ui.perfetto.dev" if profile.trace else ""
    return escape(f"{profile.name}: {covered}, medians of {profile.calls} calls{trace}")


def compile_lines(report: BenchReport) -> list[str]:
    """Why eager under torch.compile is not in the table, where it was asked for."""
    note = str(report.protocol.get("torch-compile", ""))
    return [escape(f"torch-compile {note}")] if note.startswith("not measured") else []


def device_lines(report: BenchReport) -> list[str]:
    """A line per row that ran on a device: its phases, memory, and which provider ran how many nodes."""
    return [escape(line) for line in map(_device_line, report.variants) if line]


def _device_line(row: BenchRow) -> str:
    said = []
    if row.compute_ns is not None:
        phases = (f"{duration(ns)} {what}" for what, ns in (("in", row.h2d_ns), ("out", row.d2h_ns)))
        said.append(f"device only {duration(row.compute_ns)} ({', '.join(phases)})")
    if row.events_ns is not None or row.events_ns_reason:
        said.append(f"by events {duration(row.events_ns) if row.events_ns else f'not told: {row.events_ns_reason}'}")
    if row.gpu_memory_bytes is not None or row.gpu_memory_reason:
        held = size(row.gpu_memory_bytes) if row.gpu_memory_bytes is not None else f"not told: {row.gpu_memory_reason}"
        said.append(f"device memory {held}")
    if row.nodes:
        said.append(f"nodes on {nodes(row.nodes)}")
    return f"{row.name}, batch {row.batch}: {'; '.join(said)}" if said else ""


def nodes(counted: dict[str, int]) -> str:
    """`CUDA 41, CPU 2, Memcpy 3`."""
    return ", ".join(f"{name.removesuffix(_SUFFIX)} {count}" for name, count in counted.items())
