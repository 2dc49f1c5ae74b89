"""ONNX files: read whole, stripped of what tells about the machine that made them, written the same way every time.

This file imports onnx lazily and never torch: exporters, transforms and inspection share it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.errors import RefusedError
from deploykit.foreign import brief

if TYPE_CHECKING:
    import onnx

EXTERNAL_OVER = 2_000_000_000
"""Bytes of weights above which they go into a file beside the model: protobuf ends at 2 GiB."""

_TENSOR_FROM = 1024
"""Smaller tensors stay inside the model even then: shape inference and fusions read their values."""

_ABOUT_THE_MAKER = ("doc_string", "metadata_props")
"""Fields with no meaning for the answer; the torch exporter keeps stack traces with absolute paths in them."""


def load(path: Path, *, external: bool = True) -> onnx.ModelProto:
    """The model at `path`.

    Args:
        path: the file.
        external: with its external data inside; without, its tensors only say where that is.

    Raises:
        RefusedError: the file is no ONNX model, or what belongs beside it is missing.
        OSError: it cannot be read.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=external)
    except (OSError, MemoryError):  # about the machine, not the file
        raise
    except Exception as error:  # protobuf's and onnx's errors share no base
        text = brief(str(error)) or type(error).__name__
        hint = "give a file that an ONNX exporter wrote"
        raise RefusedError(path.name, f"not an ONNX model: {text}", hint) from error
    if not model.graph.node and not model.graph.output:
        raise RefusedError(path.name, "an ONNX model without a graph", "export it again")
    return model


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operator set that `model` asks for; 0 when it names none."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)


def count(model: onnx.ModelProto, *op_types: str) -> int:
    """Nodes of the top graph that have one of `op_types`."""
    return sum(node.op_type in op_types for node in model.graph.node)


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the raw tensors of the top graph: what external data would hold."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def strip(message: Any) -> None:
    """Clear documentation and metadata everywhere below `message`: model, graphs, nodes, functions, values, tensors."""
    for field, value in message.ListFields():
        if field.name in _ABOUT_THE_MAKER:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in value if hasattr(value, "__len__") else (value,):
                strip(child)


def save(model: onnx.ModelProto, target: Path, external_over: int | None = None, *, keep_notes: bool = False) -> None:
    """Strip `model` and write it to `target`; equal models give equal bytes.

    Args:
        model: stripped in place, and emptied of large tensors where they go beside it.
        target: the file; more than `external_over` bytes of weights go to `<target>.data`, named relatively.
        external_over: bytes; None is `EXTERNAL_OVER`.
        keep_notes: leave documentation and metadata in.
    """
    if not keep_notes:
        strip(model)
    beside = target.with_name(target.name + ".data")
    # onnx appends to a data file that is there already
    beside.unlink(missing_ok=True)
    if weight_bytes(model) > (EXTERNAL_OVER if external_over is None else external_over):
        from onnx import external_data_helper as external

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            external.convert_model_to_external_data(model, location=beside.name, size_threshold=_TENSOR_FROM)
            external.write_external_data_tensors(model, str(target.parent))
    target.write_bytes(model.SerializeToString(deterministic=True))
