"""Options of verify alone, and what it does for a continuous integration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli import options, remote_options
from deploykit.cli.options import F, writable
from deploykit.errors import DeploykitError, UsageError, from_os_error
from deploykit.writing import write_text

if TYPE_CHECKING:
    from deploykit.pipeline.verify import VerifyRequest
    from deploykit.progress import Progress
    from deploykit.results import VerifyReport

SUMMARY_BYTES = (1 << 20) - 1024
"""Bytes of a job summary: 1 MiB a step, by GitHub's documentation; one of exactly that size has been refused."""


def judging(function: F) -> F:
    """How strictly verify judges, what it compares with, and the files it writes."""
    for decorate in (
        click.option(
            "--annotations",
            type=click.Choice(["auto", "github", "none"]),
            default="auto",
            show_default=True,
            help="Workflow commands on stderr; auto: where $GITHUB_ACTIONS is true.",
        ),
        click.option(
            "--summary",
            type=Path,
            metavar="FILE",
            envvar="GITHUB_STEP_SUMMARY",
            help="Append Markdown, to 1 MiB in all. [default: $GITHUB_STEP_SUMMARY]",
        ),
        click.option("--junit", type=Path, metavar="FILE", callback=writable, help="Write JUnit XML."),
        click.option("--update-baseline", is_flag=True, help="Write --baseline instead of comparing with it."),
        click.option("--baseline", type=Path, metavar="FILE", help="Fail, too, when a value is worse than in FILE."),
        click.option(
            "--self-check/--no-self-check",
            default=None,
            help="Prove with mutants that the gate can fail. [default: where $CI is set]",
        ),
        click.option("--reproducers", type=Path, metavar="DIR", help="What reproduces a failure. [default: reports/]"),
        click.option("--trust-code", is_flag=True, help="Run TorchScript and .pt2 files that were made elsewhere."),
        click.option(
            "--inconclusive",
            type=click.Choice(["fail", "warn"]),
            default="fail",
            show_default=True,
            help="warn: exit 0 instead of 3.",
        ),
        click.option(
            "--set", "limits", multiple=True, metavar="budget.KEY=VALUE", help="Change a limit; loosening is printed."
        ),
    ):
        function = decorate(function)
    return function


def gate_for(bundle: Path, given: dict[str, Any]) -> Callable[[Progress], VerifyReport]:
    """The gate that is asked for: the bundle's own files, or a server; options that do not fit are refused now.

    Raises:
        DeploykitError: the options do not go together, or what they name cannot be used.
    """
    limits = options.limits_given(given)
    variant = remote_options.one_variant(options.names(given["variants"])) if given["url"] is not None else None
    remote = remote_options.request_of(bundle, given, variant, limits)
    if remote is None:
        return _own_files(bundle, given)
    from deploykit.pipeline.remote import verify_remote

    remote_options.refuse(given, _NOT_OF_A_SERVER)
    return lambda progress: verify_remote(remote, progress)


_NOT_OF_A_SERVER = {
    "--artifact": "artifact",
    "--precision": "precision",
    "--baseline": "baseline",
    "--update-baseline": "update_baseline",
    "--self-check": "self_check",
    "--reproducers": "reproducers",
    "--trust-code": "trust_code",
}
"""Options that are about files, as they are typed and as they are given."""


def _own_files(bundle: Path, given: dict[str, Any]) -> Callable[[Progress], VerifyReport]:
    """The gate on the bundle's files, whose answer is kept with the bundle where it is about all of it."""
    from deploykit.bundle import Bundle
    from deploykit.pipeline.run import store_verify
    from deploykit.pipeline.verify import verify

    request = options.verify_request(bundle, given)
    compare = baseline_for(request, given)

    def gate(progress: Progress) -> VerifyReport:
        report = verify(request, progress)
        if request.is_whole and Bundle(bundle).takes_reports:
            store_verify(Bundle(bundle), report)
        return compare(report)

    return gate


def baseline_for(request: VerifyRequest, given: dict[str, Any]) -> Callable[[VerifyReport], VerifyReport]:
    """What `--baseline` does to the report; checked now, done after the work.

    Raises:
        DeploykitError: the baseline cannot be used, or not be written.
    """
    from deploykit.pipeline.baseline import prepare

    path, update = given["baseline"], given["update_baseline"]
    if path is None:
        if update:
            raise UsageError("--update-baseline", "there is no file to write", "give --baseline FILE, too")
        return lambda report: report
    return prepare(request, path, update=update)


def publish(report: VerifyReport, junit: Path | None, summary: Path | None, given: dict[str, Any]) -> None:
    """Write what a continuous integration reads: JUnit XML, the job summary, annotations on stderr.

    Raises:
        DeploykitError: a file cannot be written.
    """
    from deploykit.report import github, markdown
    from deploykit.report import junit as junit_form

    if junit is not None:
        write_text(junit, junit_form.render_verify(report))
    if summary is not None:
        append_summary(summary, markdown.render_verify(report))
    if wants_annotations(given):
        said = github.render_verify(report, open_is_error=given["inconclusive"] == "fail")
        click.echo(said, nl=False, err=True)


def stopped(bundle: Path, error: DeploykitError) -> VerifyReport:
    """A report that says why there is none: what an earlier run wrote must not be taken for this one's."""
    from deploykit.results import VariantReport, VerifyReport

    verdict: Any = "refused" if error.exit_code == 5 else "error"
    reason = f"{error.subject}: {error.message}; {error.hint}"
    whole = VariantReport("bundle", verdict, None, (), error.code, reason, None, error.exit_code)
    return VerifyReport(bundle.name, verdict, error.exit_code, {}, (whole,))


def wants_annotations(given: dict[str, Any]) -> bool:
    """Whether GitHub's workflow commands belong on stderr: asked for, or in a job of GitHub Actions."""
    return given["annotations"] == "github" or (
        given["annotations"] == "auto" and os.environ.get("GITHUB_ACTIONS") == "true"
    )


def append_summary(path: Path, page: str) -> None:
    """Add Markdown to a job summary, which may hold other words already, as far as there is room for it."""
    from deploykit.report import markdown

    try:
        there = path.stat().st_size if path.is_file() else 0
        with path.open("a", encoding="utf-8") as stream:
            stream.write(markdown.fitted(page, SUMMARY_BYTES - there))
    except OSError as error:
        raise from_os_error(error, str(path)) from error
