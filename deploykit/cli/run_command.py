"""`deploykit run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli import choosing_options, options, recipe_options


@click.command("run")
@options.source_options
@options.training_options
@options.measuring_options
@choosing_options.choosing
@recipe_options.making
@recipe_options.from_recipe("run")
@options.common
def command(source: str, output: Path | None, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Train or load SOURCE, export, verify, measure and recommend; with --recipe also compare and hand over.

    SOURCE is mlp (default), torchvision:NAME, timm:NAME, transformers:DIR, FILE.json or TYPE, python:MODULE:CALLABLE,
    python:FILE.py:CALLABLE, onnx:FILE, exported:FILE.pt2 or torchscript:FILE.pt (docs/sources.md).
    """
    from deploykit.cli import recipe_replay
    from deploykit.pipeline.planning import plan_run
    from deploykit.pipeline.run import run
    from deploykit.report import plan as plan_form
    from deploykit.report.run import render

    request = options.export_request(source, output, given)
    measuring = choosing_options.wishing(options.bench_request(request.target, given), given)
    measuring, further = recipe_replay.replayed(measuring, given)
    if given["plan"]:
        plan = plan_run(request, measuring, further)
        options.emit(plan, plan_form.render(plan), json_to)
        return plan.exit_code
    report = run(request, measuring, options.progress_for(quiet=quiet), further)
    options.emit(report, render(report), json_to)
    recipe_replay.publish(report, given)
    return report.exit_code
