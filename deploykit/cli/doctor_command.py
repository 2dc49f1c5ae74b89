"""`deploykit doctor`."""

from __future__ import annotations

import click

from deploykit.cli import options


@click.command("doctor")
@options.common
def command(json_to: str | None, quiet: bool, debug: bool) -> int:  # noqa: ARG001
    """Versions, execution providers, and which variants can be made and run here, and why not the rest."""
    from deploykit.pipeline.doctor import examine, render

    findings = examine()
    options.emit(findings, render(findings), json_to)
    return 0
