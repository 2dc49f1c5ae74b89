"""Options of the speed gate, and how it reaches a continuous integration."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli.options import F, writable
from deploykit.errors import UsageError
from deploykit.units import nanoseconds
from deploykit.writing import write_text

if TYPE_CHECKING:
    from deploykit.measurements import BenchReport
    from deploykit.pipeline.measuring import BenchRequest


def gating(function: F) -> F:
    """What the gate compares with, and by which rules."""
    for decorate in (
        click.option(
            "--junit", type=Path, metavar="FILE", callback=writable, help="Write the gate's answers as JUnit XML."
        ),
        click.option(
            "--margin",
            metavar="FAIL,PASS",
            help="A slow-down beyond FAIL fails, one below PASS passes; a third value is the smallest change of a "
            "time that may fail. [default: 2%,5%,5us]",
        ),
        click.option("--metrics", metavar="LIST", help="Of median, p90, throughput, memory, load. [default: median]"),
        click.option(
            "--session",
            metavar="SETTINGS",
            default="",
            help="How sessions are opened, for example threads=1,spinning=off; default leaves aside what was tuned.",
        ),
        click.option(
            "--against",
            metavar="REF",
            help="Speed gate against another bundle, or another variant of BUNDLE; either with @SETTINGS, or @SETTINGS "
            "alone. A stored bench.json is only shown.",
        ),
    ):
        function = decorate(function)
    return function


def gated(request: BenchRequest, given: dict[str, Any]) -> BenchRequest:
    """`request` with the options of the gate.

    Raises:
        UsageError: one of them is wrong, or stands there without --against.
    """
    from deploykit.benchmark.gate import Rules
    from deploykit.benchmark.metrics import names

    request = replace(request, session=given["session"])
    if given["against"] is None:
        lonely = [name for name in ("metrics", "margin", "junit") if given[name] is not None]
        if lonely:
            raise UsageError(f"--{lonely[0]}", "only the speed gate needs it", "give --against REF, or leave it out")
        return request
    if not given["against"].strip():
        raise UsageError("--against", "nothing to compare with", "a bundle, a variant, or @threads=1")
    rules = Rules(names(given["metrics"])) if given["metrics"] is not None else Rules()
    if given["margin"] is not None:
        worse, fine, floor = margins(given["margin"], rules.floor_ns)
        rules = replace(rules, worse=worse, fine=fine, floor_ns=floor)
    return replace(request, against=given["against"], rules=rules)


def margins(text: str, floor_ns: float) -> tuple[float, float, float]:
    """`2%,5%` or `2%,5%,5us` as fractions and nanoseconds.

    Raises:
        UsageError: BAD_MARGIN.
    """
    parts = [part.strip() for part in text.split(",")]
    worse, fine = (_percent(part) for part in parts[:2]) if len(parts) in {2, 3} else (math.nan, math.nan)
    floor = _duration(parts[2]) if len(parts) == 3 else floor_ns
    if not (0 <= worse < fine <= 1 and floor >= 0):
        hint = "two percentages, the first one smaller, for example 2%,5%; then perhaps a time, 5us"
        raise UsageError(f"--margin {text}", "no margins", hint, "BAD_MARGIN")
    return worse, fine, floor


def _percent(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", text, re.ASCII)
    return float(found[1]) / 100 if found else math.nan


def _duration(text: str) -> float:
    try:
        return nanoseconds(text, zero=True)
    except ValueError:
        return math.nan


def publish(report: BenchReport, given: dict[str, Any]) -> None:
    """Write what continuous integrations read.

    Raises:
        StorageError: the file cannot be written.
    """
    if given["junit"] is not None:
        from deploykit.report import speed_gate

        write_text(given["junit"], speed_gate.junit(report))
