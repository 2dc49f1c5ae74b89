"""What the transforms share: onnxruntime's tools called without their noise, in a folder beside the target."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit import onnx_file
from deploykit.errors import WorkError
from deploykit.onnx_graph import PREPROCESS
from deploykit.quiet import quiet

if TYPE_CHECKING:
    import onnx


def missing_package() -> str | None:
    """Which package the transforms lack, in one line; None when they have all."""
    missing = [name for name in ("onnx", "onnxruntime") if not find_spec(name)]
    return f"the package {missing[0]} is not installed" if missing else None


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """A folder beside `target` for intermediate files: same disk, and gone at the end.

    Meanwhile the tools' advice is silenced: they write it to the root logger.
    """
    with tempfile.TemporaryDirectory(prefix=".transform-", dir=target.parent) as folder, quiet():
        yield Path(folder)


def check_kept(variant: str, keep_float: tuple[str, ...], model: onnx.ModelProto) -> None:
    """Every node to keep in float must be there: a misspelled one would be quantized in silence.

    Raises:
        WorkError: UNKNOWN_NODE.
    """
    there = {node.name for node in model.graph.node}
    unknown = [name for name in keep_float if name not in there]
    if unknown:
        computing = [node.name for node in model.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
        hint = f"the nodes with weights are {', '.join(computing[:8])}{', …' if len(computing) > 8 else ''}"
        raise WorkError(variant, f"there is no node {unknown[0]} to keep in float", hint, "UNKNOWN_NODE")


def preprocessing(model: onnx.ModelProto) -> list[str]:
    """Nodes that turn raw images into the network's input: they stay in float in every precision."""
    return [node.name for node in model.graph.node if node.name.startswith(PREPROCESS)]


def check_full_precision(variant: str, model: onnx.ModelProto) -> None:
    """A graph that is in reduced precision already is not reduced once more: what it lost no transform gives back.

    Raises:
        WorkError: ALREADY_REDUCED.
    """
    from onnx import TensorProto

    quantized = onnx_file.count(model, *QUANTIZED)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    if quantized or (TensorProto.FLOAT16 in kinds and TensorProto.FLOAT not in kinds):
        message = f"the graph is quantized already, in {quantized} places" if quantized else "its weights are float16"
        raise WorkError(variant, message, "start from the float32 model that it was made from", "ALREADY_REDUCED")


QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger",
    "ConvInteger", "QGemm", "QAttention", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits",
)  # fmt: skip
"""Operators that compute with, or convert from and to, integers."""


def not_applied(variant: str, message: str) -> WorkError:
    """The error for a transform that found nothing to change: its variant would be a copy under another name."""
    return WorkError(variant, message, f"leave {variant} out of --variants", "VARIANT_NOT_APPLIED")
