"""Which nodes cost how much precision: every quantized node switched on alone, in one graph with switches.

The float32 graph gets, beside every matrix product and convolution that the artifact quantizes, the artifact's own
weights and activation scales, and a boolean input that chooses between the two. One session then answers: nothing on
(the reference), everything on (the artifact), each node alone. Noises of single nodes add up in power to that of the
whole, so the share of a node says what keeping it in float would gain.
"""

from __future__ import annotations

import math
import re
import time

import numpy as np
import onnx

from deploykit.onnx_graph import Array
from deploykit.onnx_session import open_session, run
from deploykit.quantization.graph import COMPUTING, Graph
from deploykit.quantization.switches import with_switches
from deploykit.results import Ranked
from deploykit.signature import Feeds

MOST_DB = 200.0
"""Signal-to-noise ratios above this are told as this: nothing is lost there."""

_NUMBERED = re.compile(r"^(val_\d+|onnx::.*|_v_\d+)$")
"""Names that exporters give to constants without one."""

LEAST_SHARE = 1e-3
"""Of the noise that stays when a node is kept in float: with less the gain is not told, since the rest is rounding."""


def rank(base: Graph, artifact: Graph, feeds: Feeds, precision: str, seconds: float = 120.0) -> list[Ranked]:
    """The quantized nodes, the most expensive first.

    Args:
        base: the float32 graph as the converter saw it, names and all.
        artifact: the quantized graph.
        feeds: inputs of one case.
        precision: `fp16`, `int8-static`, `int8-dynamic`, …
        seconds: after which nodes that were not tried yet are left out.
    """
    switched = with_switches(base, artifact, precision)
    if not switched.nodes:
        return []
    outputs = [value.name for value in base.model.graph.output]
    values = [node.output[0] for node in switched.nodes]
    session = open_session(switched.model, "ORT_ENABLE_BASIC", 0)

    def answer(on: set[int], wanted: list[str]) -> Feeds:
        flags = {name: np.array(index in on) for index, name in enumerate(switched.switches)}
        return run(session, {**feeds, **flags}, wanted)

    every = list(dict.fromkeys([*outputs, *values]))
    exact = answer(set(), every)
    whole = answer(set(range(len(values))), every)
    total_weights = sum(_weights(base, node) for node in base.nodes if node.op_type in COMPUTING) or 1
    deadline = time.monotonic() + seconds
    found = []
    for index, node in enumerate(switched.nodes):
        if time.monotonic() > deadline:
            break
        alone = answer({index}, list(dict.fromkeys([*outputs, values[index]])))
        found.append((node, alone, _noise(exact, alone, outputs)))
    total = sum(noise for _, _, noise in found)
    ranked = [
        Ranked(
            node.name,
            _module(base, base.producer[node.output[0]]),
            _sqnr_db(exact[node.output[0]], alone[node.output[0]]),
            _sqnr_db(exact[node.output[0]], whole[node.output[0]]),
            noise,
            -10.0 * math.log10(max(1.0 - noise / total, LEAST_SHARE)) if total else 0.0,
            _weights(base, base.producer[node.output[0]]) / total_weights,
            (node.name, *(_makers(base, node.output[0]) if precision in {"fp16", "bf16"} else ())),
        )
        for node, alone, noise in found
    ]
    return sorted(ranked, key=lambda entry: -entry.noise)


def _weights(base: Graph, node: onnx.NodeProto) -> int:
    return sum(base.size(origin) for name in node.input[:2] if (origin := base.origin(name)))


def _makers(base: Graph, output: str) -> list[str]:
    """The nodes between the inputs of the node that makes `output` and the weighted ones before it, those included."""
    found: dict[str, None] = {}
    waiting = list(base.producer[output].input)
    while waiting:
        node = base.producer.get(waiting.pop())
        if node is None or node.name in found or base.origin(node.output[0]):
            continue
        found[node.name] = None
        if node.op_type not in COMPUTING:
            waiting += node.input
    return list(found)


def _module(base: Graph, node: onnx.NodeProto) -> str:
    """The name of the weight without what exporter and preparation made of it; the output's where it has none."""
    names = (base.origin(name) for name in node.input[:2])
    weight = next((name for name in names if name), "").removeprefix("ConvBnFusion_W_")
    return node.output[0] if not weight or _NUMBERED.match(weight) else weight.removesuffix(".weight")


def _noise(exact: Feeds, actual: Feeds, outputs: list[str]) -> float:
    """Mean over the float outputs of error power over variance across the batch; what the gate's SQNR is made of."""
    found = []
    for name in outputs:
        if exact[name].dtype.kind == "f":
            values = exact[name].astype(np.float64)
            centred = values - values.mean(axis=0, keepdims=True) if len(_rows(values)) > 1 else values
            signal = float(np.mean(centred**2)) or float(np.mean(values**2)) or 1.0
            found.append(float(np.mean((actual[name] - values) ** 2)) / signal)
    return float(np.mean(found)) if found else 0.0


def _rows(values: Array) -> Array:
    return values if values.ndim else values.reshape(1)


def _sqnr_db(exact: Array, actual: Array) -> float:
    values = exact.astype(np.float64)
    error = float(np.sum((actual - values) ** 2))
    return min(10.0 * math.log10(float(np.sum(values**2)) / error), MOST_DB) if error and values.any() else MOST_DB
