"""Step: one transform on one artifact; runs without torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploykit import registry
from deploykit.errors import WorkError
from deploykit.reference import load_arrays


def transform(
    name: str, artifact: str, target: str, calibration: list[str], input_names: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """Write the transformed artifact to `target`; gives `options` as used and `facts`.

    Raises:
        WorkError: PACKAGE_MISSING when the transform cannot work here.
    """
    plugin = registry.load("transforms", name)(**options)
    if reason := plugin.unavailable():
        raise WorkError(name, reason, "see deploykit doctor", "PACKAGE_MISSING")
    batches = []
    if plugin.needs_calibration:
        stored = [load_arrays(Path(file)) for file in calibration]
        batches = [{key: arrays[key] for key in input_names} for arrays in stored]
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = plugin.apply(Path(artifact), path, batches)
    return {"options": asdict(plugin), "facts": facts}
