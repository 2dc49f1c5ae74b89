"""`deploykit inspect`: describe a file or bundle without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploykit.bundle import Bundle, digest_of
from deploykit.formats import recognize
from deploykit.isolation import Worker
from deploykit.report.inspect import render_file, render_manifest


def inspect(path: Path) -> tuple[dict[str, Any], str]:
    """The description as data and as text; a bundle's files are proven on the way.

    Raises:
        DeploykitError: the path is neither, or what is there is damaged.
    """
    if path.is_dir():
        bundle = Bundle(path)
        bundle.check()
        return bundle.manifest.model_dump(mode="json", by_alias=True), render_manifest(bundle)
    runtime = recognize(path)
    facts: dict[str, Any] = {"format": runtime, "bytes": path.stat().st_size, "sha256": digest_of(path)}
    if runtime == "onnxruntime":
        with Worker() as worker:
            facts.update(worker.call("inspecting:onnx_summary", artifact=str(path)))
        facts["format"] = "onnx"
    else:
        facts["note"] = "can run code: opened only from bundles made here, or with --trust-code"
    return facts, render_file(path.name, facts)
