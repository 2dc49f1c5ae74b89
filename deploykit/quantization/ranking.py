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
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploykit.quantization.constants import Constant, read
from deploykit.quantization.graph import COMPUTING, Array, Graph, attribute, given
from deploykit.quantization.literal import open_session
from deploykit.quantization.sources import bare_name
from deploykit.signature import Feeds

MOST_DB = 200.0
"""Signal-to-noise ratios above this are told as this: nothing is lost there."""

_NUMBERED = re.compile(r"^(val_\d+|onnx::.*|_v_\d+)$")
"""Names that exporters give to constants without one."""

LEAST_SHARE = 1e-3
"""Of the noise that stays when a node is kept in float: with less the gain is not told, since the rest is rounding."""


@dataclass(frozen=True)
class Ranked:
    """A quantized node, and what it costs.

    Attributes:
        node: name in the float32 graph, as `keep_float` takes it.
        module: the weight that it reads, without the ending `.weight`; the node's output where that has no name.
        local_db: SQNR of its output when it alone is quantized.
        cumulative_db: SQNR of its output when all are.
        noise: mean square of the model's output error when it alone is quantized, relative to the output's variance.
        gain_db: what the model's outputs gain when it alone stays in float, of the noise of all nodes.
        weights: share of all weights of matrix products and convolutions.
        keep: what has to stay in float for it: the node; in half precision also what makes its input, which would
            otherwise arrive rounded.
    """

    node: str
    module: str
    local_db: float
    cumulative_db: float
    noise: float
    gain_db: float
    weights: float
    keep: tuple[str, ...]


@dataclass
class _Switched:
    """The graph with switches: which node each belongs to, and what it reads."""

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    switches: list[str] = field(default_factory=list)


def rank(base: Graph, artifact: Graph, feeds: Feeds, precision: str, seconds: float = 120.0) -> list[Ranked]:
    """The quantized nodes, the most expensive first.

    Args:
        base: the float32 graph as the converter saw it, names and all.
        artifact: the quantized graph.
        feeds: inputs of one case.
        precision: `fp16`, `int8-static`, `int8-dynamic`, …
        seconds: after which nodes that were not tried yet are left out.
    """
    switched = _switched(base, artifact, precision)
    if not switched.nodes:
        return []
    outputs = [value.name for value in base.model.graph.output]
    values = [node.output[0] for node in switched.nodes]
    session = open_session(switched.model, "ORT_ENABLE_BASIC", 0)

    def answer(on: set[int], wanted: list[str]) -> Feeds:
        flags = {name: np.array(index in on) for index, name in enumerate(switched.switches)}
        return dict(zip(wanted, session.run(wanted, {**feeds, **flags}), strict=True))

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


def _switched(base: Graph, artifact: Graph, precision: str) -> _Switched:
    """`base` with a switch at every node whose weight or input is quantized in `artifact`."""
    model = onnx.ModelProto()
    model.CopyFrom(base.model)
    found = _Switched(model)
    rounding = _Rounding(artifact, precision, model)
    late: dict[str, str] = {}
    nodes = []
    for node in list(model.graph.node):
        if node.op_type not in COMPUTING or not rounding.touches(base, node):
            nodes.append(node)
            continue
        switch = f"switch__{len(found.switches)}"
        added: list[onnx.NodeProto] = []
        for index, name in enumerate(node.input[:2]):
            rounded = rounding.of(base, name, f"{switch}__{index}", added)
            if rounded:
                added.append(helper.make_node("Where", [switch, rounded, name], [f"{switch}__{index}__chosen"]))
                node.input[index] = added[-1].output[0]
        nodes += [*added, node]
        after = rounding.after(base, node.output[0], switch)
        if after:
            nodes += after
            late[node.output[0]] = after[-1].output[0]
        found.nodes.append(node)
        found.switches.append(switch)
        model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
    _reconnect(nodes, late)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    known = {value.name for value in model.graph.output}
    wanted = [node.output[0] for node in found.nodes if node.output[0] not in known]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted)
    return found


def _reconnect(nodes: list[onnx.NodeProto], late: dict[str, str]) -> None:
    """Let readers of an output read its switched form, but for the nodes that make that form."""
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in late and not node.name.startswith("switch__"):
                node.input[index] = late[name]


class _Rounding:
    """What the artifact does to a value or a weight of the float32 graph.

    Args:
        artifact: the quantized graph.
        precision: decides how activations are rounded.
        model: receives the constants.
    """

    def __init__(self, artifact: Graph, precision: str, model: onnx.ModelProto) -> None:
        self._artifact, self._precision, self._model = artifact, precision, model
        self._weights: dict[str, Constant] = {}
        for constant in read(artifact):
            if constant.scale is not None and constant.q.dtype != np.int32:
                self._weights[bare_name(constant.name)] = constant
        self._quantize = {node.input[0]: node for node in artifact.nodes if node.op_type == "QuantizeLinear"}
        self._made: set[str] = set()

    def touches(self, base: Graph, node: onnx.NodeProto) -> bool:
        """Whether the artifact computes `node` in reduced precision."""
        constants = [name for name in node.input[:2] if base.origin(name)]
        if constants:
            return any(self._weight(base, name) is not None for name in constants)
        return self._precision == "int8-static" and all(name in self._quantize for name in node.input[:2])

    def of(self, base: Graph, name: str, prefix: str, added: list[onnx.NodeProto]) -> str:
        """The name of the rounded form of `name`, whose nodes go to `added`; empty where it is not rounded."""
        if base.array(name) is not None:
            weight = self._weight(base, name)
            return "" if weight is None else self._constant(f"{prefix}__weight", weight)
        if base.origin(name):
            return ""
        rounded = f"{prefix}__rounded"
        if self._precision in {"fp16", "bf16"}:
            kind = TensorProto.FLOAT16 if self._precision == "fp16" else TensorProto.BFLOAT16
            added.append(helper.make_node("Cast", [name], [f"{rounded}16"], to=kind))
            added.append(helper.make_node("Cast", [f"{rounded}16"], [rounded], to=TensorProto.FLOAT))
        elif name in self._quantize:
            added += self._pair(self._quantize[name], name, rounded)
        elif self._precision == "int8-dynamic":
            parts = [f"{rounded}__q", f"{rounded}__scale", f"{rounded}__zero"]
            added.append(helper.make_node("DynamicQuantizeLinear", [name], parts))
            added.append(helper.make_node("DequantizeLinear", parts, [rounded]))
        else:
            return ""
        return rounded

    def after(self, base: Graph, name: str, switch: str) -> list[onnx.NodeProto]:
        """The nodes that round the output `name`, where no matrix product does that at its own input."""
        readers = base.readers.get(name, [])
        if name not in self._quantize or not readers or any(reader.op_type in COMPUTING for reader in readers):
            return []
        nodes = self._pair(self._quantize[name], name, f"{switch}__output__rounded")
        chosen = helper.make_node(
            "Where", [switch, f"{switch}__output__rounded", name], [f"{switch}__output"], name=f"{switch}__output"
        )
        for node in nodes:
            node.name = f"{switch}__{node.op_type}"  # their input stays the unrounded value
        return [*nodes, chosen]

    def _pair(self, node: onnx.NodeProto, name: str, rounded: str) -> list[onnx.NodeProto]:
        parameters = [
            self._constant(f"{name}__{what}", array)
            for what, place in (("scale", 1), ("zero", 2))
            if given(node, place) and (array := self._artifact.array(node.input[place])) is not None
        ]
        axis = attribute(node, "axis", 1)
        return [
            helper.make_node("QuantizeLinear", [name, *parameters], [f"{rounded}__q"], axis=axis),
            helper.make_node("DequantizeLinear", [f"{rounded}__q", *parameters], [rounded], axis=axis),
        ]

    def _constant(self, name: str, array: Array) -> str:
        if name not in self._made:
            self._made.add(name)
            self._model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _weight(self, base: Graph, name: str) -> Array | None:
        """The float32 values of the artifact's own form of a weight, laid out as in `base`; None where it has none."""
        own = base.array(name)
        if own is None or own.dtype != np.float32:
            return None
        if self._precision in {"fp16", "bf16"}:
            half = self._artifact.array(name) if self._artifact.kind(name) in {"float16", "bfloat16"} else None
            return None if half is None or half.shape != own.shape else np.asarray(half, np.float32)
        constant = self._weights.get(name)
        if constant is None:
            return None
        value = np.asarray(constant.dequantized(), np.float32)
        forms = [form for form in (value, value.T) if form.shape == own.shape]
        return min(forms, key=lambda form: float(np.mean(np.abs(form - own)))) if forms else None


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
