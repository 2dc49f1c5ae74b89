"""`deploykit sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli import options


@click.command("sweep")
@click.argument("matrix", type=Path)
@click.option("--output", "-o", type=Path, metavar="DIR", help="Takes all results. [default: artifacts/MATRIX]")
@click.option("--engine", default="local", show_default=True, metavar="NAME", help="local, or ray: a Ray cluster.")
@click.option(
    "--address", default="", metavar="HOST:PORT", help="Of the cluster. [default: RAY_ADDRESS, or this machine's]"
)
@click.option("--jobs", "-j", type=click.IntRange(1, 10_000), help="Cells at once. [default: what fits]")
@click.option("--bench/--no-bench", default=True, show_default=True, help="Measure latency, too.")
@click.option("--bundles/--no-bundles", default=True, show_default=True, help="Keep the artifacts, too.")
@click.option("--fresh", is_flag=True, help="Throw away what earlier runs found out, and start over.")
@click.option(
    "--retry", type=click.Choice(["none", "failed"]), default="none", show_default=True, help="What to run again."
)
@options.common
def command(matrix: Path, output: Path | None, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Export, verify and measure every model of MATRIX at every setting; one table. Run again, it goes on.

    Everything is exported and verified first, side by side; then each cell is measured with a machine to itself.
    """
    from deploykit.pipeline.sweep import SweepRequest, sweep
    from deploykit.report.sweep import render

    given |= {"jobs": given["jobs"] or 0, "retry": given["retry"] or "none"}
    request = SweepRequest(matrix, output or Path("artifacts") / (matrix.stem or "sweep"), **given)
    report = sweep(request, options.progress_for(quiet=quiet))
    options.emit(report, render(report), json_to)
    return report.exit_code
