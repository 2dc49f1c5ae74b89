"""`deploykit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli import options, recipe_options, remote_options, verify_options


@click.command("verify")
@click.argument("bundle", type=Path)
@click.option("--variants", metavar="LIST", help="Comma-separated names. [default: all of the bundle]")
@click.option("--on", default="cpu", show_default=True, metavar="PROVIDER", help="cpu, cuda, or a full provider name.")
@click.option("--artifact", type=Path, metavar="FILE", help="Judge this file, made elsewhere, instead of the variants.")
@click.option("--precision", metavar="NAME", help="The budget that --artifact is held to. [default: fp32]")
@verify_options.judging
@remote_options.asking
@recipe_options.from_recipe("verify")
@options.common
def command(
    bundle: Path, junit: Path | None, summary: Path | None, json_to: str | None, quiet: bool, **given: Any
) -> int:
    """The parity gate: hold every variant of BUNDLE to what eager PyTorch answered."""
    from deploykit.errors import DeploykitError
    from deploykit.report import text

    gate = verify_options.gate_for(bundle, given)
    try:
        report = gate(options.progress_for(quiet=quiet))
    except DeploykitError as error:
        verify_options.publish(verify_options.stopped(bundle, error), junit, summary, given)
        raise
    verify_options.publish(report, junit, summary, given)
    options.emit(report, text.render_verify(report), json_to)
    return 0 if report.exit_code == 3 and given["inconclusive"] == "warn" else report.exit_code
