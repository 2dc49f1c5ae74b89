"""Running an ONNX graph with its inner values in sight: one session for many values, in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from deploykit import onnx_session
from deploykit.localization.graph import Graph
from deploykit.onnx_session import LITERAL
from deploykit.signature import Feeds

CHUNK_BYTES = 512 << 20
"""Bytes of values that one session may give at once; with their references beside them that is a gigabyte."""


def run(model: onnx.ModelProto, feeds: Feeds, level: str = LITERAL, disabled: Sequence[str] = ()) -> Feeds:
    """The outputs of `model` on the CPU, by name.

    Args:
        model: any ONNX model.
        feeds: at least its inputs; others are left out.
        level: name of an onnxruntime GraphOptimizationLevel.
        disabled: optimizers not to use.

    Raises:
        WorkError: RUN_ERROR, onnxruntime refuses the model or fails on it.
    """
    return onnx_session.run(onnx_session.open_session(model, level, disabled=disabled), feeds)


def element_type(array: np.ndarray[Any, Any]) -> int:
    """The ONNX element type of an array."""
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def chunks(values: list[str], sizes: dict[str, int], bound: int = CHUNK_BYTES) -> Iterator[list[str]]:
    """`values` in groups of at most `bound` bytes, in order; a value that is larger has a group of its own."""
    group: list[str] = []
    total = 0
    for value in values:
        size = sizes.get(value, 0)
        if group and total + size > bound:
            yield group
            group, total = [], 0
        group.append(value)
        total += size
    if group:
        yield group


def free(graph: Graph, feeds: Feeds, values: list[str]) -> Feeds:
    """`values` as the literal graph computes them from `feeds`; values that are no tensors are left out."""
    given = {name: element_type(feeds[name]) for name in graph.inputs}
    model, shown = graph.cut(values, given)
    found = run(model, feeds)
    return {value: found[name] for value, name in shown.items() if isinstance(found[name], np.ndarray)}


def forced(graph: Graph, known: Feeds, values: list[str]) -> Feeds:
    """Each of `values` as the literal graph computes it when every other value in `known` is as given.

    Every part of the graph between known values works on the reference's inputs, whatever the parts before it did: an
    error in the result is born there.

    Args:
        graph: the candidate.
        known: graph inputs and reference values.
        values: names to compute.
    """
    given = {name: element_type(array) for name, array in known.items()}
    model, shown = graph.cut(values, given)
    found = run(model, known)
    return {value: found[name] for value, name in shown.items() if isinstance(found[name], np.ndarray)}
