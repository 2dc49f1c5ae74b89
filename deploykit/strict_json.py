"""JSON from files that others may have written, read strictly, and what is wrong with it in a few words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


def parse(raw: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or a key is there twice: readers would differ in which of the two counts.
        RecursionError: it is nested too deeply.
    """
    return json.loads(raw, object_pairs_hook=_once)


def first_fault(error: ValidationError) -> str:
    """The first thing that pydantic found wrong: where, and what; not the input, which may be long."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(item) for item in first["loc"])
    return f"{where}: {first['msg']}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
