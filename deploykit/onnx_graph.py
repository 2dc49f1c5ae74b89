"""The top graph of an ONNX model, to be asked: which node makes a value, which nodes read it, what a constant holds.

Verbs that look for more derive from it. This file imports onnx lazily, as `onnx_file.py` does.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from deploykit import onnx_file

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Array = NDArray[Any]

PREPROCESS = "preprocess/"
"""How names of nodes begin that turn raw images into what the network sees."""

_LONGEST = 8
"""Nodes between a constant and its reader that are looked through: longer chains were not seen, a cycle must end."""


class Graph:
    """The top graph of a model. Constants are decoded when they are asked for.

    Attributes:
        model: changes to its nodes and tensors in place are seen here, added ones are not.
        folder: where the external data lies that `model` was read without; None where it is inside.
        nodes: of the top graph, in the file's order.
        initializers: dense ones, by name.
        sparse: sparse ones, by name.
        inputs: names of the graph's inputs that are no initializers, in order: what has to be fed.
        outputs: names of its outputs, in order.
    """

    def __init__(self, model: ModelProto, folder: Path | None = None) -> None:
        self.model, self.folder = model, folder
        graph = model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.initializers: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
        stored = self.initializers.keys() | self.sparse.keys()
        self.inputs: list[str] = [value.name for value in graph.input if value.name not in stored]
        self.outputs: list[str] = [value.name for value in graph.output]

    @classmethod
    def load(cls, path: Path, *, external: bool = True) -> Self:
        """The graph of the file at `path`.

        Args:
            path: the file.
            external: read external data into the model; else a constant's is read when it is asked for.

        Raises:
            RefusedError: the file is no ONNX model.
            OSError: it cannot be read.
        """
        return cls(onnx_file.load(path, external=external), None if external else path.parent)

    @cached_property
    def tensors(self) -> dict[str, TensorProto]:
        """Constants by name: initializers, and the values of Constant nodes."""
        found = dict(self.initializers)
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                found[node.output[0]] = node.attribute[0].t
        return found

    @cached_property
    def producer(self) -> dict[str, NodeProto]:
        """The node that computes a value."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[NodeProto]]:
        """The nodes that read a value, each once, in the graph's order."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    found.setdefault(name, []).append(node)
        return found

    def array(self, name: str) -> Array:
        """What the constant `name` holds, in the dtype that onnx decodes it to; KeyError where it is computed."""
        return decoded(self.tensors[name], self.folder)

    def kind(self, name: str) -> str:
        """The ONNX type of a constant in lower case, such as `float16`; empty where `name` is none."""
        tensor = self.tensors.get(name)
        return "" if tensor is None else type_name(tensor.data_type)

    def size(self, name: str) -> int:
        """Elements of the constant `name`."""
        return elements(self.tensors[name])

    def way(self, name: str, through: Collection[str]) -> tuple[str, list[NodeProto]]:
        """The constant behind `name`, and the nodes between, the constant's reader last.

        Args:
            name: of a value.
            through: operators to look through, along their first input.

        Returns:
            The constant's name, empty where something else stands between or the value is computed.
        """
        between: list[NodeProto] = []
        for _ in range(_LONGEST):
            if name in self.tensors:
                return name, between
            node = self.producer.get(name)
            if node is None or node.op_type not in through:
                break
            between.append(node)
            name = node.input[0]
        return "", []


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute of `node`, `default` where it is not given."""
    from onnx import helper

    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def given(node: NodeProto, index: int) -> str:
    """The name of input `index`; empty where it was left out."""
    return node.input[index] if index < len(node.input) else ""


def decoded(tensor: TensorProto, folder: Path | None = None) -> Array:
    """What `tensor` holds; its external data, where it has any, lies in `folder`."""
    from onnx import numpy_helper

    found: Array = numpy_helper.to_array(tensor, base_dir=str(folder or ""))
    return found


def elements(tensor: TensorProto) -> int:
    """How many elements `tensor` has."""
    return int(np.prod(tensor.dims, dtype=np.int64))


def type_name(data_type: int) -> str:
    """ONNX's own name of an element type, in lower case: `float`, `float16`, `int8`."""
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(data_type).lower())
