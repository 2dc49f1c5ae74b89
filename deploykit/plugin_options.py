"""Plugin options by variant, checked by name and type against the plugin's own fields before any work starts."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, get_type_hints

from deploykit import plan, registry
from deploykit.errors import UsageError


def check(options: Mapping[str, Mapping[str, Any]], variants: str | None = None) -> None:
    """Refuse options of no variant, of no name that its plugin has, or of another type.

    Args:
        options: value by option by variant.
        variants: `core`, `all` or a list: options of a variant that is not among them are refused, too.

    Raises:
        UsageError: UNKNOWN_VARIANT, UNKNOWN_OPTION or BAD_OPTION; the subject is `options.VARIANT.NAME`.
    """
    known = plan.known()
    for name, given in options.items():
        if name not in known:
            raise UsageError(f"options.{name}", "unknown variant", _close(name, list(known)), "UNKNOWN_VARIANT")
        plugin = registry.load(known[name].kind, known[name].plugin)
        own = {field.name: field for field in fields(plugin)}
        for option, value in given.items():
            where = f"options.{name}.{option}"
            if option not in own:
                hint = _close(option, list(own)) if own else f"{name} has no options"
                raise UsageError(where, "unknown option", hint, "UNKNOWN_OPTION")
            _check_type(where, value, plugin, own[option])
    if variants is not None:
        chosen = {variant.name for variant in plan.select(variants)}
        if idle := sorted(set(options) - chosen):
            hint = f"add {idle[0]} to the variants, or leave its options out"
            raise UsageError(f"options.{idle[0]}", "the variant is not asked for", hint, "UNKNOWN_VARIANT")


def effective(variant: plan.PlannedVariant, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a variant's plugin, as JSON data: what is given, and the plugin's defaults."""
    made = registry.load(variant.kind, variant.plugin)(**given)
    return {field.name: json.loads(json.dumps(getattr(made, field.name))) for field in fields(made)}


def _check_type(where: str, value: Any, plugin: type, field: Field[Any]) -> None:
    from pydantic import TypeAdapter, ValidationError  # what `--help` does not pay

    try:
        kind = get_type_hints(plugin)[field.name]
    except (NameError, TypeError):  # a plugin of others whose annotations only a type checker can read
        return
    try:
        # strict, as JSON: an array is a tuple there, and true is no number
        TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except (ValidationError, ValueError, TypeError) as error:
        hint = f"{field.name}: {field.type}"
        raise UsageError(
            where, f"{json.dumps(value, default=str)[:60]} is no {_words(kind)}", hint, "BAD_OPTION"
        ) from error


def _words(kind: Any) -> str:
    named = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return named.get(kind, "list of texts" if kind == tuple[str, ...] else str(kind))


def _close(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name.replace("-", "_") if name not in known else name, known, n=1)
    found = found or difflib.get_close_matches(name, known, n=1)
    return f"did you mean {found[0]}?" if found else f"one of {', '.join(known)}"
