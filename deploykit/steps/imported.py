"""Step: which code is in this process beside deploykit's own: a part of the key of finished variants."""

from __future__ import annotations

import platform
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

_OURS = Path(__file__).parents[1]
_LIBRARIES = tuple(Path(sysconfig.get_paths()[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib"))


def imported() -> dict[str, Any]:
    """What was imported so far, without the standard library and deploykit.

    What is imported later, read as data or set in the environment is not in it.

    Returns:
        `files`, sha256 by module where the file lies outside the installed packages, and `packages`, version by
        distribution of the installed ones, and `python`, its version.
    """
    files: dict[str, str] = {}
    tops: set[str] = set()
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            continue
        path = Path(file)
        if path.is_relative_to(_OURS) or name.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
            continue
        if any(path.is_relative_to(folder) for folder in _LIBRARIES):
            tops.add(name.partition(".")[0])
        elif path.is_file():
            files[name] = sha256(path.read_bytes()).hexdigest()
    return {"files": files, "packages": _versions(tops), "python": platform.python_version()}


@cache
def _owners() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _versions(tops: set[str]) -> dict[str, str]:
    found = {}
    owners = _owners()
    for top in tops:
        for name in owners.get(top, ()):
            found[name] = metadata.version(name)
    return dict(sorted(found.items()))
