"""One self-contained HTML page: no script, nothing fetched, everything from files escaped."""

from __future__ import annotations

from html import escape as as_html

from deploykit.errors import escape
from deploykit.measurements import BenchReport
from deploykit.report import proof, rows
from deploykit.results import VerifyReport

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{border-bottom:1px solid #d0d7de;padding:.35rem .7rem;text-align:left;vertical-align:top}
th{background:#f6f8fa}td{font-variant-numeric:tabular-nums}
.pass{color:#116329}.fail,.error,.refused{color:#a40e26}.inconclusive{color:#7d4e00}.skipped{color:#57606a}
li{margin:.2rem 0}footer{color:#57606a;font-size:13px}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}th{background:#161b22}th,td{border-color:#30363d}
.pass{color:#56d364}.fail,.error,.refused{color:#ff7b72}.inconclusive{color:#e3b341}}
"""


def render(name: str, verify: VerifyReport | None, bench: BenchReport | None) -> str:
    """The page for whatever of the two was measured."""
    parts = [_verify(verify)] if verify else []
    parts += [_bench(bench)] if bench else []
    environment = (bench or verify).environment if bench or verify else {}  # type: ignore[union-attr]
    versions = ", ".join(f"{key} {value}" for key, value in (environment.get("packages") or {}).items() if value)
    title = quoted(f"deploykit: {name}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n{''.join(parts)}"
        f"<footer>{quoted(versions)}</footer></body></html>\n"
    )


def _verify(report: VerifyReport) -> str:
    notes = [line for variant in report.variants for line in rows.findings(variant)] + rows.task_lines(report)
    notes += proof.proof_lines(report)
    head = f'<h2>Parity with eager PyTorch: <span class="{report.verdict}">{report.verdict}</span></h2>\n'
    return head + _table(rows.VERIFY_HEAD, rows.verify_rows(report)) + _list(notes)


def _bench(report: BenchReport) -> str:
    quick = " (quick: indicative, no gate)" if report.protocol.get("quick") else ""
    page = f"<h2>Latency, host to host{quick}</h2>\n" + _table(rows.BENCH_HEAD, rows.bench_rows(report))
    page += _list(rows.bench_notes(report))
    if (choice := report.recommendation) is None:
        return page
    page += f"<h2>Recommended: {quoted(choice.variant or 'nothing')}</h2>\n<p>{quoted(choice.reason)}</p>\n"
    return page + _list([f"{item.variant}: {item.reason}" for item in (*choice.ranking, *choice.rejected)])


def quoted(text: str) -> str:
    """`text` as HTML text, unprintable characters escaped."""
    return as_html(escape(text))


def _table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    titles = "".join(f"<th>{quoted(title)}</th>" for title in head)
    lines = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>\n" for row in body)
    return f"<table><thead><tr>{titles}</tr></thead>\n<tbody>{lines}</tbody></table>\n"


def _cell(text: str) -> str:
    marked = text if text in {"pass", "fail", "error", "refused", "inconclusive", "skipped"} else ""
    return f'<td class="{marked}">{quoted(text)}</td>' if marked else f"<td>{quoted(text)}</td>"


def _list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{quoted(line)}</li>' for line in lines)}</ul>\n" if lines else ""
