"""Which optimizer makes a right graph wrong: with a real rewriting of onnxruntime, and with a played engine."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.localization import bisect, instrument
from deploykit.localization.graph import Graph

FEEDS = {"x": np.float32([[1e-39, 2.0], [4.0, 8.0]]), "y": np.float32([[1e-39, 2.0], [1.0, 3.0]])}


def reciprocal_times():
    """z = tanh((1 / x) · y) + y; onnxruntime makes y / x of it, and 1 / x overflows where y / x does not."""
    nodes = [
        helper.make_node("Div", ["one", "x"], ["inverse"]),
        helper.make_node("Mul", ["inverse", "y"], ["product"]),
        helper.make_node("Tanh", ["product"], ["tanh"]),
        helper.make_node("Add", ["tanh", "y"], ["z"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "y", "z")]
    graph = helper.make_graph(nodes, "net", values[:2], values[2:], [numpy_helper.from_array(np.float32(1), "one")])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def right() -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):
        return {"z": np.tanh((np.float32(1) / FEEDS["x"]) * FEEDS["y"]) + FEEDS["y"]}


def test_the_rewriting_is_found_by_name_and_at_its_place():
    graph = Graph(reciprocal_times())
    found = bisect.find(bisect.session_runs(graph.model, FEEDS), right())
    assert (found.level, found.optimizers) == ("basic", ("DivMulFusion",))
    assert found.deployed > 0.01 > found.literal
    site = bisect.site(graph, FEEDS, found)
    assert (site.value, site.operator) == ("product", "Div")
    assert [node.op_type for node in site.model.graph.node] == ["Div", "Mul"]
    literal = instrument.run(site.model, site.feeds)["product"]
    np.testing.assert_array_equal(literal, site.expected)


def test_a_graph_that_is_right_at_every_level_gives_nothing():
    feeds = {"x": FEEDS["y"] + 3, "y": FEEDS["y"]}
    expected = {"z": np.tanh((np.float32(1) / feeds["x"]) * feeds["y"]) + feeds["y"]}
    assert bisect.find(bisect.session_runs(reciprocal_times(), feeds), expected) is None


EXPECTED = {"z": np.float32([1.0, 2.0, 3.0])}


def engine(guilty: set[str], level: str):
    """An engine whose answers are wrong from `level` on unless all of `guilty` are switched off."""
    order = ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]
    asked: list[tuple[str, int]] = []

    def runs(at: str, disabled: tuple[str, ...]) -> dict[str, np.ndarray]:
        asked.append((at, len(disabled)))
        wrong = order.index(at) >= order.index(level) and not guilty <= set(disabled)
        return {"z": EXPECTED["z"] * (1.5 if wrong else 1 + 1e-7)}

    return runs, asked


@pytest.mark.parametrize("name", [bisect.OPTIMIZERS[0], "LayerNormFusionL2", bisect.OPTIMIZERS[-1]])
def test_halving_finds_any_single_optimizer_in_few_sessions(name):
    runs, asked = engine({name}, "ORT_ENABLE_EXTENDED")
    found = bisect.find(runs, EXPECTED)
    assert (found.level, found.optimizers) == ("extended", (name,))
    assert len(asked) < 24


def test_two_that_must_both_be_off_are_both_named():
    pair = {bisect.OPTIMIZERS[3], bisect.OPTIMIZERS[-3]}
    runs, _ = engine(pair, "ORT_ENABLE_ALL")
    found = bisect.find(runs, EXPECTED)
    assert (found.level, set(found.optimizers)) == ("all", pair)


def test_what_no_switch_mends_has_a_level_and_no_name():
    runs, _ = engine({"not an optimizer"}, "ORT_ENABLE_ALL")
    found = bisect.find(runs, EXPECTED)
    assert (found.level, found.optimizers) == ("all", ())


def test_a_literal_graph_that_is_as_wrong_is_nobody_elses_fault():
    runs, _ = engine({"DivMulFusion"}, "ORT_DISABLE_ALL")
    assert bisect.find(runs, EXPECTED) is None


def test_names_are_there_once():
    assert len(set(bisect.OPTIMIZERS)) == len(bisect.OPTIMIZERS)
