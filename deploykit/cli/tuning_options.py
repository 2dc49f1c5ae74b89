"""Options of bench that look for settings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli.options import F
from deploykit.tune_results import GOALS

if TYPE_CHECKING:
    from deploykit.pipeline.bench import BenchRequest


def tuning(function: F) -> F:
    """`--tune`."""
    return click.option(
        "--tune",
        type=click.Choice(GOALS),
        is_flag=False,
        flag_value=GOALS[0],
        help="Find the settings that suit a goal [latency], write them into the bundle.",
    )(function)


def tuned(request: BenchRequest, given: dict[str, Any]) -> BenchRequest:
    """The request with its search for settings.

    Raises:
        UsageError: options that do not go together, or no time to search in.
    """
    if given["tune"] is None:
        return request
    from deploykit.pipeline import tune

    request = replace(request, tune=given["tune"], seconds=given["seconds"])
    tune.check(request)
    return request
