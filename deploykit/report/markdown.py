"""Markdown for a job summary or a pull request."""

from __future__ import annotations

from deploykit.errors import escape
from deploykit.report import rows
from deploykit.results import BenchReport, VerifyReport

_MARK = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "error": "💥", "refused": "⛔", "skipped": "➖"}


def render_verify(report: VerifyReport) -> str:
    """A heading with the verdict, the table, then the findings as a list."""
    lines = [f"### {_MARK[report.verdict]} Parity of {_cell(report.bundle)}: {report.verdict}", ""]
    lines += _table(rows.VERIFY_HEAD, rows.verify_rows(report))
    notes = [line for variant in report.variants for line in rows.findings(variant)] + rows.task_lines(report)
    return "\n".join([*lines, *([""] if notes else []), *(f"- {_cell(note)}" for note in notes)]) + "\n"


def render_bench(report: BenchReport) -> str:
    """The table, its notes, and the recommendation."""
    lines = [f"### Latency of {_cell(report.bundle)}, host to host", ""]
    lines += _table(rows.BENCH_HEAD, rows.bench_rows(report))
    notes = rows.bench_notes(report)
    lines += [""] * bool(notes) + [f"- {_cell(note)}" for note in notes]
    if (choice := report.recommendation) is not None:
        lines += ["", f"**Recommended: {_cell(choice.variant or 'nothing')}** {_cell(choice.reason)}", ""]
        lines += [f"{index}. {_cell(f'{item.variant}: {item.reason}')}" for index, item in enumerate(choice.ranking, 1)]
        lines += [f"- {_cell(f'{item.variant}: {item.reason}')}" for item in choice.rejected]
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return lines + [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in body]


def _cell(text: str) -> str:
    """Text that can neither end its cell or line nor start markup or HTML."""
    escaped = escape(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "|`*_[]":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped
