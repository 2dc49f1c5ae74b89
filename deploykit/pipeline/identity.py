"""Which model a report is about."""

from __future__ import annotations

from typing import Any

from deploykit.bundle import Manifest


def identity(manifest: Manifest) -> dict[str, Any]:
    """Which model was measured, for `protocol`: its signature without the names of symbolic dims, and its digest."""
    signature = manifest.signature
    return {
        side: [[spec.name, spec.dtype, [dim if isinstance(dim, int) else None for dim in spec.shape]] for spec in specs]
        for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
    } | {"digest": manifest.source.digest}
