"""Step: read an artifact without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from deploykit.distances import unequal
from deploykit.onnx_graph import Graph, elements, type_name
from deploykit.reference import load_arrays

MAX_NAMED = 5
"""Differing weights worth naming; the first is enough to start looking."""


def onnx_summary(artifact: str) -> dict[str, Any]:
    """Inputs, outputs, opset, IR version, node counts and precisions of an ONNX file.

    Raises:
        RefusedError: the file is no ONNX model.
    """
    model = _graph(artifact).model
    operators: dict[str, int] = {}
    for node in model.graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    kinds: dict[str, int] = {}
    for tensor in model.graph.initializer:
        name = type_name(tensor.data_type)
        kinds[name] = kinds.get(name, 0) + elements(tensor)
    return {
        "inputs": [_describe(value) for value in model.graph.input],
        "outputs": [_describe(value) for value in model.graph.output],
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "operators": dict(sorted(operators.items())),
        "elements_by_type": dict(sorted(kinds.items())),
    }


def onnx_names(artifact: str) -> dict[str, list[str]]:
    """Names of the `inputs` that have to be fed and of the `outputs`, in the file's order."""
    graph = _graph(artifact)
    return {"inputs": graph.inputs, "outputs": graph.outputs}


def weights(artifact: str, weights: str) -> list[str]:
    """Initializers that carry a parameter's name and not its values, in words: the first place to look.

    The dynamo exporter keeps parameter names, so a weight that was edited is found by name. Tensors that differ in
    most elements are left out: folding a batch-norm changes all of a convolution's, and rightly so.
    """
    stored, graph = load_arrays(Path(weights)), _graph(artifact)
    found = []
    for name in graph.initializers:
        expected = stored.get(name)
        if expected is None:
            continue
        actual = graph.array(name)
        if actual.shape != expected.shape or actual.dtype != expected.dtype:
            continue  # folded or laid out anew: no claim can be made
        wrong = unequal(expected, actual)
        count = int(np.count_nonzero(wrong))
        if 0 < count <= wrong.size // 2:  # more is a batch-norm folded in, or a scale
            index = [int(i) for i in np.argwhere(wrong)[0]]
            place = f"{expected[tuple(index)]:.6g} in the source, {actual[tuple(index)]:.6g} here"
            found.append(f"weight {name}{index} is not the source's ({place}; {count} of {wrong.size} differ)")
    return found[:MAX_NAMED]


def duplicates(artifact: str) -> dict[str, Any]:
    """Initializers of 1 KiB and more with the bytes of an earlier one: `count`, `bytes`, and the `first` pair."""
    from hashlib import sha256

    seen: dict[tuple[Any, ...], str] = {}
    count, size, first = 0, 0, ""
    graph = _graph(artifact)
    for name in graph.initializers:
        array = graph.array(name)
        if array.nbytes < 1024:
            continue
        # an embedding tied to a projection may come out transposed
        ways = {sha256(np.ascontiguousarray(way).data).digest() for way in (array, array.T)}
        key = (array.dtype.str, tuple(sorted(array.shape)), min(ways))
        if key in seen:
            count, size = count + 1, size + array.nbytes
            first = first or f"{seen[key]} and {name}"
        seen.setdefault(key, name)
    return {"count": count, "bytes": size, "first": first}


def _graph(artifact: str) -> Graph:
    return Graph.load(Path(artifact), external=False)


def _describe(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = [dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim]
    kind = type_name(tensor.elem_type)
    return f"{value.name}:{_NUMPY_NAMES.get(kind, kind)}[{','.join(dims)}]"


_NUMPY_NAMES = {"float": "float32", "double": "float64"}
