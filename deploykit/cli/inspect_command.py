"""`deploykit inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from deploykit.cli import options


@click.command("inspect")
@click.argument("path", metavar="FILE_OR_BUNDLE", type=Path)
@options.common
def command(path: Path, json_to: str | None, quiet: bool, debug: bool) -> int:  # noqa: ARG001
    """What is in a file or bundle: signature, opset, precision, sizes, digests, provenance. Nothing is run."""
    from deploykit.pipeline.inspect import inspect

    data, rendered = inspect(path)
    options.emit(data, rendered, json_to)
    return 0
