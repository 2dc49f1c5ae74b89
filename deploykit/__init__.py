"""Export a PyTorch model to every form you can ship, prove each one, measure each one.

    import deploykit

    bundle = deploykit.export(module, example_inputs, "artifacts/mine", variants=["onnx", "onnx-int8-static"])
    report = deploykit.verify("artifacts/mine")
    table = deploykit.bench("artifacts/mine", quick=True)

Importing deploykit costs nothing: each function loads what it needs when it is first called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploykit.api import bench, export, preprocess, verify
    from deploykit.bundle import Bundle
    from deploykit.errors import DeploykitError
    from deploykit.measurements import BenchReport
    from deploykit.results import VerifyReport

__version__ = "0.1.0"
__all__ = [
    "BenchReport",
    "Bundle",
    "DeploykitError",
    "VerifyReport",
    "__version__",
    "bench",
    "export",
    "preprocess",
    "verify",
]

_HOMES = {
    "export": "deploykit.api",
    "preprocess": "deploykit.api",
    "verify": "deploykit.api",
    "bench": "deploykit.api",
    "Bundle": "deploykit.bundle",
    "DeploykitError": "deploykit.errors",
    "BenchReport": "deploykit.measurements",
    "VerifyReport": "deploykit.results",
}


def __getattr__(name: str) -> Any:
    """The public name, imported from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deploykit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
