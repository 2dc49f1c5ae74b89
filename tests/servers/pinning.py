"""Compile the pins of every stack again: `python -m tests.servers.pinning [STACK...]`, or `make servers-lock`.

What a stack needs is in `stacks/<stack>.in` beside this file, and in the handoff's `web/package.json`; this writes what
a handoff ships: `<stack>.txt` and `web/package-lock.json` with every package, exact, with digests, and without a word
about where they came from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.servers.environments import REQUIREMENTS, uv_path

SOURCES = Path(__file__).with_name("stacks")
WEB = "web"
KEPT = {
    "version",
    "integrity",
    "dependencies",
    "optional",
    "os",
    "cpu",
    "libc",
    "engines",
    "bin",
    "license",
    "dev",
    "peer",
}
"""Fields of a locked npm package that `npm ci` reads; `resolved` and `funding` are addresses and are left out."""


def pin(stack: str) -> None:
    """Write `<stack>.txt` from `<stack>.in`, for every platform that the packages know and Python 3.11 or newer."""
    source, target = SOURCES / f"{stack}.in", REQUIREMENTS / f"{stack}.txt"
    subprocess.run(
        [
            *(uv_path(), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--upgrade"),
            *("--generate-hashes", "--no-annotate", "--custom-compile-command", "make servers-lock"),
            *(str(source), "--output-file", str(target)),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def pin_web(project: Path) -> None:
    """Write `package-lock.json` beside `package.json`."""
    command = ["npm", "install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=project, env={**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}, check=True)
    lock = project / "package-lock.json"
    lock.write_text(json.dumps(without_addresses(json.loads(lock.read_text())), indent=2) + "\n")


def without_addresses(lock: dict[str, Any]) -> dict[str, Any]:
    """A lock file with only those fields of its packages that installing needs."""
    packages = {
        place: {name: value for name, value in package.items() if not place or name in KEPT}
        for place, package in lock["packages"].items()
    }
    return {**lock, "packages": packages}


def main(names: list[str]) -> int:
    for name in names or [*(path.stem for path in sorted(SOURCES.glob("*.in"))), WEB]:
        print(f"{name} …", flush=True)
        if name == WEB:
            pin_web(REQUIREMENTS / WEB)
        else:
            pin(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
