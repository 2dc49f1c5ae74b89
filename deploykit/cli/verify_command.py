"""`deploykit verify`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from deploykit.cli import options, verify_options


@click.command("verify")
@click.argument("bundle", type=Path)
@click.option("--variants", metavar="LIST", help="Comma-separated names. [default: all of the bundle]")
@click.option("--on", default="cpu", show_default=True, metavar="PROVIDER", help="cpu, cuda, or a full provider name.")
@click.option("--artifact", type=Path, metavar="FILE", help="Judge this file, made elsewhere, instead of the variants.")
@click.option("--precision", metavar="NAME", help="The budget that --artifact is held to. [default: fp32]")
@verify_options.judging
@options.common
def command(
    bundle: Path, junit: Path | None, summary: Path | None, json_to: str | None, quiet: bool, **given: Any
) -> int:
    """The parity gate: hold every variant of BUNDLE to what eager PyTorch answered."""
    from deploykit.bundle import Bundle
    from deploykit.pipeline.run import store_verify
    from deploykit.pipeline.verify import verify
    from deploykit.report import github, markdown, text
    from deploykit.report import junit as junit_form

    request = options.verify_request(bundle, given)
    compare = verify_options.baseline_for(request, given)
    report = verify(request, options.progress_for(quiet=quiet))
    if request.is_whole and os.access(bundle, os.W_OK):
        store_verify(Bundle(bundle), report)
    report = compare(report)
    if junit is not None:
        options.write(junit, junit_form.render_verify(report))
    if summary is not None:
        verify_options.append_summary(summary, markdown.render_verify(report))
    if verify_options.wants_annotations(given):
        click.echo(github.render_verify(report), nl=False, err=True)
    options.emit(report, text.render_verify(report), json_to)
    return 0 if report.exit_code == 3 and given["inconclusive"] == "warn" else report.exit_code
