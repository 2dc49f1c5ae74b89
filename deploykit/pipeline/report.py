"""`deploykit report`: the stored results of a bundle in another form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deploykit.bundle import REPORTS, Bundle
from deploykit.errors import RefusedError, UsageError
from deploykit.measurements import BenchReport
from deploykit.report import html, markdown, text
from deploykit.results import VerifyReport, from_data

MORE = ("gate.json", "bench-offline.json", "bench-server.json", "tune.json")
"""Reports of the other ways of measuring."""


def render(path: Path, form: str) -> str:
    """The report as `text`, `markdown` or `html`.

    Raises:
        UsageError: NO_REPORT, nothing was measured yet.
        RefusedError: a stored report is damaged.
    """
    bundle = Bundle(path)
    verified: VerifyReport | None = _stored(bundle, "verify.json", VerifyReport)
    measured: BenchReport | None = _stored(bundle, "bench.json", BenchReport)
    more = [found for name in MORE if (found := _stored(bundle, name, BenchReport)) is not None]
    if verified is None and measured is None and not more:
        hint = "run deploykit verify or deploykit bench first"
        raise UsageError(str(path), "nothing was measured yet", hint, "NO_REPORT")
    if form == "html":
        return html.render(bundle.manifest.name, verified, measured, more)
    kind = markdown if form == "markdown" else text
    parts = [kind.render_verify(verified)] if verified else []
    parts += [kind.render_bench(report) for report in ([measured] if measured else []) + more]
    return "\n\n".join(parts)


def _stored(bundle: Bundle, name: str, kind: type) -> Any:
    path = bundle.path / REPORTS / name
    if not path.is_file():
        return None
    try:
        return from_data(kind, json.loads(path.read_bytes()))
    except (ValueError, ValidationError) as error:
        raise RefusedError(str(path), "not a report that deploykit wrote", "measure again") from error
