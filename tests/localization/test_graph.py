"""Cutting ONNX graphs: every part computes what it computes in the whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit import onnx_session
from deploykit.errors import WorkError
from deploykit.localization import instrument
from deploykit.localization.graph import Graph

RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((4, 6)).astype(np.float32)
WEIGHT = RANDOM.standard_normal((6, 6)).astype(np.float32)


def model(*, opset: int = 20) -> onnx.ModelProto:
    """y = tanh(relu(x W) + relu(x W)) W, with a constant computed from an initializer."""
    nodes = [
        helper.make_node("MatMul", ["x", "turned"], ["product"], name="first"),
        helper.make_node("Transpose", ["w"], ["turned"], name="turn"),
        helper.make_node("Relu", ["product"], ["relu"]),
        helper.make_node("Add", ["relu", "relu"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["tanh"]),
        helper.make_node("MatMul", ["tanh", "w"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)])


def by_hand() -> dict[str, np.ndarray]:
    product = X @ WEIGHT.T
    relu = np.maximum(product, 0)
    tanh = np.tanh(2 * relu)
    return {"product": product, "relu": relu, "sum": 2 * relu, "tanh": tanh, "y": tanh @ WEIGHT}


def close(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def test_values_come_in_topological_order_and_constants_are_none_of_them():
    graph = Graph(model())
    assert graph.values == ["product", "relu", "sum", "tanh", "y"]
    assert graph.constants == {"w", "turned"}
    assert (graph.inputs, graph.outputs) == (["x"], ["y"])


def test_all_inner_values_come_out_of_one_session():
    close(instrument.free(Graph(model()), {"x": X}, ["product", "relu", "sum", "tanh", "y"]), by_hand())


def test_a_part_starts_at_given_values_and_computes_the_value_itself_again():
    graph = Graph(model())
    known = {"relu": np.ones((4, 6), np.float32), "tanh": np.full((4, 6), 0.5, np.float32)}
    found = instrument.forced(graph, {"x": X, **known}, ["relu", "tanh", "y"])
    expected = {"relu": by_hand()["relu"], "tanh": np.tanh(2 * known["relu"]), "y": known["tanh"] @ WEIGHT}
    close(found, expected)


def test_a_region_ends_at_given_values():
    graph = Graph(model())
    assert [graph.nodes[i].op_type for i in graph.region(["tanh"], {"relu"})] == ["Add", "Tanh"]
    assert graph.taken(graph.region(["tanh"], {"relu"}), {"relu"}) == ["relu"]
    assert graph.weights(graph.region(["y"], {"tanh"})) == ["w"]


def test_external_data_comes_along(tmp_path):
    onnx.save(
        model(), tmp_path / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=0
    )  # fmt: skip
    close(instrument.free(Graph.load(tmp_path / "net.onnx"), {"x": X}, ["sum"]), {"sum": by_hand()["sum"]})


def test_a_model_too_large_for_memory_goes_through_a_file(monkeypatch):
    monkeypatch.setattr(onnx_session, "_INLINE", 16)
    close(instrument.free(Graph(model()), {"x": X}, ["y"]), {"y": by_hand()["y"]})


def test_values_read_inside_a_subgraph_are_inputs_of_the_part():
    branches = []
    for kind in ("Neg", "Identity"):
        node = helper.make_node(kind, ["inner"], [f"out{kind}"])
        branches.append(helper.make_graph([node], kind, [], [onnx.ValueInfoProto(name=f"out{kind}")]))
    nodes = [
        helper.make_node("Abs", ["x"], ["inner"]),
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32(0), "zero")],
    )
    cut = Graph(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]))
    known = {"inner": np.full((4, 6), 7, np.float32), "positive": np.array(True)}
    close(instrument.forced(cut, {"x": X, **known}, ["y"]), {"y": -known["inner"]})


def test_chunks_keep_the_order_and_the_bound():
    sizes = {"a": 60, "b": 50, "c": 500, "d": 10, "e": 90}
    assert list(instrument.chunks(list(sizes), sizes, 100)) == [["a"], ["b"], ["c"], ["d", "e"]]


def test_what_the_engine_refuses_is_an_error_of_ours():
    broken = model()
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(WorkError, match="NoSuchOperator") as caught:
        instrument.free(Graph(broken), {"x": X}, ["y"])
    assert caught.value.code == "RUN_ERROR"
