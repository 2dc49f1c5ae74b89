"""Would 16-bit sums of 8-bit products spoil a layer?

Without VNNI, onnxruntime multiplies u8 activations by s8 weights on x86 with `vpmaddubsw`, which adds pairs of
products in 16 bits and saturates: 255·127 + 255·127 is 64,770, and 32,767 comes out (onnxruntime's documentation of
quantization, "When and why do I need to try U8U8"). VNNI and ARM's dot products add in 32 bits. Only where the weights
keep to 7 bits (`reduce_range`) no pair can reach that far.

A saturated pair is harmless in a sum of many. So the layers are computed both ways, on activations of a real case, and
the difference is held against the layer's own output.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import onnx

from deploykit.onnx_graph import Array, attribute, given
from deploykit.quantization.graph import Graph
from deploykit.quantization.literal import Literal
from deploykit.results import Check

_HIGH, _LOW = 32_767, -32_768

_ROWS = 8
"""Rows, or places of a convolution, that are computed both ways."""


def check(graph: Graph, literal: Literal, harmful_db: float, flags: list[str], machine: str) -> list[Check]:
    """One check on the layer that loses most.

    Never a failure: where this CPU saturates, the values that verify compares have suffered from it already; where it
    does not, they say nothing about CPUs that do, and the warning says so.

    Args:
        graph: of int8 weights.
        literal: quantized activations of a real case.
        harmful_db: a layer that would be left with less is worth a warning: what the whole variant warns at.
        flags: of this CPU, as /proc/cpuinfo names them.
        machine: `x86_64`, `aarch64`, …
    """
    worst, where, largest = np.inf, "", 0
    layers = 0
    for name, rows, weight, zero in _products(graph, literal):
        layers += 1
        reach, loss = _both_ways(rows, weight, zero)
        largest = max(largest, reach)
        if loss < worst:
            worst, where = loss, name
    if not layers:
        return []
    if worst >= harmful_db:
        text = f"where pairs of products are added in 16 bits, the worst of {layers} layers keeps its precision"
        return [_check("pass", float(min(worst, 400.0)), harmful_db, text)]
    text = f"where pairs of products are added in 16 bits, {where} would be left with {worst:.1f} dB"
    text += f" (sums reach {largest:,}, {_HIGH:,} fit); {_here(flags, machine)}"
    return [_check("warn", float(worst), harmful_db, text)]


def _here(flags: list[str], machine: str) -> str:
    if machine.lower() in {"aarch64", "arm64"}:
        return "this ARM CPU adds in 32 bits, x86 without VNNI does not"
    if {"avx512_vnni", "avx_vnni"} & set(flags):
        return "this CPU adds in 32 bits (VNNI), older ones do not"
    return "this CPU has no VNNI: the values compared here suffer from it already"


def _check(verdict: str, value: float, limit: float, reason: str) -> Check:
    code = "SATURATION_RISK" if verdict == "warn" else ""
    return Check("saturation", "graph", "", verdict, code, "saturated_db", value, limit, reason, at_least=True)  # type: ignore[arg-type]


def _both_ways(rows: Array, weight: Array, zero: int) -> tuple[int, float]:
    """The largest pair sum in size, and the signal-to-noise ratio of the saturated product in dB.

    Args:
        rows: uint8[R, K].
        weight: int8[K, N].
        zero: zero point of the activations, whose share of the product is subtracted after it.
    """
    if len(weight) % 2:
        rows, weight = np.pad(rows, ((0, 0), (0, 1))), np.pad(weight, ((0, 1), (0, 0)))
    high = rows.max(axis=0, initial=0).astype(np.int32)
    upper = np.maximum(weight, 0) * high[:, None]
    lower = np.minimum(weight, 0) * high[:, None]
    pairs = upper[0::2] + upper[1::2], lower[0::2] + lower[1::2]
    at_risk = np.flatnonzero((pairs[0] > _HIGH).any(axis=0) | (pairs[1] < _LOW).any(axis=0))
    if not at_risk.size:
        return int(max(pairs[0].max(initial=0), -pairs[1].min(initial=0))), np.inf
    wide, chosen = rows.astype(np.int32), weight.astype(np.int32)
    exact = (rows.astype(np.float32) - zero) @ weight.astype(np.float32)
    lost, reach = np.zeros(exact.shape), 0
    for column in at_risk:
        products = wide * chosen[:, column]
        sums = products[:, 0::2] + products[:, 1::2]
        reach = max(reach, int(np.abs(sums).max(initial=0)))
        lost[:, column] = (sums - np.clip(sums, _LOW, _HIGH)).sum(axis=1)
    noise = float(np.linalg.norm(lost))
    return reach, np.inf if noise == 0.0 else 20.0 * float(np.log10(np.linalg.norm(exact) / noise))


def _products(graph: Graph, literal: Literal) -> Iterator[tuple[str, Array, Array, int]]:
    """Layers with u8 activations and s8 weights: name, uint8[R, K], int8[K, N], zero point of the activations."""
    for node in graph.nodes:
        if node.op_type not in {"Conv", "Gemm", "MatMul", "MatMulInteger"}:
            continue
        found = _operands(graph, literal, node)
        if found is None:
            continue
        activations, weight, zero = found
        laid = _patches(node, activations, weight, zero) if node.op_type == "Conv" else _flat(node, activations, weight)
        if laid is not None and laid[0].size:
            # what dynamic quantization makes of a Gemm has the Gemm's name in front
            yield node.name.removesuffix("_quant").removesuffix("_MatMul"), laid[0], laid[1], zero


def _operands(graph: Graph, literal: Literal, node: onnx.NodeProto) -> tuple[Array, Array, int] | None:
    if node.op_type == "MatMulInteger":
        activations, weight = literal.integers.get(node.input[0]), graph.known(node.input[1])
        known = literal.integers.get(given(node, 2))
    else:
        left, right = (graph.producer.get(name) for name in node.input[:2])
        if left is None or right is None or {left.op_type, right.op_type} != {"DequantizeLinear"}:
            return None
        activations, weight = literal.integers.get(left.input[0]), graph.known(right.input[0])
        known = graph.known(left.input[2]) if given(left, 2) else None
    zero = int(np.ravel(known)[0]) if known is not None else 0
    if activations is None or weight is None or activations.dtype != np.uint8 or weight.dtype != np.int8:
        return None
    return activations, weight, zero


def _flat(node: onnx.NodeProto, activations: Array, weight: Array) -> tuple[Array, Array] | None:
    if weight.ndim != 2 or attribute(node, "transA", 0):
        return None
    rows = activations.reshape(-1, activations.shape[-1])
    picks = np.linspace(0, max(len(rows) - 1, 0), min(_ROWS, len(rows))).astype(int)
    return rows[picks], weight.T if attribute(node, "transB", 0) else weight


def _patches(node: onnx.NodeProto, activations: Array, weight: Array, zero: int) -> tuple[Array, Array] | None:
    """Places of an ungrouped convolution as rows, channels last, as the kernels gather them."""
    dims = weight.ndim - 2
    if attribute(node, "group", 1) != 1 or attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    strides, dilations = attribute(node, "strides", [1] * dims), attribute(node, "dilations", [1] * dims)
    pads = attribute(node, "pads", [0] * (2 * dims))
    padded = np.pad(
        activations,
        [(0, 0), (0, 0), *((pads[i], pads[i + dims]) for i in range(dims))],
        constant_values=zero,
    )
    spans = [dilations[i] * (weight.shape[2 + i] - 1) + 1 for i in range(dims)]
    counts = [(padded.shape[2 + i] - spans[i]) // strides[i] + 1 for i in range(dims)]
    places = list(itertools.islice(_spread([len(padded), *counts]), _ROWS))
    rows = []
    for sample, *place in places:
        where = tuple(slice(place[i] * strides[i], place[i] * strides[i] + spans[i], dilations[i]) for i in range(dims))
        patch: Array = padded[sample][(slice(None), *where)]
        rows.append(np.moveaxis(patch, 0, -1).reshape(-1))
    if not rows:
        return None
    return np.stack(rows), np.moveaxis(weight, 1, -1).reshape(len(weight), -1).T


def _spread(sizes: list[int]) -> Iterator[tuple[int, ...]]:
    """Places all over a grid, the same ones every time."""
    random = np.random.default_rng(0)
    if min(sizes, default=0) > 0:
        while True:
            yield tuple(int(random.integers(size)) for size in sizes)
