"""An ONNX graph by its values: who computes what from what, and any part of it as a model of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from deploykit import onnx_graph


class Graph(onnx_graph.Graph):
    """The top graph of an ONNX model, its nodes in topological order.

    Attributes:
        constants: names of initializers and of everything computed from them alone.
        values: names of all other values that nodes compute, in topological order.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        super().__init__(model, folder)
        self.constants = {*self.initializers, *self.sparse}
        self.nodes = _sorted(self.nodes, {*self.constants, *self.inputs})
        self._places = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.values: list[str] = []
        for node in self.nodes:
            fixed = all(name in self.constants for name in reads(node)) and node.op_type not in _RANDOM
            names = [name for name in node.output if name]
            if fixed:
                self.constants.update(names)
            else:
                self.values += names

    def region(self, values: Iterable[str], given: set[str]) -> list[int]:
        """Positions of the nodes that compute `values` when those of `given` are known, in topological order.

        The values themselves are computed even where they are in `given`.
        """
        found: set[int] = set()
        pending = [self._places[value] for value in values if value in self._places]
        while pending:
            index = pending.pop()
            if index in found:
                continue
            found.add(index)
            pending += [self._places[n] for n in reads(self.nodes[index]) if n in self._places and n not in given]
        return sorted(found)

    def taken(self, region: list[int], given: set[str]) -> list[str]:
        """What a region takes from outside: graph inputs and values of `given`, in the order of first use."""
        taken: dict[str, None] = {}
        inside = {name for index in region for name in self.nodes[index].output} - given
        for index in region:
            for name in reads(self.nodes[index]):
                if name in given or (name not in inside and name in self.inputs):
                    taken[name] = None
        return list(taken)

    def weights(self, region: list[int]) -> list[str]:
        """Names of the initializers that a region reads."""
        names = (name for index in region for name in reads(self.nodes[index]))
        return [name for name in dict.fromkeys(names) if name in self.initializers]

    def cut(self, values: list[str], given: dict[str, int]) -> tuple[onnx.ModelProto, dict[str, str]]:
        """A model that computes `values` from the values in `given` and from graph inputs.

        Args:
            values: names; a value of `given` among them is computed too, under a name of its own.
            given: name to ONNX element type, for every value that is fed, graph inputs included.

        Returns:
            The model, and the name under which it gives each of `values`.
        """
        known = set(given)
        region = self.region(values, known)
        shown = {value: f"{value}{_COMPUTED}" if value in known else value for value in values}
        renamed = {value: shown[value] for value in values if value in known}
        nodes = []
        for index in region:
            node = onnx.NodeProto()
            node.CopyFrom(self.nodes[index])
            for position, name in enumerate(node.output):
                if name in known:
                    node.output[position] = renamed.get(name, f"{name}{_COMPUTED}")
            nodes.append(node)
        inputs = [helper.make_tensor_value_info(name, given[name], None) for name in self.taken(region, known)]
        outputs = [self._output(value, shown[value]) for value in values]
        read = {name for index in region for name in reads(self.nodes[index])}
        stored = [tensor for name, tensor in self.initializers.items() if name in read]
        graph = helper.make_graph(nodes, "part", inputs, outputs, stored)
        graph.sparse_initializer.extend(tensor for name, tensor in self.sparse.items() if name in read)
        return self._model(graph), shown

    def _output(self, value: str, shown: str) -> onnx.ValueInfoProto:
        """Without a type: the runtime infers it, and a rewriter's own record of it may be wrong."""
        declared = next((entry for entry in self.model.graph.output if entry.name == value), None)
        if declared is None or shown != value:
            return onnx.ValueInfoProto(name=shown)
        return helper.make_tensor_value_info(shown, declared.type.tensor_type.elem_type, None)

    def _model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        model = helper.make_model(graph, opset_imports=list(self.model.opset_import), ir_version=self.model.ir_version)
        model.functions.extend(self.model.functions)
        return model


_COMPUTED = "//computed"
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node takes, those that its subgraphs take from outside among them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            yield from _captured(inner)


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        yield from (name for name in reads(node) if name not in own)
        own.update(node.output)
    yield from (value.name for value in graph.output if value.name not in own)


def _sorted(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """`nodes` in topological order; ONNX demands it and tools forget it. A cycle's nodes come last, as they are."""
    done, left = set(known), nodes
    found: list[Any] = []
    while left:
        later = []
        for node in left:
            if all(name in done for name in reads(node)):
                found.append(node)
                done.update(node.output)
            else:
                later.append(node)
        if len(later) == len(left):
            return found + left
        left = later
    return found
