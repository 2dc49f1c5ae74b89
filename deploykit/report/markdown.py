"""Markdown for a job summary or a pull request."""

from __future__ import annotations

from deploykit.errors import escape
from deploykit.measurements import BenchReport, Recommendation
from deploykit.report import baseline, details, parts, proof, rows
from deploykit.results import VerifyReport

_MARK = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "error": "💥", "refused": "⛔", "skipped": "➖"}


def render_verify(report: VerifyReport) -> str:
    """A heading with the verdict, the table, then the findings as a list."""
    lines = [f"### {_MARK[report.verdict]} Parity of {in_cell(report.bundle)}: {report.verdict}", ""]
    lines += grid(rows.VERIFY_HEAD, rows.verify_rows(report))
    notes = [line for variant in report.variants for line in rows.findings(variant)] + rows.task_lines(report)
    notes += [*proof.proof_lines(report), *baseline.lines(report)]
    return "\n".join([*lines, *([""] if notes else []), *(f"- {in_cell(note)}" for note in notes)]) + "\n"


def fitted(page: str, room: int) -> str:
    """As many whole lines of `page` as fit into `room` bytes, and a sentence that says what was left out.

    GitHub does not cut a job summary that is too long: it drops all of it. Empty when not even the sentence fits.

    Args:
        page: Markdown, as the functions here write it.
        room: bytes of UTF-8 that may still be written.
    """
    if len(page.encode()) <= room:
        return page
    lines = page.splitlines(keepends=True)
    kept, used = 0, len(_left_out(lines).encode())  # the longest that the sentence gets
    while kept < len(lines) and used + len(lines[kept].encode()) <= room:
        used += len(lines[kept].encode())
        kept += 1
    told = _left_out(lines[kept:])
    return "".join(lines[:kept]) + told if used <= room else ""


def _left_out(lines: list[str]) -> str:
    rows_left, notes_left = (sum(line.startswith(start) for line in lines) for start in ("| ", "- "))
    what = f"{rows_left} rows and {notes_left} findings"
    return f"\nLeft out, since a job summary may not be longer: {what}. The JSON and JUnit reports have all.\n"


def render_bench(report: BenchReport) -> str:
    """What was measured, its notes, and the recommendation."""
    lines = _part(parts.main(report), "###")
    for part in parts.further(report):
        lines += ["", *_part(part, "####")]
    if report.recommendation is not None:
        lines += ["", *_recommendation(report.recommendation)]
    if report.variants:
        lines += ["", "How it was measured:", "", *grid(*details.table(report))]
    return "\n".join(lines) + "\n"


def _part(part: parts.Part, level: str) -> list[str]:
    table = grid(part.head, list(part.body)) if part.head else []
    notes = [f"- {in_cell(line)}" for line in part.lines]
    return [f"{level} {in_cell(part.title[:1].upper() + part.title[1:])}", "", *table, *[""] * bool(table), *notes]


def _recommendation(choice: Recommendation) -> list[str]:
    lines = [f"**Recommended: {in_cell(choice.variant or 'nothing')}** {in_cell(choice.reason)}", ""]
    lines += [in_cell(rows.asked(choice)), ""] if rows.asked(choice) else []
    lines += [f"{index}. {in_cell(f'{item.variant}: {item.reason}')}" for index, item in enumerate(choice.ranking, 1)]
    lines += [f"- {in_cell(f'{item.variant}: {item.reason}')}" for item in choice.rejected]
    return lines + [f"- {in_cell(line)}" for line in rows.front_lines(choice)]


def grid(head: tuple[str, ...], body: list[tuple[str, ...]]) -> list[str]:
    """The lines of a table."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return lines + [f"| {' | '.join(in_cell(cell) for cell in row)} |" for row in body]


def in_cell(text: str) -> str:
    """Text that can neither end its cell or line nor start markup or HTML."""
    escaped = escape(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "|`*_[]":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped
