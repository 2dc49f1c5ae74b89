"""`--recipe`: values of a file where the command line gives none. Which of the two wins is decided here, once.

The values become click's own defaults (`Context.default_map`), so that the command line wins, and what they name is
checked by the options' own types.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from deploykit.cli.options import F
from deploykit.errors import UsageError

if TYPE_CHECKING:
    from deploykit.recipe import Named, Recipe

_NAMED = "deploykit.recipe"
"""Where a context keeps what the recipe names: parameter to its key and value."""


def from_recipe(command: str) -> Callable[[F], F]:
    """`--recipe`, for the part of a recipe that belongs to `command`."""

    def decorate(function: F) -> F:
        option = click.option(
            "--recipe",
            metavar="FILE",
            is_eager=True,  # the other options take their defaults from it
            callback=functools.partial(_read, command),
            help="Take what is not given here from this TOML file; see deploykit init.",
        )
        return option(_telling_keys(function))

    return decorate


def making(function: F) -> F:
    """`--plan` and `--no-reuse`."""
    function = click.option(
        "--no-reuse", "reuse", flag_value=False, default=True, help="Make every variant anew, also with --force."
    )(function)
    return click.option("--plan", is_flag=True, help="Say what would be done, and do nothing.")(function)


def typed(name: str) -> bool:
    """Whether a parameter of the running command was given on the command line, or in an environment variable."""
    source = click.get_current_context().get_parameter_source(name)
    return source in {ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT}


def _read(command: str, ctx: click.Context, param: click.Parameter, value: str | None) -> Recipe | None:  # noqa: ARG001
    """Read the file and make it the defaults.

    Raises:
        DeploykitError: it cannot be read, or is no recipe.
    """
    if value is None:
        return None
    from deploykit.recipe import Recipe, named_for

    recipe = Recipe.read(Path(value))
    parameters = {one.name for one in ctx.command.params}
    named = {name: one for name, one in named_for(command, recipe).items() if name in parameters}
    ctx.meta[_NAMED] = (value, named)
    ctx.default_map = {**(ctx.default_map or {}), **{name: one.value for name, one in named.items()}}
    return recipe


def _telling_keys(function: F) -> F:
    """The command, with errors about an option that the recipe gave told as errors of the recipe's key."""

    @functools.wraps(function)
    def told(**given: Any) -> Any:
        try:
            return function(**given)
        except UsageError as error:
            subject = _key_of(error.subject)
            if subject is None:
                raise
            raise UsageError(subject, error.message, error.hint, error.code) from error

    return told  # type: ignore[return-value]  # the same parameters by name


def _key_of(subject: str) -> str | None:
    """`deploykit.toml: bench.slo` for `--slo p99`, where the recipe gave it; None where it did not."""
    ctx = click.get_current_context()
    found = re.match(r"--[a-z0-9-]+", subject)
    if found is None or _NAMED not in ctx.meta:
        return None
    file: str
    named: dict[str, Named]
    file, named = ctx.meta[_NAMED]
    for param in ctx.command.params:
        mine = found[0] in param.opts and ctx.get_parameter_source(param.name or "") is ParameterSource.DEFAULT_MAP
        if mine and param.name in named:
            return f"{file}: {named[param.name].key}"
    return None
