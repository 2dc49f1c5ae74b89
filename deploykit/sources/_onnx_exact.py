"""An ONNX graph in float64, by onnx's own reference implementation: nothing of onnxruntime's takes part.

That is numpy, slow where an operator is a loop in Python; `_onnx_torch.py` computes those with torch. Every float is
float64: weights, constants, and what a Cast to a shorter float would round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deploykit.onnx_graph import Array, decoded
from deploykit.onnx_versions import STANDARD
from deploykit.signature import Feeds
from deploykit.sources import _onnx_torch
from deploykit.sources._onnx_file import OnnxFile

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

FIRST_S, ALL_S = 10.0, 300.0
"""CPU seconds of the calling thread (wall time would depend on who else computes) for the first answer and for all
together: there are some forty cases, each asked several times, and the whole capture has 900 seconds."""

_SHORT = {1: "FLOAT", 10: "FLOAT16", 16: "BFLOAT16"}
"""ONNX's numbers of the floats that are widened."""

_FORM = {"Shape", "Size"}
"""Operators that take of a tensor its form only: their results are no values of the network."""


class TooSlowError(RuntimeError):
    """The reference implementation needs longer than it has."""


class Clock:
    """What answers cost, the last one in float32 and all in float64; slots, since it is no state of the model."""

    __slots__ = ("answered", "narrow_s", "reason", "spent_s")

    def __init__(self) -> None:
        self.spent_s, self.answered, self.reason = 0.0, False, ""
        self.narrow_s = 0.0

    def check(self, since: float) -> None:
        """Raise TooSlowError where this answer, begun at `since`, or all together took too long."""
        now = time.thread_time() - since
        if now > FIRST_S and not self.answered:
            self.reason = f"onnx's reference implementation needs more than {FIRST_S:g} s for the example"
            raise TooSlowError(self.reason)
        if self.spent_s + now > ALL_S:
            raise TooSlowError(f"onnx's reference implementation had {ALL_S:g} s")


class Evaluator:
    """Runs the top graph node by node, and forgets each value after its last reader.

    Args:
        file: its weights are given to `run`, widened.
        input_names: in the order in which they are fed.
        output_names: in the order of the answer.

    Raises:
        Exception: onnx's reference implementation lacks an operator, or cannot read the graph.
    """

    def __init__(self, file: OnnxFile, input_names: tuple[str, ...], output_names: tuple[str, ...]) -> None:
        from onnx.reference import ReferenceEvaluator

        self._inputs, self._outputs = input_names, output_names
        model = _without_weights(file)
        _widen(model.graph)
        for function in model.functions:
            _widen(function)
        missing = [_older_dequantize()] if file.opset < _DEQUANTIZE_FROM else []
        self._nodes = ReferenceEvaluator(model, new_ops=missing).rt_nodes_
        kept = {tensor.name for tensor in file.graph.initializers.values()} - file.weights.keys()
        self._others = {name: decoded(file.graph.initializers[name], file.path.parent) for name in kept}
        self._last = _last_readers(model.graph.node, output_names)
        self._derived = _derived(model.graph.node, input_names)

    def run(
        self, feeds: Feeds, weights: Mapping[str, Array], clock: Clock, see: Callable[[str, Any], None] | None
    ) -> tuple[torch.Tensor, ...]:
        """The outputs, floats in float64.

        Args:
            feeds: inputs, floats in float64.
            weights: initializers, floats in float64.
            clock: is charged.
            see: is shown every float tensor that is derived from the inputs, with its place.

        Raises:
            TooSlowError: the clock ran out.
            Exception: whatever the reference implementation raises.
        """
        since = time.thread_time()
        values: dict[str, Any] = {"": None, **weights, **self._others, **feeds}
        followed: dict[str, torch.Tensor] = {}
        for index, runner in enumerate(self._nodes):
            clock.check(since)
            node = runner.onnx_node
            answers = self._one(runner, node, values, followed)
            for name, value in zip(node.output, answers, strict=False):
                values[name] = _wide(value)
                if see is not None and name in self._derived and _is_float(values[name]):
                    see(f"{node.name or name} ({node.op_type})", torch.from_numpy(np.array(values[name])))
            for name in self._last.get(index, ()):
                values.pop(name, None)
        clock.spent_s += time.thread_time() - since
        clock.answered = True
        return tuple(followed.get(name, torch.from_numpy(np.array(values[name]))) for name in self._outputs)

    def _one(self, runner: Any, node: NodeProto, values: dict[str, Any], followed: dict[str, torch.Tensor]) -> Any:
        given = [values[name] for name in node.input]
        if node.domain in STANDARD:
            tensors = _onnx_torch.follow(node, given, followed)
            if tensors is not None:
                followed.update(zip(node.output, tensors, strict=False))
                return [tensor.numpy() for tensor in tensors]
            operator = _onnx_torch.OPERATORS.get(node.op_type)
            if operator is not None and (found := operator(node, given)) is not None:
                return found
        if runner.need_context():
            return runner.run(*given, context=values)
        return runner.run(*given)


def _older_dequantize() -> Any:
    """DequantizeLinear of opsets 10 and 13: onnx's reference implementation begins at 19."""
    from onnx.reference.op_run import OpRun

    class DequantizeLinear(OpRun):  # type: ignore[misc]  # onnx's reference implementation has no types
        op_domain = ""

        def _run(self, x: Array, scale: Array, zero: Array | None = None, axis: int = 1, **_newer: Any) -> Any:
            wide = x.astype(np.float64)
            lead = [-1 if at == axis % max(1, x.ndim) else 1 for at in range(x.ndim)]
            shaped = [
                one.reshape(lead) if one.ndim == 1 and one.size > 1 else one for one in (scale, zero) if one is not None
            ]
            return ((wide - shaped[1] if len(shaped) > 1 else wide) * shaped[0],)

    return DequantizeLinear


_DEQUANTIZE_FROM = 19


def _without_weights(file: OnnxFile) -> ModelProto:
    """The same nodes; what `weights` and the caller give are no initializers any more."""
    from onnx import ModelProto

    model, own = ModelProto(), file.model
    model.ir_version = own.ir_version
    model.opset_import.extend(own.opset_import)
    model.functions.extend(own.functions)
    model.graph.name = own.graph.name
    model.graph.node.extend(own.graph.node)
    model.graph.input.extend(own.graph.input)
    model.graph.output.extend(own.graph.output)
    model.graph.sparse_initializer.extend(own.graph.sparse_initializer)
    return model


def _widen(graph: Any) -> None:
    """Make float64 of every constant and of every Cast to a shorter float, in subgraphs too."""
    from onnx import TensorProto, numpy_helper

    for tensor in getattr(graph, "initializer", ()):
        if tensor.data_type in _SHORT:
            tensor.CopyFrom(numpy_helper.from_array(decoded(tensor).astype(np.float64), tensor.name))
    for node in graph.node:
        for entry in node.attribute:
            if entry.name == "to" and node.op_type == "Cast" and entry.i in _SHORT:
                entry.i = TensorProto.DOUBLE
            if entry.HasField("t") and entry.t.data_type in _SHORT:
                entry.t.CopyFrom(numpy_helper.from_array(decoded(entry.t).astype(np.float64), entry.t.name))
            if entry.HasField("g"):
                _widen(entry.g)
            for inner in entry.graphs:
                _widen(inner)


def _last_readers(nodes: Any, outputs: tuple[str, ...]) -> dict[int, list[str]]:
    """By the place of a node the values that nobody reads after it; a subgraph may read any, so then none is."""
    nodes = list(nodes)
    if any(entry.HasField("g") or entry.graphs for node in nodes for entry in node.attribute):
        return {}
    last = {name: index for index, node in enumerate(nodes) for name in (*node.output, *node.input) if name}
    found: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in outputs:
            found.setdefault(index, []).append(name)
    return found


def _derived(nodes: Any, inputs: tuple[str, ...]) -> frozenset[str]:
    """The values that depend on what is fed, and not on its form alone."""
    found = set(inputs)
    for node in nodes:
        if node.op_type not in _FORM and not found.isdisjoint(node.input):
            found.update(name for name in node.output if name)
    return frozenset(found)


def _wide(value: Any) -> Any:
    """Floats as float64: a node may make a constant of its own, or be defined in float32."""
    if isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype.name == "bfloat16"):
        return value.astype(np.float64, copy=False)
    return value


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64
