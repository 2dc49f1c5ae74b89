"""The quantized constants of an ONNX graph: integers with their scales, read from every form onnxruntime writes.

`DequantizeLinear` (QDQ), `MatMulInteger` and `ConvInteger` (dynamic), the `QLinear…` operators, `QGemm`, `MatMulNBits`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from deploykit.onnx_graph import Array, attribute, given
from deploykit.quantization.graph import Graph


@dataclass(frozen=True)
class Constant:
    """Integers that stand for floats: `(q - zero) * scale`.

    Attributes:
        name: of the initializer.
        q: the integers, in the layout of the operator that reads them.
        scale: one, one per index of `axis`, or one per block of `block` along `axis`; None where it is computed.
        zero: zero points, shaped like `scale`; None is 0.
        product: for biases, the scale that kernels assume: that of the input times that of the weight.
        bits: of packed unsigned integers; 0 where the type of `q` says it.
    """

    name: str
    q: Array
    scale: Array | None
    zero: Array | None = None
    axis: int = 0
    block: int = 0
    product: Array | None = None
    bits: int = 0

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest integer that it could hold."""
        if self.bits:
            return 0, (1 << self.bits) - 1
        info = np.iinfo(self.q.dtype)
        return int(info.min), int(info.max)

    @property
    def _dtype(self) -> type:
        """float32 where it is exact to 1e-5 steps, which halves the time; int32 needs more."""
        return np.float32 if self.q.dtype.itemsize == 1 else np.float64

    def step(self) -> Array:
        """The size of one step at every element, broadcastable to `q`."""
        return self._spread(np.asarray(self.scale, self._dtype))

    def dequantized(self) -> Array:
        """What the integers stand for: float32 for integers of up to 8 bits, else float64."""
        value: Array = self.q.astype(self._dtype)
        if self.zero is not None and self.zero.any():
            value -= self._spread(np.asarray(self.zero, self._dtype))
        value *= self.step()
        return value

    def _spread(self, values: Array) -> Array:
        if values.size == 1:
            return values.reshape(())
        axis = self.axis % self.q.ndim
        if self.block:
            return np.repeat(values, self.block, axis)[tuple(slice(size) for size in self.q.shape)]
        shape = [1] * self.q.ndim
        shape[axis] = -1
        return values.reshape(shape)


_PLACES = {
    "QLinearMatMul": (3, 4, 5, -1),
    "QLinearConv": (3, 4, 5, 0),
    "MatMulIntegerToFloat": (1, 3, 5, -1),
    "DynamicQuantizeMatMul": (1, 2, 3, -1),
    "QGemm": (3, 4, 5, -1),
}
"""Operator to the inputs that hold its weight, the weight's scale and zero point, and the axis of its channels."""

_BIASES = {"QLinearConv": (8, 1, 4), "QGemm": (6, 1, 4)}
"""Operator to the inputs that hold its int32 bias and the two scales whose product is the bias's."""

_INTEGERS = {"int8", "uint8", "int4", "uint4", "int2", "uint2", "int16", "uint16", "int32"}


def read(graph: Graph) -> list[Constant]:
    """Every quantized constant of `graph`, each once."""
    found: dict[str, Constant] = {}
    for node in graph.nodes:
        for constant in _of(graph, node):
            found.setdefault(constant.name, constant)
    return list(found.values())


def _of(graph: Graph, node: onnx.NodeProto) -> Iterator[Constant]:
    if node.op_type == "DequantizeLinear":
        yield from _dequantized(graph, node)
    elif node.op_type in {"MatMulInteger", "ConvInteger"}:
        yield from _integer(graph, node)
    elif node.op_type == "MatMulNBits":
        yield from _blocks(graph, node)
    elif node.op_type in _PLACES:
        weight, scale, zero, axis = _PLACES[node.op_type]
        if node.op_type == "QGemm" and attribute(node, "transB", 0):
            axis = 0
        yield from _constant(graph, given(node, weight), given(node, scale), given(node, zero), axis)
        yield from _bias(graph, node)


def _constant(
    graph: Graph, weight: str, scale: str, zero: str, axis: int, block: int = 0, product: Array | None = None
) -> Iterator[Constant]:
    if graph.kind(weight) in _INTEGERS:
        q = graph.known(weight)
        assert q is not None  # it has a kind, so it is there
        yield Constant(weight, q, graph.known(scale), graph.known(zero) if zero else None, axis, block, product)


def _dequantized(graph: Graph, node: onnx.NodeProto) -> Iterator[Constant]:
    product = None
    if graph.kind(node.input[0]) == "int32":
        product = _assumed(graph, node)
    yield from _constant(
        graph, node.input[0], node.input[1], given(node, 2), attribute(node, "axis", 1),
        attribute(node, "block_size", 0), product,
    )  # fmt: skip


def _assumed(graph: Graph, node: onnx.NodeProto) -> Array | None:
    """The scale of a QDQ bias that integer kernels assume; None where the reader's input or weight is in float."""
    for reader in graph.readers.get(node.output[0], []):
        if reader.op_type not in {"Conv", "ConvTranspose", "Gemm"} or given(reader, 2) != node.output[0]:
            continue
        scales = []
        for name in reader.input[:2]:
            source = graph.producer.get(name)
            known = graph.known(source.input[1]) if source and source.op_type == "DequantizeLinear" else None
            scales.append(known)
        if scales[0] is not None and scales[1] is not None:
            beta = float(attribute(reader, "beta", 1.0)) if reader.op_type == "Gemm" else 1.0
            found: Array = scales[0].astype(np.float64) * scales[1].astype(np.float64) * beta
            return found.reshape(-1)
    return None


def _integer(graph: Graph, node: onnx.NodeProto) -> Iterator[Constant]:
    """The scale stands beside the activation's, two or three nodes further on: cast, times (activation · weight)."""
    axis = -1 if node.op_type == "MatMulInteger" else 0
    scale = _scale_after(graph, node)
    for name, zero in ((given(node, 1), given(node, 3)), (given(node, 0), given(node, 2))):
        yield from _constant(graph, name, scale, zero, axis)


def _scale_after(graph: Graph, node: onnx.NodeProto) -> str:
    """The name of the constant factor in the product of scales that follows a `MatMulInteger`; empty where none is."""
    name = node.output[0]
    for _ in range(4):  # Cast, perhaps Add of an int32 bias, Mul
        following = graph.readers.get(name, [])
        if not following:
            return ""
        node = following[0]
        if node.op_type == "Mul":
            other = next((entry for entry in node.input if entry != name), "")
            scales = graph.producer.get(other)
            candidates = [*scales.input] if scales is not None else [other]
            return next((entry for entry in candidates if graph.kind(entry)), "")
        name = node.output[0]
    return ""


def _bias(graph: Graph, node: onnx.NodeProto) -> Iterator[Constant]:
    if node.op_type not in _BIASES:
        return
    place, first, second = _BIASES[node.op_type]
    left, right = graph.known(given(node, first)), graph.known(given(node, second))
    q = graph.known(given(node, place))
    if q is not None and left is not None and right is not None:
        yield Constant(given(node, place), q, left.astype(np.float64) * right.astype(np.float64))


def _blocks(graph: Graph, node: onnx.NodeProto) -> Iterator[Constant]:
    """`MatMulNBits`: [N, blocks, bytes], low bits first, a scale per block; given as the [K, N] it stands for.

    Layout: onnxruntime's docs/ContribOperators.md, com.microsoft.MatMulNBits.
    """
    rows, columns = attribute(node, "K", 0), attribute(node, "N", 0)
    bits, block = attribute(node, "bits", 4), attribute(node, "block_size", 32)
    packed, scale = graph.known(given(node, 1)), graph.known(given(node, 2))
    if packed is None or scale is None or bits not in (2, 4, 8) or len(given(node, 4)):
        return
    blocks = -(-rows // block)
    q = _unpacked(packed.reshape(columns, -1), bits)[:, : blocks * block][:, :rows]
    zero = np.full((columns, blocks), 1 << (bits - 1), np.float64)
    given_zero = graph.known(given(node, 3))
    if given_zero is not None and given_zero.dtype == np.uint8:
        zero = _unpacked(given_zero.reshape(columns, -1), bits)[:, :blocks].astype(np.float64)
    elif given_zero is not None:
        zero = given_zero.reshape(columns, blocks).astype(np.float64)
    yield Constant(given(node, 1), q.T, scale.reshape(columns, blocks).T, zero.T, 0, block, bits=bits)


def _unpacked(packed: Array, bits: int) -> Array:
    """uint8[n, bytes] as uint8[n, bytes · 8 / bits], low bits first."""
    if bits == 8:
        return packed
    parts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(len(packed), -1)
