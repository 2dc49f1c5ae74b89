"""`deploykit bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli import options


@click.command("bench")
@click.argument("bundle", type=Path)
@click.option("--variants", metavar="LIST", help="Comma-separated names. [default: all of the bundle]")
@click.option("--source", metavar="SOURCE", help="Builds eager where the bundle does not say it (python:...).")
@click.option("--seed", type=options.SEED, default=0, show_default=True, help="Of the order of measurement.")
@click.option("--trust-code", is_flag=True, help="Run TorchScript and .pt2 files that were made elsewhere.")
@options.measuring_options
@options.common
def command(bundle: Path, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Measure what passes verify in fresh, interleaved worker processes, next to eager, and recommend a variant."""
    from deploykit.pipeline.bench import bench
    from deploykit.report import text

    report = bench(options.bench_request(bundle, given), options.progress_for(quiet=quiet))
    options.emit(report, text.render_bench(report), json_to)
    return report.exit_code
