"""`deploykit run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli import choosing_options, options


@click.command("run")
@options.source_options
@options.training_options
@options.measuring_options
@choosing_options.choosing
@options.common
def command(source: str, output: Path | None, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Train or load SOURCE, export, verify, measure and recommend.

    SOURCE is mlp (default), torchvision:NAME, python:MODULE:CALLABLE or python:FILE.py:CALLABLE.
    """
    from deploykit.pipeline.run import run
    from deploykit.report.run import render

    request = options.export_request(source, output, given)
    measuring = choosing_options.wishing(options.bench_request(request.target, given), given)
    report = run(request, measuring, options.progress_for(quiet=quiet))
    options.emit(report, render(report), json_to)
    return report.exit_code
