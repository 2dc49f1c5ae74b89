"""`deploykit verify`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from deploykit.cli import options


@click.command("verify")
@click.argument("bundle", type=Path)
@click.option("--variants", metavar="LIST", help="Comma-separated names. [default: all of the bundle]")
@click.option("--on", default="cpu", show_default=True, metavar="PROVIDER", help="cpu, cuda, or a full provider name.")
@click.option("--artifact", type=Path, metavar="FILE", help="Judge this file, made elsewhere, instead of the variants.")
@click.option("--precision", default="fp32", show_default=True, help="The budget that --artifact is held to.")
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
    bundle: Path, variants: str | None, on: str, artifact: Path | None, precision: str, limits: tuple[str, ...],
    inconclusive: str, trust_code: bool, junit: Path | None, summary: Path | None, json_to: str | None,
    quiet: bool, debug: bool,  # noqa: ARG001
) -> int:  # fmt: skip
    """The parity gate: hold every variant of BUNDLE to what eager PyTorch answered."""
    from deploykit.bundle import Bundle
    from deploykit.pipeline.run import store_verify
    from deploykit.pipeline.verify import VerifyRequest, verify
    from deploykit.report import junit as junit_form
    from deploykit.report import markdown, text
    from deploykit.session import provider_name

    request = VerifyRequest(
        bundle, options.names(variants), provider_name(on), trust_code, options.limits_of(limits), artifact, precision
    )
    report = verify(request, options.progress_for(quiet=quiet))
    if artifact is None and variants is None and os.access(bundle, os.W_OK):
        store_verify(Bundle(bundle), report)
    if junit is not None:
        options.write(junit, junit_form.render_verify(report))
    if summary is not None:
        options.append(summary, markdown.render_verify(report))
    options.emit(report, text.render_verify(report), json_to)
    return 0 if report.exit_code == 3 and inconclusive == "warn" else report.exit_code
