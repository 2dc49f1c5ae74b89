"""One self-contained HTML page: no script, nothing fetched, everything from files escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as as_html

from deploykit.errors import escape
from deploykit.measurements import BenchReport
from deploykit.report import chart, details, parts, proof, rows
from deploykit.results import VerifyReport

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{border-bottom:1px solid #d0d7de;padding:.35rem .7rem;text-align:left;vertical-align:top}
th{background:#f6f8fa}td{font-variant-numeric:tabular-nums}
.pass{color:#116329}.fail,.error,.refused{color:#a40e26}.inconclusive{color:#7d4e00}.skipped{color:#57606a}
li{margin:.2rem 0}figure{margin:1rem 0}figcaption{color:#57606a;font-size:13px}footer{color:#57606a;font-size:13px}
@media(prefers-color-scheme:dark){figcaption,footer{color:#9198a1}body{background:#0d1117;color:#e6edf3}th{background:#161b22}th,td{border-color:#30363d}
.pass{color:#56d364}.fail,.error,.refused{color:#ff7b72}.inconclusive{color:#e3b341}}
"""


def render(name: str, verify: VerifyReport | None, bench: BenchReport | None, more: Sequence[BenchReport] = ()) -> str:
    """The page for whatever was measured.

    Args:
        name: of the bundle.
        verify: the parity gate's answer.
        bench: the table of latencies with its recommendation.
        more: other ways of measuring: a speed gate, a sweep, a load, settings.
    """
    measured = [*([bench] if bench else []), *more]
    bodies = ([_verify(verify)] if verify else []) + [_bench(report) for report in measured]
    known: list[VerifyReport | BenchReport] = [*measured, *([verify] if verify else [])]
    environment = known[0].environment if known else {}
    versions = ", ".join(f"{key} {value}" for key, value in (environment.get("packages") or {}).items() if value)
    title = quoted(f"deploykit: {name}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}{chart.STYLE}</style></head>\n<body><h1>{title}</h1>\n{''.join(bodies)}"
        f"<footer>{quoted(versions)}</footer></body></html>\n"
    )


def _verify(report: VerifyReport) -> str:
    notes = [line for variant in report.variants for line in rows.findings(variant)] + rows.task_lines(report)
    notes += proof.proof_lines(report)
    head = f'<h2>Parity with {quoted(report.reference)}: <span class="{report.verdict}">{report.verdict}</span></h2>\n'
    return head + _table(rows.VERIFY_HEAD, rows.verify_rows(report)) + _list(notes)


def _bench(report: BenchReport) -> str:
    page = _part(parts.main(report), "h2")
    if report.variants:
        page += _folded("how it was measured", _table(*details.table(report)))
    page += "".join(_part(part, "h3") for part in parts.further(report))
    return page + _recommendation(report)


def _recommendation(report: BenchReport) -> str:
    if (choice := report.recommendation) is None:
        return ""
    page = f"<h2>Recommended: {quoted(choice.variant or 'nothing')}</h2>\n<p>{quoted(choice.reason)}</p>\n"
    page += f"<p>{quoted(rows.asked(choice))}</p>\n" if rows.asked(choice) else ""
    page += _list([f"{item.variant}: {item.reason}" for item in choice.ranking], "ol")
    page += _list([f"{item.variant}: {item.reason}" for item in choice.rejected])
    return page + _list(rows.front_lines(choice)) + chart.trade_off(report)


def _part(part: parts.Part, level: str) -> str:
    heading = quoted(part.title[:1].upper() + part.title[1:])
    table = _table(part.head, list(part.body)) if part.head else ""
    return f"<{level}>{heading}</{level}>\n{table}{_list(list(part.lines))}"


def quoted(text: str) -> str:
    """`text` as HTML text, unprintable characters escaped."""
    return as_html(escape(text))


def _table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    titles = "".join(f"<th>{quoted(title)}</th>" for title in head)
    lines = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>\n" for row in body)
    return f"<table><thead><tr>{titles}</tr></thead>\n<tbody>{lines}</tbody></table>\n"


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{title}</summary>\n{inside}</details>\n"


def _cell(text: str) -> str:
    marked = text if text in {"pass", "fail", "error", "refused", "inconclusive", "skipped"} else ""
    return f'<td class="{marked}">{quoted(text)}</td>' if marked else f"<td>{quoted(text)}</td>"


def _list(lines: list[str], kind: str = "ul") -> str:
    return f"<{kind}>{''.join(f'<li>{quoted(line)}</li>' for line in lines)}</{kind}>\n" if lines else ""
