"""A QDQ graph taken at its word, next to what onnxruntime makes of it.

With graph optimizations off every `QuantizeLinear` and `DequantizeLinear` really runs, in float. At the level that is
deployed they are fused into integer kernels, which round sums differently: here and there a value lies on the other
side of a rounding edge, one step away. A deep network amplifies such steps: on a ResNet-18 with random weights 36 % of
the last activations differ in the end, by up to 18 steps, and nothing is wrong. So each fused piece is judged alone,
on the integers of the literal run: healthy pieces then differ by one step, in up to 1 of 10,000 elements (measured on
a ResNet-18, a transformer, a small CNN and the seed model).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from deploykit.distances import rms
from deploykit.onnx_session import DEPLOYED, LITERAL, open_session, run
from deploykit.quantization.graph import Graph
from deploykit.results import Check
from deploykit.signature import Feeds

MAX_STEPS = 2
"""Steps that a fused piece may be away: one for the rounding of its sum, one for that of a fused activation."""

MAX_BORN = 0.1
"""Error of the last, unquantized piece relative to what quantization costs: healthy ones measure 1e-5 to 1e-4."""

MAX_WHOLE = 2.0
"""The same for the whole graph: two roundings as noisy as each other are 1.4 apart where nothing is left in common."""

_GIVEN = "__given"


@dataclass(frozen=True)
class Literal:
    """What a graph computes at its word: its outputs, and the integers inside, by the name of the quantized value."""

    outputs: Feeds
    integers: Feeds


def execute(graph: Graph, feeds: Feeds, threads: int = 0) -> Literal:
    """Run `graph` with optimizations off and keep every quantized activation.

    Without `QuantizeLinear` there is nothing that could be fused away, and it runs as it is deployed, which is faster.
    """
    names = _quantized(graph)
    outputs = [value.name for value in graph.model.graph.output]
    with _Changed(graph) as model:
        for name, kind in names.items():
            if name not in outputs:
                model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
        wanted = list(dict.fromkeys([*outputs, *names]))
        found = run(open_session(model, LITERAL if _has_qdq(graph) else DEPLOYED, threads), feeds, wanted)
    return Literal({name: found[name] for name in outputs}, {name: found[name] for name in names})


def check(graph: Graph, literal: Literal, feeds: Feeds, deployed: Feeds, exact: Feeds, threads: int = 0) -> list[Check]:
    """Hold the fused graph to the literal one.

    Args:
        graph: with QDQ nodes; one without has nothing to be fused, and gets no check.
        literal: its literal run on `feeds`.
        feeds: inputs of one case.
        deployed: what the session as deployed answered.
        exact: the float64 answer, which says what quantization costs.
        threads: of the session, 0 for all.
    """
    if not literal.integers or not _has_qdq(graph):
        return []
    pieces = _pieces(graph, literal, feeds, threads)
    checks = [_steps(graph, literal, pieces)]
    for name, answer in literal.outputs.items():
        if answer.dtype.kind != "f" or name not in exact:
            continue
        cost = rms(answer - exact[name], everything=True)
        for other, limit, text in (
            (pieces.get(name), MAX_BORN, "the last piece, fused, against its QDQ nodes, relative to what int8 costs"),
            (deployed.get(name), MAX_WHOLE, "the deployed graph against its QDQ nodes, relative to what int8 costs"),
        ):
            if other is not None and other.shape == answer.shape:
                checks.append(_ratio(name, rms(answer - other, everything=True), cost, limit, text))
    return checks


def _steps(graph: Graph, literal: Literal, pieces: Feeds) -> Check:
    worst, where, share = 0, "", 0.0
    for name, integers in literal.integers.items():
        away = np.abs(integers.astype(np.int64) - pieces[name].astype(np.int64))
        if away.size and int(away.max()) > worst:
            worst, where, share = int(away.max()), name, float(np.mean(away > 0))
    good = worst <= MAX_STEPS
    place = f" at {_readable(graph, where)}, {share:.2%} of its elements" if where else ""
    reason = f"{len(literal.integers)} quantized values, each fused piece alone against its QDQ nodes{place}"
    return _verdict("", good, "steps", float(worst), float(MAX_STEPS), reason)


def _ratio(output: str, away: float, cost: float, limit: float, reason: str) -> Check:
    value = away / cost if cost else (0.0 if away == 0.0 else np.inf)
    return _verdict(output, bool(value <= limit), "ratio", value, limit, reason)


def _verdict(output: str, good: bool, metric: str, value: float, limit: float, reason: str) -> Check:
    code = "" if good else "QDQ_MISMATCH"
    return Check("qdq", "graph", output, "pass" if good else "fail", code, metric, value, limit, reason)


def _readable(graph: Graph, name: str) -> str:
    """The float value behind a quantized one, with the operator that makes it."""
    value = graph.producer[name].input[0]
    maker = graph.producer.get(value)
    return f"{value} ({maker.op_type} {maker.name})" if maker is not None else value


def _pieces(graph: Graph, literal: Literal, feeds: Feeds, threads: int) -> Feeds:
    """Outputs and quantized values as deployed, every piece fed with the literal integers."""
    kinds = _quantized(graph)
    outputs = [value.name for value in graph.model.graph.output]
    with _Changed(graph) as model:
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name in kinds:
                    node.input[index] = name + _GIVEN
        for name, kind in kinds.items():
            shape = [None] * literal.integers[name].ndim
            model.graph.input.append(helper.make_tensor_value_info(name + _GIVEN, kind, shape))
            if name not in outputs:
                model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
        given = {name + _GIVEN: array for name, array in literal.integers.items()}
        return run(open_session(model, DEPLOYED, threads), {**feeds, **given}, list(dict.fromkeys([*outputs, *kinds])))


def _quantized(graph: Graph) -> dict[str, int]:
    """Quantized activations with their types."""
    found = {}
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear" and node.input[0] and not graph.kind(node.input[0]):
            zero = graph.kind(node.input[2]) if len(node.input) > 2 else "uint8"
            if zero in {"uint8", "int8", "uint16", "int16"}:
                found[node.output[0]] = TensorProto.DataType.Value(zero.upper())
        elif node.op_type == "DynamicQuantizeLinear":
            found.update(dict.fromkeys((node.output[0], node.output[2]), TensorProto.UINT8))
    return found


def _has_qdq(graph: Graph) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in graph.nodes)


class _Changed:
    """A model to change for a while: only inputs, outputs and the nodes are copied, since weights are large."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph.model.graph
        self._model = graph.model

    def __enter__(self) -> onnx.ModelProto:
        self._kept = onnx.GraphProto()
        for part in ("node", "input", "output"):
            getattr(self._kept, part).extend(getattr(self._graph, part))
        return self._model

    def __exit__(self, *_: object) -> None:
        for part in ("node", "input", "output"):
            self._graph.ClearField(part)
            getattr(self._graph, part).extend(getattr(self._kept, part))
