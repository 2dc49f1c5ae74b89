"""Step: one exporter on the live model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploykit import registry
from deploykit.errors import WorkError
from deploykit.steps import live


def export(
    exporter: str,
    target: str,
    source: dict[str, Any] | None,
    weights: str,
    signature: dict[str, Any],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Write one variant to `target`; gives the exporter's `options` as used and the `facts` it found out.

    Raises:
        WorkError: PACKAGE_MISSING when the exporter cannot work here.
    """
    model = live.ensure(source, weights, signature)
    plugin = registry.load("exporters", exporter)(**options)
    if reason := plugin.unavailable():
        raise WorkError(exporter, reason, "see deploykit doctor", "PACKAGE_MISSING")
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = plugin.export(model, path)
    return {"options": asdict(plugin), "facts": facts}
