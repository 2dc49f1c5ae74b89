"""`deploykit report`."""

from __future__ import annotations

from pathlib import Path

import click

from deploykit.writing import write_text


@click.command("report")
@click.argument("bundle", type=Path)
@click.option("--format", "form", type=click.Choice(["text", "markdown", "html"]), default="text", show_default=True)
@click.option("--output", "-o", type=Path, metavar="FILE", help="Write here instead of stdout.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def command(bundle: Path, form: str, output: Path | None, debug: bool) -> int:  # noqa: ARG001
    """Render the last measurements of BUNDLE again."""
    from deploykit.pipeline.report import render

    rendered = render(bundle, form)
    if output is None:
        click.echo(rendered, nl=not rendered.endswith("\n"))
    else:
        write_text(output, rendered)
    return 0
