"""Step: what a plugin says of itself on this machine."""

from __future__ import annotations

from typing import Any

from deploykit import registry
from deploykit.session import CUDA


def unavailable(kind: str, name: str) -> str | None:
    """Why plugin `name` cannot work here, None when it can."""
    reason: str | None = registry.load(kind, name)().unavailable()
    return reason


def runtime(name: str) -> dict[str, Any]:
    """`unavailable`, the `providers` that really work, and which well-known one is `missing`, with the reason."""
    plugin = registry.load("runtimes", name)()
    if reason := plugin.unavailable():
        return {"unavailable": reason, "providers": []}
    providers = list(plugin.providers())
    missing = {} if CUDA in providers else {CUDA: _why_no_cuda(plugin.stack)}
    return {"unavailable": None, "providers": providers, "missing": missing}


def _why_no_cuda(stack: str) -> str:
    """The first thing that stands in the way."""
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device or driver is visible here" if torch.version.cuda else "torch is a build without CUDA"
    if stack == "onnxruntime":
        return "the installed onnxruntime has no working CUDA provider; install onnxruntime-gpu"
    return "torch sees a CUDA device and cannot use it"
