"""Faults of an ONNX graph's structure: a node, an attribute or a small constant that an exporter could get wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from deploykit.mutation import faults
from deploykit.mutation.faults import Site
from deploykit.mutation.onnx_weights import Graph, scalars
from deploykit.onnx_graph import attribute

SMALL = 1e-4
"""Constants up to this size are what an exporter's tolerance can swallow."""

EPSILON_UP_TO = 1e-3
_ACTIVATIONS = {
    "Relu", "Gelu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish",
    "Tanh", "Softplus", "Mish", "Erf", "FastGelu", "QuickGelu", "BiasGelu",
}  # fmt: skip
_NORMS = {
    "BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
}  # fmt: skip


def _node(graph: Graph, value: str) -> onnx.NodeProto:
    return graph.producer[value]


def _activations(graph: Graph) -> list[str]:
    return [node.output[0] for node in graph.nodes if node.op_type in _ACTIVATIONS]


def _without_activation(graph: Graph, site: Site) -> None:
    """The node passes its input on."""
    node = _node(graph, site.place)
    _pass_on(node, node.input[0])


def _pass_on(node: onnx.NodeProto, value: str) -> None:
    node.op_type, node.domain = "Identity", ""
    del node.input[:], node.attribute[:]
    node.input.append(value)


def _biased(graph: Graph) -> list[str]:
    """Layers with a bias that is not zero."""
    return [w.value for w in graph.weights if w.bias and np.any(graph.array(w.bias))]


def _without_bias(graph: Graph, site: Site) -> None:
    """The bias is zero: the same as not being there, whichever operator adds it."""
    weight = next(weight for weight in graph.weights if weight.value == site.place)
    graph.put(weight.bias, np.zeros_like(graph.array(weight.bias)))


def _epsilons(graph: Graph) -> list[str]:
    """Normalizations, and sums with a tiny constant, by what they compute."""
    tiny = dict(scalars(graph, EPSILON_UP_TO))
    return [
        node.output[0]
        for node in graph.nodes
        if node.op_type in _NORMS or (node.op_type == "Add" and any(name in tiny for name in node.input))
    ]


def _other_epsilon(graph: Graph, site: Site) -> None:
    node = _node(graph, site.place)
    if node.op_type in _NORMS:
        value = attribute(node, "epsilon") or 1e-5  # the operators' own default
        kept = [entry for entry in node.attribute if entry.name != "epsilon"]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("epsilon", value * 1e3)])
        return
    tiny = dict(scalars(graph, EPSILON_UP_TO))
    name = next(name for name in node.input if name in tiny)
    array = graph.array(name)
    graph.put(name, (array.astype(np.float64) * 1e3).astype(array.dtype))


def _constants(graph: Graph) -> list[str]:
    return [name for name, _ in scalars(graph, SMALL)]


def _without_constant(graph: Graph, site: Site) -> None:
    graph.put(site.place, np.zeros_like(graph.array(site.place)))


def _output_pairs(graph: Graph) -> list[str]:
    """The first of two outputs that nobody could tell apart by dtype and shape."""
    found = []
    for index, first in enumerate(graph.model.graph.output):
        for second in graph.model.graph.output[index + 1 :]:
            computed = first.name in graph.producer and second.name in graph.producer
            if computed and first.type == second.type and first.type.tensor_type.HasField("shape"):
                found.append(f"{first.name} <-> {second.name}")
    return found


def _swapped_outputs(graph: Graph, site: Site) -> None:
    """Each of the two names means the other value from now on."""
    first, second = site.place.split(" <-> ")
    names = {first: second, second: first}
    for node in graph.nodes:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = names.get(name, name)


def _dims(graph: Graph) -> list[str]:
    """Reshapes whose leading size is left open, else the inputs with a symbolic leading dim; none in a static model."""
    inputs = [value for value in graph.model.graph.input if _symbolic(value)]
    if not inputs:
        return []
    open_ones = []
    for node in graph.nodes:
        shape = graph.tensors.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and shape.data_type == onnx.TensorProto.INT64:
            sizes = graph.array(node.input[1])
            if sizes.ndim == 1 and sizes.size and sizes[0] in {-1, 0}:
                open_ones.append(node.output[0])
    return open_ones or [value.name for value in inputs]


def _symbolic(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return bool(dims) and dims[0].HasField("dim_param")


def _fixed_dim(graph: Graph, site: Site) -> None:
    """The batch is a number: in the shape of a Reshape, as a tracer bakes it, or in the input's type."""
    rows = int(site.amount or 2)
    node = graph.producer.get(site.place)
    if node is None:
        value = next(value for value in graph.model.graph.input if value.name == site.place)
        value.type.tensor_type.shape.dim[0].dim_value = rows
        return
    sizes = graph.array(node.input[1]).copy()
    sizes[0] = rows
    _own_constant(graph, node, 1, sizes)


def _own_constant(graph: Graph, node: onnx.NodeProto, index: int, array: np.ndarray) -> None:
    """Give input `index` of `node` a constant of its own: others that read the same one keep theirs."""
    name = f"{node.input[index]}.mutant"
    made = numpy_helper.from_array(array, name)
    made.data_type = graph.tensors[node.input[index]].data_type
    graph.model.graph.initializer.append(made)
    node.input[index] = name


def _zero_points(graph: Graph) -> list[str]:
    """Values dequantized with a zero point, activations first, and integer products with one for the weight."""
    activations: list[str] = []
    weights: list[str] = []
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and len(node.input) > 2 and node.input[2] in graph.tensors:
            is_bias = graph.tensors[node.input[2]].data_type == onnx.TensorProto.INT32
            if not is_bias:
                (weights if graph.constant(node.input[0]) else activations).append(node.output[0])
        if node.op_type in {"MatMulInteger", "ConvInteger"} and len(node.input) > 3 and node.input[3] in graph.tensors:
            weights.append(node.output[0])
    return activations or weights


def _moved_zero_point(graph: Graph, site: Site) -> None:
    node = _node(graph, site.place)
    index = 2 if node.op_type == "DequantizeLinear" else 3
    before = graph.array(node.input[index])
    limits = np.iinfo(before.dtype)
    moved = np.where(before < limits.max, before.astype(np.int64) + 1, before.astype(np.int64) - 1)
    _own_constant(graph, node, index, moved.astype(before.dtype))


PLACES: dict[str, Callable[[Graph], list[str]]] = {
    faults.ACTIVATION: _activations,
    faults.UNBIASED: _biased,
    faults.EPSILON: _epsilons,
    faults.CONSTANT: _constants,
    faults.OUTPUTS: _output_pairs,
    faults.DIM: _dims,
    faults.ZERO_POINT: _zero_points,
}
"""Fault of the structure to the places where it can go."""

REWRITES: dict[str, Callable[[Graph, Site], None]] = {
    faults.ACTIVATION: _without_activation,
    faults.UNBIASED: _without_bias,
    faults.EPSILON: _other_epsilon,
    faults.CONSTANT: _without_constant,
    faults.OUTPUTS: _swapped_outputs,
    faults.DIM: _fixed_dim,
    faults.ZERO_POINT: _moved_zero_point,
}
"""The same faults to what makes them."""
