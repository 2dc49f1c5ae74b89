"""What about a bad node is visibly different: weights against the source's, attributes against a sound graph's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from deploykit.distances import unequal
from deploykit.localization.graph import Graph
from deploykit.onnx_graph import decoded
from deploykit.signature import Feeds

_SHOWN = 3
"""Differences worth naming."""


def weights(graph: Graph, region: list[int], source: Feeds, parameters: tuple[str, ...]) -> dict[str, str]:
    """Initializers of a region that are not the source's, each with the difference in words.

    Args:
        graph: the candidate.
        region: positions of the nodes in question.
        source: the model's weights by name.
        parameters: names of those that the region's line of code takes. Others make no claim: converters fold a
            batch-norm's numbers into the weights before it and leave them their name.
    """
    found = {}
    for name in graph.weights(region):
        if text := _differs(name, graph.array(name), source, parameters):
            found[name] = text
    return found


def _differs(name: str, actual: Any, source: Feeds, parameters: tuple[str, ...]) -> str:
    if name in source:
        return _counted(name, source[name], actual, "the source") if name in parameters else ""
    texts = []
    for parameter in parameters:
        expected = source.get(parameter)
        if expected is None or expected.ndim != 2 or actual.dtype != expected.dtype:
            continue
        both = (turned for turned in (expected, expected.T) if turned.shape == actual.shape)
        texts += [_counted(parameter, turned, actual, "the source") for turned in both]
    # a square matrix fits both ways round: the way without a difference, else the one with fewer
    return min(texts, key=lambda text: (bool(text), len(text)), default="")


def _counted(name: str, expected: Any, actual: Any, origin: str) -> str:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return ""
    wrong = unequal(expected, actual)
    count = int(np.count_nonzero(wrong))
    if not count:
        return ""
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f"{actual[index]:.6g}, in {origin} {expected[index]:.6g}"
    return f"{name}{list(index)} is {place} ({count} of {wrong.size} differ)"


def changes(graph: Graph, base: Graph, value: str) -> list[str]:
    """How the node that computes `value` differs from the one of a sound graph: operator, attributes, constants."""
    if value not in base.values:
        return []
    node, sound = graph.producer[value], base.producer[value]
    if node.op_type != sound.op_type:
        return [f"{node.op_type} where the bundle's onnx has {sound.op_type}"]
    here, there = _attributes(node), _attributes(sound)
    found = [
        f"{key} is {here.get(key, 'absent')}, in the bundle's onnx {there.get(key, 'absent')}"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    for own, other in zip(node.input, sound.input, strict=False):
        one, two = graph.initializers.get(own), base.initializers.get(other)
        if one is not None and two is not None and (text := _constants(own, two, one)):
            found.append(text)
        elif own != other and (one is None) and (two is None):
            found.append(f"reads {own or 'nothing'}, in the bundle's onnx {other or 'nothing'}")
    return found[:_SHOWN]


def _attributes(node: onnx.NodeProto) -> dict[str, str]:
    return {entry.name: str(helper.get_attribute_value(entry)).removeprefix("b") for entry in node.attribute}


def _constants(name: str, sound: onnx.TensorProto, found: onnx.TensorProto) -> str:
    expected, actual = decoded(sound), decoded(found)
    if expected.shape != actual.shape:
        return f"{name} has shape {list(actual.shape)}, in the bundle's onnx {list(expected.shape)}"
    return _counted(name, expected, actual, "the bundle's onnx")


def differing(source: Feeds, arrays: Feeds) -> dict[str, str]:
    """Arrays that are not the source's of the same name, each with the difference in words."""
    found = {
        name: _counted(name, source[name], array, "the source") for name, array in arrays.items() if name in source
    }
    return {name: text for name, text in found.items() if text}
