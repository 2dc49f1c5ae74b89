"""What a recommendation has to satisfy, as options of `bench` and `run`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import click

from deploykit.cli import recipe_options
from deploykit.cli.options import F
from deploykit.errors import UsageError
from deploykit.measurements import Goal

if TYPE_CHECKING:
    from deploykit.pipeline.bench import BenchRequest

_ASKED = {
    "max_accuracy_drop": ("0.5%", "Points of top-1 accuracy, by labelled samples."),
    "latency_p90": ("5ms", "90th percentile of a call."),
    "latency_median": ("1ms", "Upper limit of the median of a call."),
    "min_throughput": ("1000/s", "Samples per second."),
    "memory": ("500MB", "Peak memory of the process."),
    "size": ("10MB", "The artifact's files."),
    "load": ("500ms", "Opening the artifact."),
}
"""Constraint to an example and its line in the help."""


_NO_CHOICE = {"against": None, "tune": None, "scenario": "single-stream"}
"""Options under which nothing is recommended, with the value that leaves them aside."""

_ALONE = "recommends nothing, so that no goal and no constraint goes with it"


def choosing(function: F) -> F:
    """`--goal` and the constraints."""
    for name, (example, said) in reversed(_ASKED.items()):
        option = f"--{name.replace('_', '-')}"
        function = click.option(option, name, metavar=example, help=f"{said} Exit 1 when nothing satisfies it.")(
            function
        )
    return click.option(
        "--goal",
        type=click.Choice(get_args(Goal)),
        default="latency",
        show_default=True,
        help="What the recommendation goes by.",
    )(function)


def wishing(request: BenchRequest, given: dict[str, Any]) -> BenchRequest:
    """`request` with the goal and the constraints among the options.

    Raises:
        UsageError: BAD_CONSTRAINT, a text is no limit, or nothing will be recommended.
    """
    from deploykit.recommend.choose import Wish
    from deploykit.recommend.constraints import Constraints

    constraints = Constraints.parse({name: given[name] for name in _ASKED})
    wish = Wish(given["goal"], constraints)
    for option, usual in _NO_CHOICE.items():
        if wish != Wish() and given.get(option) not in {None, usual}:
            if recipe_options.typed(option) and not any(map(recipe_options.typed, ("goal", *_ASKED))):
                return request  # the command line asks for something else than the recipe
            raise UsageError(f"--{option}", _ALONE, "ask for one of the two", "BAD_CONSTRAINT")
    return replace(request, wish=wish)
