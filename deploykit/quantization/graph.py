"""An ONNX graph that can be asked: which node makes a value, which nodes read it, and what a constant holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from deploykit import onnx_file
from deploykit.errors import RefusedError

Array = NDArray[Any]

COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose constants are the weights of a network: what a change of precision is about."""

_THROUGH = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
"""Operators between a constant and its reader that leave it the same weights."""


class Graph:
    """The top graph of a model; constants are decoded when they are asked for."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                if name:
                    self.readers.setdefault(name, []).append(node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        self._arrays: dict[str, Array] = {}

    @classmethod
    def load(cls, path: Path) -> Graph:
        """The graph of the file at `path`, external data inside.

        Raises:
            RefusedError: the file is no ONNX model.
        """
        try:
            return cls(onnx_file.load(path))
        except Exception as error:
            text = " ".join(str(error).split())
            raise RefusedError(path.name, f"not an ONNX model: {text}", "give an ONNX file") from error

    def constants(self) -> Iterator[tuple[str, str]]:
        """Names of all constants with their ONNX types in lower case, such as `float16`."""
        for name, tensor in self._constants.items():
            yield name, onnx.TensorProto.DataType.Name(tensor.data_type).lower()

    def kind(self, name: str) -> str:
        """The ONNX type of a constant in lower case; empty where `name` is none."""
        tensor = self._constants.get(name)
        return "" if tensor is None else onnx.TensorProto.DataType.Name(tensor.data_type).lower()

    def size(self, name: str) -> int:
        """Elements of the constant `name`."""
        return int(np.prod(self._constants[name].dims, dtype=np.int64))

    def array(self, name: str) -> Array | None:
        """What the constant `name` holds; 4-bit integers come as int8 or uint8. None where it is computed."""
        if name not in self._constants:
            return None
        if name not in self._arrays:
            found = numpy_helper.to_array(self._constants[name])
            if found.dtype.name in {"int4", "uint4", "int2", "uint2"}:
                found = found.astype(np.int8 if found.dtype.name.startswith("int") else np.uint8)
            self._arrays[name] = found
        return self._arrays[name]

    def origin(self, name: str) -> str:
        """The constant behind `name`, through casts, dequantization and changes of layout; empty where none is."""
        for _ in range(8):  # longer chains were not seen, and a cycle must end
            if name in self._constants:
                return name
            node = self.producer.get(name)
            if node is None or node.op_type not in {*_THROUGH, "DequantizeLinear"}:
                return ""
            name = node.input[0]
        return ""


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute of `node`."""
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def given(node: onnx.NodeProto, index: int) -> str:
    """The name of input `index`; empty where it was left out."""
    return node.input[index] if index < len(node.input) else ""
