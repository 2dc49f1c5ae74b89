"""Plain text for a terminal or a log."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table

from deploykit.errors import escape
from deploykit.measurements import BenchReport, Recommendation
from deploykit.report import baseline, conditions, parts, profiles, proof, rows, scenarios, served, speed_gate, tuned
from deploykit.results import VerifyReport

WIDTH = 150
"""Columns of the rendered table; a log has no terminal to ask."""


def render_verify(report: VerifyReport) -> str:
    """The parity table, then what needs a sentence."""
    lines = [escape(f"parity of {report.bundle} with {report.reference}: {report.verdict.upper()}")]
    lines.append(grid(rows.VERIFY_HEAD, rows.verify_rows(report), right=(3, 4, 5)))
    lines += [escape(line) for variant in report.variants for line in rows.findings(variant)]
    lines += [escape(line) for line in rows.task_lines(report)]
    lines += [*proof.proof_lines(report), *baseline.lines(report)]
    if report.weak_reference:
        lines.append("weak reference: eager has no float64 answer here, everything is compared with fp32")
    lines += map(escape, _ran(report))
    return "\n".join(lines)


def _ran(report: VerifyReport) -> list[str]:
    """Who answered: execution providers are read back from sessions; of a server only its URL is known."""
    ran = sorted({variant.provider for variant in report.variants if variant.provider})
    if any("://" in name for name in ran):
        return [f"asked {', '.join(ran)}"]
    return [f"ran on {', '.join(ran)} (read back from the sessions)"] if ran else []


def render_bench(report: BenchReport) -> str:
    """The measured table, its notes, and the recommendation."""
    if report.sweeps or report.loads:
        return _render_scenario(report)
    if report.tuned:
        return tuned.render(report)
    lines = [escape(parts.title(report))]
    lines.append(grid(rows.BENCH_HEAD, rows.bench_rows(report), right=tuple(range(1, 10))))
    lines += [escape(line) for line in (*rows.bench_notes(report), *conditions.lines(report))]
    lines += [escape(line) for line in speed_gate.sampling_lines(report)]
    lines += [*profiles.compile_lines(report), *profiles.device_lines(report)]
    lines += [escape(line) for line in served.lines(report)]
    if report.profiles:
        right = tuple(range(4, len(profiles.HEAD)))
        lines += ["", profiles.head(), grid(profiles.HEAD, profiles.profile_rows(report), right)]
        lines += profiles.notes(report)
    if report.gates:
        lines += ["", *(escape(line) for line in speed_gate.lines(report))]
    if report.recommendation is not None:
        lines += ["", render_recommendation(report.recommendation)]
    return "\n".join(lines)


def _render_scenario(report: BenchReport) -> str:
    """The table of a batch sweep or of a load, then what needs a sentence."""
    head, body = scenarios.table(report)
    table = grid(head, body, right=tuple(range(1, len(head) - 1)))
    said = [escape(line) for line in conditions.lines(report)]
    return "\n".join([escape(scenarios.head(report)), table, *scenarios.notes(report), *said])


def render_recommendation(choice: Recommendation) -> str:
    """The choice, then one line per other variant."""
    lines = [rows.asked(choice)] if rows.asked(choice) else []
    lines += [f"recommended: {choice.variant or 'nothing'}: {choice.reason}"]
    lines += [f"  {index}. {item.variant}: {item.reason}" for index, item in enumerate(choice.ranking, 1)]
    lines += [f"  -  {item.variant}: {item.reason}" for item in choice.rejected]
    lines += rows.front_lines(choice)
    return "\n".join(escape(line) for line in lines)


def grid(head: tuple[str, ...], body: list[tuple[str, ...]], right: tuple[int, ...]) -> str:
    """A table in `WIDTH` columns; `right` are the columns of numbers, only the last column may wrap."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for index, title in enumerate(head):
        last = index == len(head) - 1  # only the reason may wrap
        table.add_column(title, justify="right" if index in right else "left", overflow="fold", no_wrap=not last)
    for row in body:
        table.add_row(*(escape(cell) for cell in row))
    stream = io.StringIO()
    Console(file=stream, width=WIDTH, color_system=None, markup=False, highlight=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines() if line.strip())
