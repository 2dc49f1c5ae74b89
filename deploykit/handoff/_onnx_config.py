"""What a folder's `onnx_model.py` reads of one version, and what the targets that use it have to refuse."""

from __future__ import annotations

from typing import Any

from deploykit.errors import RefusedError
from deploykit.handoff.interface import Given, Version
from deploykit.session import CPU
from deploykit.signature import TensorSpec
from deploykit.wire_tensors import DATATYPES


def check(given: Given, stack: str) -> None:
    """Refuse another provider than the pinned onnxruntime has, and dtypes without a word on the wire.

    Raises:
        RefusedError: TARGET_CANNOT_SERVE.
    """
    if given.provider != CPU:
        message = f"the pinned onnxruntime of {stack} runs on the CPU, and the settings are for {given.provider}"
        raise refused(given.model, message, "hand it over with --on cpu, or --to triton")
    for spec in (*given.signature.inputs, *given.signature.outputs):
        if spec.dtype not in DATATYPES:
            message = f"{spec.name} is {spec.dtype}, which the Open Inference Protocol has no word for"
            raise refused(given.model, message, "split it into real and imaginary parts in the model")


def config(given: Given, version: Version) -> dict[str, Any]:
    """Settings of the session, tensors, and ranges of symbolic dims, as JSON takes them."""
    settings = version.settings
    return {
        "settings": {
            "provider": settings.provider,
            "threads": settings.threads,
            "graph_level": settings.graph_level,
            "spinning": settings.spinning,
            "arena": settings.arena,
        },
        "inputs": [tensor(spec) for spec in given.signature.inputs],
        "outputs": [tensor(spec) for spec in given.signature.outputs],
        "dims": {dim.name: [dim.min, dim.max] for dim in given.signature.dims},
    }


def tensor(spec: TensorSpec) -> dict[str, Any]:
    """Name, the protocol's datatype, and a shape in which a text is a symbolic dim."""
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": list(spec.shape)}


def notes(given: Given) -> tuple[str, ...]:
    """Paragraphs for the README of every target that uses `onnx_model.py`."""
    said = [
        "A request whose names, datatypes, shapes or values do not fit gets a 400 (422 where a field is missing) "
        "before the engine sees it; the limits are in the files beside each artifact. `onnx_model.py` opens the "
        "sessions and prints how each one is open, read back from the engine.",
    ]
    if any(version.settings.binding for version in given.versions):
        said.append("The setting `binding` belongs to one caller's buffers: a server with many has no use for it.")
    return tuple(said)


def refused(subject: str, message: str, hint: str) -> RefusedError:
    """TARGET_CANNOT_SERVE."""
    return RefusedError(subject, message, hint, "TARGET_CANNOT_SERVE")
