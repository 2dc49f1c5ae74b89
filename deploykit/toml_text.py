"""TOML from plain data: the standard library reads it and does not write it. Deterministic; keys in the order given."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)

_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def dumps(data: Mapping[str, Any]) -> str:
    """`data` as a document: values first, then a [table] for each mapping, a [[table]] for each of a list of them.

    Args:
        data: str, bool, int, finite float, lists of these, and mappings.

    Raises:
        ValueError: something else, None among it: TOML has no word for nothing.
    """
    return "\n".join(_table(data, ())).strip("\n") + "\n"


def value(item: Any) -> str:
    """One value on one line.

    Raises:
        ValueError: see `dumps`.
    """
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, str):
        return '"' + "".join(_character(c) for c in item) + '"'
    if isinstance(item, int):
        return str(item)
    if isinstance(item, float) and math.isfinite(item):
        return repr(item)
    if isinstance(item, list | tuple):
        return f"[{', '.join(value(one) for one in item)}]"
    if isinstance(item, Mapping):
        inner = ", ".join(f"{key(name)} = {value(one)}" for name, one in item.items())
        return f"{{ {inner} }}" if inner else "{}"
    raise ValueError(f"TOML cannot hold {item!r}")


def key(name: str) -> str:
    """A key, in quotes where it has to be."""
    return name if _BARE.fullmatch(name) else value(name)


def _table(data: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{key(name)} = {value(item)}" for name, item in data.items() if not _is_table(item)]
    for name, item in data.items():
        if not _is_table(item):
            continue
        inner = (*path, key(name))
        brackets = "[[{}]]" if isinstance(item, list | tuple) else "[{}]"
        for one in item if isinstance(item, list | tuple) else (item,):
            rows = _table(one, inner)
            only_tables = bool(rows) and rows[0] == "" and isinstance(item, Mapping)  # they name this one themselves
            lines += rows if only_tables else ["", brackets.format(".".join(inner)), *rows]
    return lines


def _is_table(item: Any) -> bool:
    several = isinstance(item, list | tuple) and bool(item) and all(isinstance(one, Mapping) for one in item)
    return several or isinstance(item, Mapping)


def _character(c: str) -> str:
    if c in _SHORT:
        return _SHORT[c]
    if c < " " or c == "\x7f":
        return f"\\u{ord(c):04X}"
    return c
