"""What was tuned, in plain lines: for `bench --tune`, for `inspect`, and under a table that was measured with it."""

from __future__ import annotations

from deploykit.errors import escape
from deploykit.measurements import BenchReport
from deploykit.tune_results import Tuned
from deploykit.tuned import USUAL, TunedRecord
from deploykit.units import duration, size

USED = {
    True: "verify and bench open with it from now on, --session default leaves it aside",
    False: "verify and bench go on with the settings for latency",
}
"""What becomes of settings for the usual goal, and for another one."""

OF = {"latency": "time", "throughput": "time per sample", "memory": "peak memory"}
"""What the ratio of a goal is one of."""


def render(report: BenchReport) -> str:
    """A line per variant, then what was out, then how the last comparisons went."""
    cores, cpu = report.environment["cores"]["usable"], report.environment["cpu"]
    lines = [f"settings of {report.bundle} for {report.protocol['goal']}, on {cpu or 'an unknown CPU'}, {cores} cores"]
    width = max((len(one.variant) for one in report.tuned), default=0)
    lines += [f"  {one.variant:{width}}  {line(one)}" for one in report.tuned]
    for one in report.tuned:
        lines += [
            f"  {one.variant:{width}}  out: {tried.settings}: {tried.verdict}"
            for tried in one.tried
            if ":" in tried.verdict
        ]
    lines += [f"  left out: {name}: {why}" for name, why in report.protocol.get("left_out", {}).items()]
    measured = [row for row in report.variants if row.median_ns is not None]
    if measured:
        lines.append("the last comparisons, in launches of their own:")
        wide = max(len(row.name) for row in measured)
        lines += [
            f"  {row.name:{wide}}  batch {row.batch}  median {duration(row.median_ns)}, "
            f"peak RSS {size(row.peak_rss_bytes)}, {row.launches} launches"
            for row in measured
        ]
    if any(one.chosen or (one.goal == "throughput" and one.batch > 1) for one in report.tuned):
        lines.append(f"written into the bundle; {USED[report.tuned[0].goal == USUAL]}")
    return "\n".join(escape(text) for text in lines)


def line(one: Tuned) -> str:
    """`threads=1,spinning=off: faster than the default, 0.81× its time [0.80, 0.82] (12 tried, 28 s)`."""
    what = one.chosen or f"default ({one.default})"
    batch = f" at batch {one.batch}" if one.batch > 1 else ""
    shown = "" if one.ratio is None else f", {_times(one.ratio, f'its {OF[one.goal]}', one.ci)}"
    slower = "" if one.time_ratio is None else f", {_times(one.time_ratio, 'its time', one.time_ci)}"
    return f"{what}{batch}: {one.said}{shown}{slower} ({len(one.tried)} tried, {one.seconds:.0f} s)"


def recorded(one: TunedRecord) -> str:
    """`for latency: threads=1, 0.81× the default's time [0.80, 0.82] at batch 1, CPU, 8 cores, onnxruntime 1.23.2`."""
    limits = None if one.low is None or one.high is None else (one.low, one.high)
    known = one.ratio is not None and one.settings
    shown = ", " + _times(one.ratio or 0.0, f"the default's {OF[one.goal]}", limits) if known else ""
    where = f"{one.provider.removesuffix('ExecutionProvider')} on {one.cpu or 'an unknown CPU'}, {one.cores} cores"
    engine = f", {one.engine}" if one.engine else ""
    return f"for {one.goal}: {one.settings or 'default'}{shown} at batch {one.batch}; {where}{engine}"


def notes(report: BenchReport) -> list[str]:
    """What of a table was measured with tuned settings."""
    return [f"{name} opens with {said}" for name, said in report.protocol.get("tuned", {}).items()]


def _times(ratio: float, what: str, limits: tuple[float, float] | None) -> str:
    """`0.81× its time [0.80, 0.82]`."""
    return f"{ratio:.2f}× {what}{f' [{limits[0]:.2f}, {limits[1]:.2f}]' if limits else ''}"
