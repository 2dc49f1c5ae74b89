"""Making an ONNX file old enough for the release that has to load it, and reading back whether it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploykit.errors import WorkError
from deploykit.isolation import Caller
from deploykit.releases import Release

ENGINE = "onnxruntime"
"""The runtime whose files have an opset and an IR version."""


def fit(caller: Caller, variant: str, artifact: Path, release: Release) -> dict[str, Any]:
    """Lower what in the file's head is newer than needed; gives the facts `opset`, `ir_version` and `target`.

    Args:
        caller: a child that can import onnx.
        variant: named in the error.
        artifact: changed in place.
        release: has to load it.

    Raises:
        WorkError: TARGET_TOO_OLD, the file still asks for more than the release takes.
        DeploykitError: the file cannot be read or written, or the child died.
    """
    found: dict[str, int] = caller.call("versions:fit", artifact=str(artifact), ir=release.ir)
    if not release.takes(found["opset"], found["ir_version"]):
        hint = "choose a newer --target, or leave the variant out of --variants"
        raise WorkError(variant, gap(release, found), hint, "TARGET_TOO_OLD")
    return {**found, "target": release.label}


def gap(release: Release, found: dict[str, int]) -> str:
    """In words what the file asks for and what the release takes."""
    asked = f"opset {found['opset']} and IR {found['ir_version']}"
    takes = f"onnxruntime {release.onnxruntime} takes opset {release.opset} and IR {release.ir}"
    return f"asks for {asked}; {takes}" + (f" ({release.label})" if release.kind != "ort" else "")
