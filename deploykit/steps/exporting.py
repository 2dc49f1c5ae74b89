"""Step: one exporter on the live model."""

from __future__ import annotations

from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

from deploykit import registry
from deploykit.errors import WorkError
from deploykit.finished import Finished
from deploykit.lines import Lines, listening
from deploykit.steps import live


def export(
    exporter: str,
    target: str,
    source: dict[str, Any] | None,
    weights: str,
    signature: dict[str, Any],
    options: dict[str, Any],
    lines: str = "",
) -> dict[str, Any]:
    """Write one variant to `target`; gives the exporter's `options` as used and the `facts` it found out.

    What exporters tell of the model's source lines is added to the file `lines`, where one is named.

    A source that is a finished file is copied by the exporter of its format; no other can do anything with it.

    Raises:
        WorkError: PACKAGE_MISSING when the exporter cannot work here; SOURCE_FINISHED when the source is a file of
            another format.
    """
    model = live.ensure(source, weights, signature)
    if isinstance(model.module, Finished):
        return _copied(model.module, exporter, Path(target), options)
    plugin = registry.load("exporters", exporter)(**options)
    if reason := plugin.unavailable():
        raise WorkError(exporter, reason, "see deploykit doctor", "PACKAGE_MISSING")
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    with listening() as heard:
        facts = plugin.export(model, path)
    if lines and heard:
        reduce(Lines.merged, heard, Lines.load(Path(lines))).save(Path(lines))
    return {"options": asdict(plugin), "facts": facts}


def _copied(module: Finished, exporter: str, target: Path, options: dict[str, Any]) -> dict[str, Any]:
    if exporter != module.variant:
        message = f"the source is an {module.variant.upper()} file, and this is made from PyTorch code"
        hint = f"leave {exporter} out of --variants, or give the model that the file was exported from"
        raise WorkError(exporter, message, hint, "SOURCE_FINISHED")
    target.parent.mkdir(parents=True, exist_ok=True)
    facts = module.write(target, options.get("opset"))
    return {"options": {"opset": facts["opset"]}, "facts": facts, "precision": module.precision}
