"""The opset and IR versions that an ONNX model asks for, and the lowest that would do.

An engine refuses a file for the numbers in its head alone, whatever the graph needs. Exporters write the numbers that
are current when they are made: torch writes IR 10 for every opset, onnxruntime's tools import every operator set that
they know, the unused ones too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

STANDARD = ("", "ai.onnx")
"""Both names of the standard operator set."""

FLOOR = 8
"""IR version that everything since 2021 reads; nothing is lowered below it."""

TYPES = {
    "FLOAT8E4M3FN": 9, "FLOAT8E4M3FNUZ": 9, "FLOAT8E5M2": 9, "FLOAT8E5M2FNUZ": 9, "UINT4": 10, "INT4": 10,
    "FLOAT4E2M1": 11, "FLOAT8E8M0": 12, "UINT2": 13, "INT2": 13, "FLOAT6E2M3": 14, "FLOAT6E3M2": 14,
}  # fmt: skip
"""Element type to the IR version that brought it; from the comments on `Version` in onnx.proto."""

FIELDS = {"attribute_proto": 9, "overload": 10, "device_configurations": 11, "configuration": 11}
"""Field of any message to the IR version that brought it, from the same place; metadata does not count: it is
stripped."""

_TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype"}
"""Attributes of operators whose number is an element type."""


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operator set that the graph or a function of it asks for; 0 when none does."""
    imports = [*model.opset_import, *(entry for function in model.functions for entry in function.opset_import)]
    return max((int(entry.version) for entry in imports if entry.domain in STANDARD), default=0)


def needed_ir(model: onnx.ModelProto) -> int:
    """The oldest IR version that has everything the model uses, at least `FLOOR`."""
    from onnx import TensorProto

    numbers = dict(TensorProto.DataType.items())
    by_type = {numbers[name]: ir for name, ir in TYPES.items() if name in numbers}
    return max((by_type.get(number, ir) for number, ir in _uses(model)), default=FLOOR)


def lower(model: onnx.ModelProto, ir: int) -> None:
    """Lower the IR version to `ir` if nothing in the model needs a newer one, and drop operator sets nobody uses.

    Args:
        model: changed in place; its nodes are not.
        ir: highest IR version that is wanted.
    """
    model.ir_version = min(int(model.ir_version), max(ir, needed_ir(model)))
    used = {"", *_domains(model)}
    kept = [entry for entry in model.opset_import if entry.domain in used or entry.domain in STANDARD]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _domains(message: Any) -> Iterator[str]:
    """Domains of all nodes and functions below `message`."""
    for inner in _messages(message):
        if inner.DESCRIPTOR.name in {"NodeProto", "FunctionProto"}:
            yield inner.domain


def _uses(model: Any) -> Iterator[tuple[int, int]]:
    """Element types with the floor, and 0 with the IR version of a field, for everything in the model."""
    for inner in _messages(model):
        for field, _ in inner.ListFields():
            yield 0, FIELDS.get(field.name, FLOOR)
        name = inner.DESCRIPTOR.name
        if name == "TensorProto":
            yield inner.data_type, FLOOR
        elif name in {"Tensor", "SparseTensor"}:  # of TypeProto
            yield inner.elem_type, FLOOR
        elif name == "AttributeProto" and inner.name in _TYPE_ATTRIBUTES:
            yield inner.i, FLOOR


def _messages(message: Any) -> Iterator[Any]:
    """`message` and everything inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if hasattr(value, "__len__") else (value,):
                yield from _messages(child)
