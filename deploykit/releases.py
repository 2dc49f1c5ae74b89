"""Releases of what loads a file that was handed over: the onnxruntime in each, and the newest opset and IR it takes.

The table is data, `releases.json`; its comment says where every number is from.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploykit.errors import UsageError

KINDS = {"triton": "Triton Inference Server, by its container's name: triton:24.10", "ort": "onnxruntime: ort:1.19.2"}
"""What can be named before the colon."""

NEAREST = 4
"""Known releases that an error names."""


@dataclass(frozen=True)
class Release:
    """What is to load the file.

    Attributes:
        kind: `triton` or `ort`.
        name: as it was named, `24.10`; of onnxruntime with two or three numbers.
        onnxruntime: the release inside; of two numbers where any patch release is meant.
        opset: newest version of the standard operator set that loads and has its kernels.
        ir: newest IR version that loads.
    """

    kind: str
    name: str
    onnxruntime: str
    opset: int
    ir: int

    @property
    def label(self) -> str:
        """As on the command line, `triton:24.10`."""
        return f"{self.kind}:{self.name}"

    @property
    def server(self) -> str | None:
        """The release of a server that was named; None where only the engine was."""
        return self.name if self.kind == "triton" else None

    @property
    def installable(self) -> str:
        """The published onnxruntime to try a file with: this one, else the next patch release of it, else the last."""
        published: list[str] = _table()["onnxruntime"][_minor(self.onnxruntime)]["published"]
        later = [one for one in published if _numbers(one) >= _numbers(self.onnxruntime)]
        return later[0] if later else published[-1]

    def takes(self, opset: int, ir: int) -> bool:
        """Whether a file with these versions loads."""
        return opset <= self.opset and ir <= self.ir

    def fits(self, version: str) -> bool:
        """Whether an installed onnxruntime `version` stands for this release."""
        return version == self.installable or (
            self.onnxruntime == _minor(self.onnxruntime) and _minor(version) == self.onnxruntime
        )


def parse(text: str) -> Release:
    """The release that `triton:24.10`, `ort:1.15` or `ort:1.15.1` names.

    Raises:
        UsageError: UNKNOWN_TARGET, with the nearest ones that are known.
    """
    kind, _, name = text.partition(":")
    if kind not in KINDS:
        raise UsageError(
            text or "--target", "names no known target", f"give {' or '.join(KINDS)}:RELEASE", "UNKNOWN_TARGET"
        )
    known = names(kind)
    if name not in known:
        near = ", ".join(f"{kind}:{one}" for one in _nearest(name, known))
        raise UsageError(text, f"no release of {kind} that is known", f"known are for example {near}", "UNKNOWN_TARGET")
    inside = _table()["triton"][name] if kind == "triton" else name
    limits = _table()["onnxruntime"][_minor(inside)]
    return Release(kind, name, inside, limits["opset"], limits["ir"])


def names(kind: str) -> tuple[str, ...]:
    """All known releases of a kind, oldest first; of onnxruntime the minor and the patch releases.

    Args:
        kind: one of `KINDS`.
    """
    if kind == "triton":
        return tuple(sorted(_table()["triton"], key=_numbers))
    inside = _table()["onnxruntime"]
    patches = [patch for one in inside.values() for patch in one["published"]]
    return tuple(sorted({*inside, *patches, *_table()["triton"].values()}, key=_numbers))


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name("releases.json").read_text(encoding="utf-8"))
    return table


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _numbers(version: str) -> tuple[int, ...]:
    """For comparing; what is no number counts as 0."""
    return tuple(int(part) if part.isdecimal() and len(part) < 10 else 0 for part in version.split("."))


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known ones whose numbers are nearest, oldest first; the newest where `name` has none."""
    numbers = (*_numbers(name), 0, 0)
    if not any(numbers):
        return sorted(known, key=_numbers)[-NEAREST:]

    def distance(one: str) -> tuple[int, ...]:
        theirs = (*_numbers(one), 0, 0)
        return tuple(abs(a - b) for a, b in zip(theirs[:3], numbers[:3], strict=True))

    return sorted(sorted(known, key=distance)[:NEAREST], key=_numbers)
