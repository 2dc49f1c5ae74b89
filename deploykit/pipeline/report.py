"""`deploykit report`: the stored results of a bundle in another form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deploykit.bundle import REPORTS, Bundle
from deploykit.errors import RefusedError, UsageError
from deploykit.measurements import BenchReport
from deploykit.report import html, markdown, text
from deploykit.results import VerifyReport, from_data

TABLES = ("bench.json", "bench-quick.json", "bench-part.json")
"""Tables, the one that is shown first: the others are later, and were less than a full one of the whole bundle."""

MORE = (
    "gate.json", "bench-offline.json", "bench-server.json", "bench-url.json", "bench-url-server.json", "tune.json",
)  # fmt: skip
"""Reports of the other ways of measuring."""

FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What rendering raises over entries that no report of ours has: `protocol` and `environment` may hold any type."""


def render(path: Path, form: str) -> str:
    """The report as `text`, `markdown` or `html`.

    Raises:
        UsageError: NO_REPORT, nothing was measured yet.
        RefusedError: MALFORMED, a stored report is damaged.
    """
    bundle = Bundle(path)
    name = bundle.manifest.name
    verified: VerifyReport | None = _stored(bundle, "verify.json", VerifyReport, lambda one: _one(name, form, one))
    tables, more = (
        [found for file in files if (found := _stored(bundle, file, BenchReport, lambda one: _one(name, form, one)))]
        for files in (TABLES, MORE)
    )
    measured = _first([file for file in TABLES if (bundle.path / REPORTS / file).is_file()], tables)
    if verified is None and measured is None and not more:
        hint = "run deploykit verify or deploykit bench first"
        raise UsageError(str(path), "nothing was measured yet", hint, "NO_REPORT")
    if form == "html":
        return html.render(name, verified, measured, more)
    known = [one for one in (verified, measured, *more) if one is not None]
    return "\n\n".join(_one(name, form, one) for one in known)


def _first(names: list[str], tables: list[BenchReport]) -> BenchReport | None:
    """The table that is shown, which names those that are not."""
    if not tables:
        return None
    shown = tables[0]
    return replace(shown, protocol={**shown.protocol, "shown": names[0], "later": names[1:]})


def _one(name: str, form: str, report: VerifyReport | BenchReport) -> str:
    """One report for itself."""
    if form == "html":
        return html.render(name, None, report) if isinstance(report, BenchReport) else html.render(name, report, None)
    if form == "markdown":
        return markdown.render_bench(report) if isinstance(report, BenchReport) else markdown.render_verify(report)
    return text.render_bench(report) if isinstance(report, BenchReport) else text.render_verify(report)


def _stored(bundle: Bundle, name: str, kind: type, shown: Callable[[Any], str]) -> Any:
    """What `reports/name` holds; None where there is none. One that cannot be shown is found out here, by name."""
    path = bundle.path / REPORTS / name
    if not path.is_file():
        return None
    try:
        found = from_data(kind, json.loads(path.read_bytes()))
        shown(found)
    except (ValidationError, RecursionError, *FAULTS) as error:
        raise RefusedError(str(path), "not a report that deploykit wrote", "measure again") from error
    return found
