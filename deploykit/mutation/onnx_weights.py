"""Where an ONNX graph keeps what a fault can go into: weights in the order of the layers, their biases and scales."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from deploykit import onnx_graph
from deploykit.mutation.faults import Array
from deploykit.onnx_graph import attribute, elements, given

if TYPE_CHECKING:
    from onnx import NodeProto

FLOATS = frozenset(onnx.TensorProto.DataType.Value(name) for name in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"))
BYTES = frozenset(onnx.TensorProto.DataType.Value(name) for name in ("INT8", "UINT8"))

MAX_ELEMENTS = 1 << 28
"""Larger tensors are left alone: a changed one is written inside the model file, which protobuf ends at 2 GiB."""

_WEIGHT_INPUTS: dict[str, tuple[tuple[int, int], ...]] = {
    "Conv": ((1, 0),), "ConvInteger": ((1, 0),), "QLinearConv": ((3, 0),), "ConvTranspose": ((1, 1),),
    "Gemm": ((1, 1),), "MatMul": ((1, -1), (0, -2)), "MatMulInteger": ((1, -1),), "QLinearMatMul": ((3, -1),),
    "MatMulNBits": ((1, 0),), "Gather": ((0, -1),), "LSTM": ((1, 1), (2, 1)), "GRU": ((1, 1), (2, 1)),
}  # fmt: skip
"""Operator to the inputs that can be weights, each with the axis of its output channels."""

_BIAS_INPUT = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
_SEE_THROUGH = {"Identity", "Cast", "Transpose", "DequantizeLinear"}
_TO_BIAS = {"Cast", "Mul", "Add", "Identity"}


@dataclass(frozen=True)
class Weight:
    """A constant of two dims or more that a layer multiplies with.

    Attributes:
        name: of the tensor.
        axis: of the output channels in the stored tensor.
        value: what the layer computes.
        bias: tensor added to the layer's channels; empty when there is none.
        scale: tensor of its dequantization; empty when it is not quantized.
    """

    name: str
    axis: int
    value: str
    bias: str = ""
    scale: str = ""


class Graph(onnx_graph.Graph):
    """The top graph of a model; its nodes are in execution order, which is the order of the layers."""

    def put(self, name: str, array: Array) -> None:
        """Replace the constant `name`; its bytes are inside the model then."""
        tensor = self.tensors[name]
        made = numpy_helper.from_array(np.ascontiguousarray(array), tensor.name)
        made.data_type = tensor.data_type
        tensor.CopyFrom(made)

    def constant(self, name: str) -> str:
        """The tensor behind `name`, seen through casts, transpositions and dequantization; empty when computed."""
        return self._trace(name)[0]

    @cached_property
    def weights(self) -> list[Weight]:
        """Every weight once, early layers first."""
        found: dict[str, Weight] = {}
        for node in self.nodes:
            for index, axis in _WEIGHT_INPUTS.get(node.op_type, ()):
                weight = self._weight(node, index, axis)
                if weight is not None:
                    found.setdefault(weight.name, weight)
        return list(found.values())

    def _weight(self, node: NodeProto, index: int, axis: int) -> Weight | None:
        name, turned, scale = self._trace(given(node, index))
        tensor = self.tensors.get(name)
        if tensor is None or len(tensor.dims) < 2 or tensor.data_type not in FLOATS | BYTES:
            return None
        if not 0 < elements(tensor) <= MAX_ELEMENTS:
            return None
        if node.op_type == "Gemm" and attribute(node, "transB"):
            axis = 0
        axis = axis % len(tensor.dims)
        if turned:
            axis = len(tensor.dims) - 1 - axis
        return Weight(name, axis, node.output[0], self._bias(node, tensor.dims[axis]), scale or self._scale_of(node))

    def _trace(self, name: str) -> tuple[str, bool, str]:
        """Tensor name, whether its axes are reversed on the way, and the scale that dequantizes it."""
        constant, between = self.way(name, _SEE_THROUGH)
        turns = sum(node.op_type == "Transpose" for node in between)
        dequantizing = (node.input[1] for node in between if node.op_type == "DequantizeLinear")
        scales = [scale for scale in dequantizing if scale in self.tensors]
        return constant, turns % 2 == 1, scales[-1] if scales else ""

    def _bias(self, node: NodeProto, channels: int) -> str:
        """The bias of a layer: its own input, or what is added to its channels a step or three later."""
        index = _BIAS_INPUT.get(node.op_type)
        if index is not None and given(node, index):
            return self._fits(node.input[index], channels)
        value = node.output[0]
        for _ in range(4):
            users = self.readers.get(value, [])
            if len(users) != 1 or users[0].op_type not in _TO_BIAS:
                break
            if users[0].op_type == "Add":
                return next((found for n in users[0].input if (found := self._fits(n, channels))), "")
            value = users[0].output[0]
        return ""

    def _fits(self, name: str, channels: int) -> str:
        found = self.constant(name)
        return found if found and list(self.tensors[found].dims) == [channels] else ""

    def _scale_of(self, node: NodeProto) -> str:
        """The weight's scale where no DequantizeLinear stands: in a Mul with the scale of the activations."""
        if node.op_type == "MatMulNBits":
            return str(node.input[2])
        if node.op_type == "QLinearConv":
            return str(node.input[4])
        if node.op_type not in {"MatMulInteger", "ConvInteger"}:
            return ""
        source = self.producer.get(node.input[0])
        if source is None or source.op_type != "DynamicQuantizeLinear":
            return ""
        products = [user for user in self.readers.get(source.output[1], []) if user.op_type == "Mul"]
        used = {name for user in products for name in user.input if name in self.tensors}
        stem = node.input[1].removesuffix("_quantized")
        named = [name for name in sorted(used) if name.startswith(stem)]
        return named[0] if named else next(iter(sorted(used)), "")


def scalars(graph: Graph, limit: float) -> Iterator[tuple[str, float]]:
    """Float constants of one element with 0 < |c| ≤ `limit` that some node reads, in the order of their use."""
    seen = set()
    for node in graph.nodes:
        for name in node.input:
            tensor = graph.tensors.get(name)
            if tensor is None or name in seen or tensor.data_type not in FLOATS or any(d != 1 for d in tensor.dims):
                continue
            seen.add(name)
            value = float(graph.array(name).reshape(-1)[0])
            if 0.0 < abs(value) <= limit:
                yield name, value
