"""A float32 graph with a switch at every node that an artifact computes in reduced precision."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploykit.onnx_graph import Array, attribute, given
from deploykit.quantization.constants import Constant, read
from deploykit.quantization.graph import COMPUTING, Graph
from deploykit.quantization.sources import bare_name


@dataclass
class Switched:
    """The graph with switches.

    Attributes:
        model: the float32 model; what is rounded is chosen by boolean inputs.
        nodes: those that have a switch.
        switches: names of their inputs, in the same order.
    """

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    switches: list[str] = field(default_factory=list)


def with_switches(base: Graph, artifact: Graph, precision: str) -> Switched:
    """`base` with a switch at every node whose weight or input is quantized in `artifact`."""
    model = onnx.ModelProto()
    model.CopyFrom(base.model)
    found = Switched(model)
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
        if base.known(name) is not None:
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
            if given(node, place) and (array := self._artifact.known(node.input[place])) is not None
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
        own = base.known(name)
        if own is None or own.dtype != np.float32:
            return None
        if self._precision in {"fp16", "bf16"}:
            half = self._artifact.known(name) if self._artifact.kind(name) in {"float16", "bfloat16"} else None
            return None if half is None or half.shape != own.shape else np.asarray(half, np.float32)
        constant = self._weights.get(name)
        if constant is None:
            return None
        value = np.asarray(constant.dequantized(), np.float32)
        forms = [form for form in (value, value.T) if form.shape == own.shape]
        return min(forms, key=lambda form: float(np.mean(np.abs(form - own)))) if forms else None
