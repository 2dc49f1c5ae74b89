"""`deploykit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli import options


@click.command("export")
@options.source_options
@options.training_options
@options.common
def command(source: str, output: Path | None, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Write the variants of SOURCE, the reference that eager PyTorch answered, and the manifest."""
    from deploykit.pipeline.export import export
    from deploykit.report.inspect import render_manifest

    outcome = export(options.export_request(source, output, given), options.progress_for(quiet=quiet))
    manifest = outcome.bundle.manifest
    options.emit(manifest.model_dump(mode="json", by_alias=True), render_manifest(outcome.bundle), json_to)
    return outcome.exit_code
