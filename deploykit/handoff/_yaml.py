"""YAML as configuration files of servers have it, without a package for it."""

from __future__ import annotations

import json
from typing import Any


def yaml(value: dict[str, Any]) -> str:
    """A YAML text of objects, lists and plain values; texts are quoted as in JSON, which YAML reads the same way."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: dict[str, Any] | list[Any]) -> list[str]:
    """One entry after the other; what is nested stands below its key, indented."""
    pairs = [(f"{key}:", item) for key, item in value.items()] if isinstance(value, dict) else [("-", v) for v in value]
    lines = []
    for head, item in pairs:
        if isinstance(item, dict | list) and item:
            lines += [head, *(f"  {line}" for line in _lines(item))]
        else:
            lines.append(f"{head} {json.dumps(item)}")
    return lines
