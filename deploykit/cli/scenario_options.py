"""Options of bench that say which load is put on the model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli.options import F
from deploykit.errors import UsageError

if TYPE_CHECKING:
    from deploykit.pipeline.bench import BenchRequest


def loading(function: F) -> F:
    """`--scenario` and what belongs to it."""
    for decorate in (
        click.option("--seconds", type=float, metavar="S", help="Wall time of a sweep, a load [120] or --tune [180]."),
        click.option(
            "--slo", metavar="pNN=TIME", help="What a server keeps: p99=5ms. [default: p99 ≤ 10 × the median alone]"
        ),
        click.option(
            "--rate", type=float, metavar="R", help="Requests per second. [default: the highest that keeps --slo]"
        ),
        click.option(
            "--scenario",
            type=click.Choice(["single-stream", "offline", "server"]),
            default="single-stream",
            show_default=True,
            help="The load, as in MLPerf Inference.",
        ),
    ):
        function = decorate(function)
    return function


def loaded(request: BenchRequest, given: dict[str, Any]) -> BenchRequest:
    """The request with its scenario.

    Raises:
        UsageError: options that do not go together, or are no numbers one can use.
    """
    from deploykit.benchmark.scenario import Scenario
    from deploykit.pipeline import scenarios

    if given["seconds"] is not None and given["scenario"] == "single-stream" and given.get("tune") is None:
        hint = "add --scenario offline, --scenario server or --tune, or leave it out"
        raise UsageError("--seconds", "the table takes the time its protocol says", hint, "BAD_SCENARIO")
    scenario = Scenario.parse(given["scenario"], given["rate"], given["slo"], given["seconds"])
    request = replace(request, scenario=scenario)
    scenarios.check(request)
    return request
