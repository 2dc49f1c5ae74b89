"""Questions to a graph: who makes and reads a value, what a constant holds, and which constant a value comes from."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.onnx_graph import Graph, attribute, given

WEIGHT = np.random.default_rng(5).standard_normal((6, 4)).astype(np.float32)


def network():
    """y = (x wᵀ with w in half precision, clipped from below) twice, beside a Constant and a listed initializer."""
    nodes = [
        helper.make_node("Constant", [], ["low"], value=numpy_helper.from_array(np.float32(-1), "v")),
        helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        helper.make_node("Cast", ["turned"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["product"], "first"),
        helper.make_node("Clip", ["product", "low", ""], ["clipped"]),
        helper.make_node("Add", ["clipped", "clipped"], ["y"]),
    ]
    ports = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "w", "y")}
    graph = helper.make_graph(
        nodes, "net", [ports["x"], ports["w"]], [ports["y"]], [numpy_helper.from_array(WEIGHT.astype(np.float16), "w")]
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def test_what_has_to_be_fed_is_no_initializer():
    graph = Graph(network())
    assert (graph.inputs, graph.outputs) == (["x"], ["y"])


def test_makers_and_readers_are_found_by_value():
    graph = Graph(network())
    assert graph.producer["product"].name == "first"
    assert [node.op_type for node in graph.readers["clipped"]] == ["Add"]  # once, though it reads it twice
    assert "" not in graph.readers
    assert "x" not in graph.producer


def test_constants_of_both_kinds_are_decoded():
    graph = Graph(network())
    assert list(graph.tensors) == ["w", "low"]
    assert list(graph.initializers) == ["w"]
    assert (graph.kind("w"), graph.kind("low"), graph.kind("product")) == ("float16", "float", "")
    assert (graph.size("w"), graph.size("low")) == (24, 1)
    assert np.array_equal(graph.array("w"), WEIGHT.astype(np.float16))
    assert graph.array("low") == np.float32(-1)
    with pytest.raises(KeyError):
        graph.array("product")


def test_the_way_to_a_constant_leads_through_named_operators_only():
    graph = Graph(network())
    name, between = graph.way("wide", {"Cast", "Transpose"})
    assert (name, [node.op_type for node in between]) == ("w", ["Cast", "Transpose"])
    assert graph.way("w", ()) == ("w", [])
    assert graph.way("wide", {"Cast"}) == ("", [])
    assert graph.way("product", {"MatMul"}) == ("", [])


def test_a_cycle_has_no_constant_and_an_end():
    nodes = [helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]
    graph = Graph(helper.make_model(helper.make_graph(nodes, "net", [], [])))
    assert graph.way("a", {"Identity"}) == ("", [])


@pytest.mark.parametrize("external", [True, False])
def test_external_data_is_decoded_wherever_it_is(tmp_path, external, monkeypatch):
    path = tmp_path / "net.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    monkeypatch.chdir("/")
    graph = Graph.load(path, external=external)
    assert (graph.folder is None) is external
    assert np.array_equal(graph.array("w"), WEIGHT.astype(np.float16))


def test_attributes_and_inputs_that_are_not_given():
    transpose, clip = Graph(network()).nodes[1], Graph(network()).nodes[4]
    assert attribute(transpose, "perm") == [1, 0]
    assert attribute(transpose, "other") is None
    assert attribute(transpose, "other", 3) == 3
    assert [given(clip, index) for index in range(4)] == ["product", "low", "", ""]
