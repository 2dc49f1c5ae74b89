"""A sweep's table as text, Markdown and CSV, and what has to be known to read it."""

from __future__ import annotations

import csv as writer
import io
from collections import Counter
from collections.abc import Sequence

from deploykit.errors import escape
from deploykit.report import markdown as page
from deploykit.report import text as terminal
from deploykit.results import to_data
from deploykit.sweep_results import CellRecord, Half, MatrixReport, TableRow
from deploykit.units import duration, size, span_of, times

HEAD = ("model", "setting", "variant", "batch", "verdict", "median [interval]", "vs base", "file", "peak RSS", "reason")
_RIGHT = (3, 5, 7, 8)

_SHARED = "measured while others may have worked on the same machine: indicative"


def render(report: MatrixReport) -> str:
    """The table for a terminal, its notes, and the counts."""
    lines = [escape(title(report))]
    lines.append(terminal.grid(HEAD, [_row(row) for row in report.rows], _RIGHT))
    lines += [escape(note) for note in report.notes]
    return "\n".join([*lines, "", escape(_counts(report))])


def markdown(report: MatrixReport) -> str:
    """The same for a pull request or a page."""
    head = title(report)
    lines = [f"### {head[0].upper()}{head[1:]}", "", *page.grid(HEAD, [_row(row) for row in report.rows])]
    notes = [f"- {page.in_cell(note)}" for note in (*report.notes, _counts(report))]
    return "\n".join([*lines, "", *notes]) + "\n"


def csv(report: MatrixReport) -> str:
    """Every field of every row, unrounded: nanoseconds, bytes, seconds; an interval in two columns."""
    stream = io.StringIO()
    table = writer.writer(stream, lineterminator="\n")
    fields = list(TableRow.__dataclass_fields__)
    spans = ("median_ci_ns", "ratio_ci")
    table.writerow([name for f in fields for name in ((f"{f}_low", f"{f}_high") if f in spans else (f,))])
    for row in report.rows:
        values = []
        for name, value in to_data(row).items():
            values += list(value or ("", "")) if name in spans else ["" if value is None else value]
        table.writerow(values)
    return stream.getvalue()


def title(report: MatrixReport) -> str:
    """What was swept over."""
    what = "parity and latency" if report.measured else "parity"
    return f"{what} of {len(report.cells)} cells of {report.matrix}"


def outcome(half: Half) -> str:
    """What became of a half, in a few words for the progress."""
    if not half.rows:
        return escape(f"{half.code or half.exit_code}: {half.reason}", 120)
    verdicts = Counter(row.verdict for row in half.rows if row.verdict not in {"", "base"})
    if verdicts:
        return ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    missing = sum(row.median_ns is None for row in half.rows)
    return f"{len(half.rows)} measured" if not missing else f"{missing} of {len(half.rows)} not measured"


def notes(cells: Sequence[CellRecord]) -> list[str]:
    """What has to be known to read the table; hints for cells that could not be carried out."""
    measured = [cell.measure for cell in cells if cell.measure is not None]
    levels = sorted({row.ci_level for half in measured for row in half.rows if row.ci_level})
    found = [f"interval of the median: {level:.0%} confidence" for level in levels]
    if measured and all(half.alone for half in measured):
        found.append("each cell was measured with its machine to itself, after all exports of the sweep had ended")
    if any(half.alone is False for half in measured):
        found.append(f"not every cell had its machine to itself: {_SHARED}")
    kinds = sorted({str(half.place.get("cpu")) for half in measured if half.rows})
    if len(kinds) > 1:
        found.append(f"medians were measured on different CPUs and do not compare across cells: {', '.join(kinds)}")
    halves = [(cell, half) for cell in cells for half in (cell.prove, cell.measure) if half is not None and half.hint]
    return found + [f"{cell.model} × {cell.setting}: {half.code}, what to do: {half.hint}" for cell, half in halves]


def _counts(report: MatrixReport) -> str:
    codes = Counter(cell.exit_code for cell in report.cells)
    words = {0: "all well", 1: "a gate said no", 3: "inconclusive"}
    ends = [f"{count} {words.get(code, f'ended with exit code {code}')}" for code, count in sorted(codes.items())]
    runs = f"{report.ran} run now, {report.reused} from earlier"
    return f"{len(report.cells)} cells: {', '.join(ends)}; {runs}; {report.seconds:.0f} s"


def _row(row: TableRow) -> tuple[str, ...]:
    span = f" [{span_of(*row.median_ci_ns)}]" if row.median_ci_ns else ""
    reason = "; ".join(part for part in (row.code, row.reason, row.bench_reason) if part) if _tells(row) else ""
    return (
        row.model,
        row.setting,
        row.variant or "-",
        "-" if row.batch is None else str(row.batch),
        row.verdict,
        duration(row.median_ns) + span,
        _against(row),
        size(row.file_bytes),
        size(row.peak_rss_bytes),
        escape(reason, 200),
    )


def _tells(row: TableRow) -> bool:
    """A pass needs no reason; the report of the bundle has it."""
    return row.verdict not in {"pass", "base"} or bool(row.bench_reason)


def _against(row: TableRow) -> str:
    if row.verdict == "base" and row.median_ns is not None and not row.base:
        return "base"
    if not row.ratio:
        return "-"
    span = row.ratio_ci
    if span is not None and span[0] <= 1 <= span[1]:
        return "the same"
    return f"{times(max(row.ratio, 1 / row.ratio))} {'faster' if row.ratio < 1 else 'slower'}"
