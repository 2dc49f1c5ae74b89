"""`deploykit verify`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from deploykit.cli import options


@click.command("verify")
@click.argument("bundle", type=Path)
@click.option("--variants", metavar="LIST", help="Comma-separated names. [default: all of the bundle]")
@click.option("--on", default="cpu", show_default=True, metavar="PROVIDER", help="cpu, cuda, or a full provider name.")
@click.option("--artifact", type=Path, metavar="FILE", help="Judge this file, made elsewhere, instead of the variants.")
@click.option("--precision", metavar="NAME", help="The budget that --artifact is held to. [default: fp32]")
@click.option(
    "--set", "limits", multiple=True, metavar="budget.KEY=VALUE", help="Change a limit; loosening is printed."
)
@click.option(
    "--inconclusive",
    type=click.Choice(["fail", "warn"]),
    default="fail",
    show_default=True,
    help="warn: exit 0 instead of 3.",
)
@click.option("--trust-code", is_flag=True, help="Run TorchScript and .pt2 files that were made elsewhere.")
@click.option("--junit", type=Path, metavar="FILE", help="Write JUnit XML.")
@click.option(
    "--summary",
    type=Path,
    metavar="FILE",
    envvar="GITHUB_STEP_SUMMARY",
    help="Append Markdown. [default: $GITHUB_STEP_SUMMARY]",
)
@options.common
def command(
    bundle: Path, junit: Path | None, summary: Path | None, json_to: str | None, quiet: bool, **given: Any
) -> int:
    """The parity gate: hold every variant of BUNDLE to what eager PyTorch answered."""
    from deploykit.bundle import Bundle
    from deploykit.pipeline.run import store_verify
    from deploykit.pipeline.verify import verify
    from deploykit.report import junit as junit_form
    from deploykit.report import markdown, text

    request = options.verify_request(bundle, given)
    report = verify(request, options.progress_for(quiet=quiet))
    if request.is_whole and os.access(bundle, os.W_OK):
        store_verify(Bundle(bundle), report)
    if junit is not None:
        options.write(junit, junit_form.render_verify(report))
    if summary is not None:
        options.append(summary, markdown.render_verify(report))
    options.emit(report, text.render_verify(report), json_to)
    return 0 if report.exit_code == 3 and given["inconclusive"] == "warn" else report.exit_code
