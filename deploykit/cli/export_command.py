"""`deploykit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli import options, recipe_options


@click.command("export")
@options.source_options
@options.training_options
@recipe_options.making
@recipe_options.from_recipe("export")
@options.common
def command(source: str, output: Path | None, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Write the variants of SOURCE, the reference that eager PyTorch answered, and the manifest."""
    from deploykit.pipeline.export import export
    from deploykit.report.inspect import render_manifest

    request = options.export_request(source, output, given)
    if given["plan"]:
        from deploykit.pipeline.planning import plan_export
        from deploykit.report import plan as plan_form

        plan = plan_export(request)
        options.emit(plan, plan_form.render(plan), json_to)
        return plan.exit_code
    outcome = export(request, options.progress_for(quiet=quiet))
    manifest = outcome.bundle.manifest
    options.emit(manifest.model_dump(mode="json", by_alias=True), render_manifest(outcome.bundle), json_to)
    return outcome.exit_code
