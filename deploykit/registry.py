"""Plugins by name. The file name is the plugin name; entry points add those of other packages.

A plugin file holds one class named after its kind (`exporters/onnx.py` → `Exporter`), described in the
folder's `interface.py`. Importing a plugin file is cheap by rule: heavy packages are imported inside its methods.
Outsiders register the class itself: `[project.entry-points."deploykit.exporters"]  mine = "my_package:MyExporter"`.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from deploykit.errors import UsageError

CLASS_OF = {
    "sources": "Source",
    "exporters": "Exporter",
    "transforms": "Transform",
    "runtimes": "Runtime",
    "handoff": "Target",
    "sweep": "Engine",
}
"""Plugin kind (the folder) to the class that each of its files defines."""

_NOT_PLUGINS = {"interface"}


def names(kind: str) -> tuple[str, ...]:
    """Names of all plugins of `kind`, sorted, ours first; nothing is imported."""
    folder = Path(__file__).parent / kind
    ours = (m.name for m in pkgutil.iter_modules([str(folder)]))
    own = sorted(n.replace("_", "-") for n in ours if not n.startswith("_") and n not in _NOT_PLUGINS)
    return (*own, *sorted(set(_outsiders(kind)) - set(own)))


def load(kind: str, name: str) -> Any:
    """The plugin class `name`.

    Raises:
        UsageError: there is no such plugin.
    """
    if name in _outsiders(kind) and not _is_own(kind, name):
        return _outsiders(kind)[name].load()
    if not _is_own(kind, name):
        known = ", ".join(names(kind))
        raise UsageError(name, f"unknown {CLASS_OF[kind].lower()}", f"one of {known}", "UNKNOWN_PLUGIN")
    return getattr(import_module(f"deploykit.{kind}.{name.replace('-', '_')}"), CLASS_OF[kind])


def _is_own(kind: str, name: str) -> bool:
    file = name.replace("-", "_")
    named = file.isidentifier() and not file.startswith("_") and file not in _NOT_PLUGINS
    return named and (Path(__file__).parent / kind / f"{file}.py").is_file()


@cache
def _outsiders(kind: str) -> dict[str, Any]:
    from importlib.metadata import entry_points  # 30 ms that `--help` does not pay

    return {point.name: point for point in entry_points(group=f"deploykit.{kind}")}
