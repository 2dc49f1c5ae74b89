"""The graph of an artifact with its quantized constants in sight: what they hold, and which values come from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from deploykit import onnx_graph
from deploykit.onnx_graph import Array, type_name

COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose constants are the weights of a network: what a change of precision is about."""

_THROUGH = {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear"}
"""Operators between a constant and its reader that leave it the same weights."""


class Graph(onnx_graph.Graph):
    """The top graph of a model; what a constant holds is kept, since several checks ask for it."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        super().__init__(model, folder)
        self._known: dict[str, Array] = {}

    def constants(self) -> Iterator[tuple[str, str]]:
        """Names of all constants with their ONNX types in lower case, such as `float16`."""
        for name, tensor in self.tensors.items():
            yield name, type_name(tensor.data_type)

    def known(self, name: str) -> Array | None:
        """What the constant `name` holds; 4-bit integers come as int8 or uint8. None where it is computed."""
        if name not in self.tensors:
            return None
        if name not in self._known:
            found = self.array(name)
            if found.dtype.name in {"int4", "uint4", "int2", "uint2"}:
                found = found.astype(np.int8 if found.dtype.name.startswith("int") else np.uint8)
            self._known[name] = found
        return self._known[name]

    def origin(self, name: str) -> str:
        """The constant behind `name`, through casts, dequantization and changes of layout; empty where none is."""
        return self.way(name, _THROUGH)[0]
