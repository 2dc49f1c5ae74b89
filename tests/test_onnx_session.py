"""Graphs in memory, opened by onnxruntime: at a level, without optimizers, through a file where they are large."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit import onnx_session
from deploykit.errors import WorkError
from deploykit.onnx_session import DEPLOYED, LITERAL, open_session, optimized, run

RANDOM = np.random.default_rng(6)
X = RANDOM.standard_normal((3, 40)).astype(np.float32)
WEIGHT, BIAS = RANDOM.standard_normal((40, 40)).astype(np.float32), RANDOM.standard_normal(40).astype(np.float32)


def model():
    """y = relu(x w + b), its inner value an output as well; w has 6,400 bytes."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Identity", ["product"], ["same"]),
        helper.make_node("Add", ["same", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 40]) for name in ("x", "y", "sum")]
    arrays = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(BIAS, "b")]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], arrays)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


@pytest.fixture
def stored(tmp_path):
    """The same with its weights beside it."""
    path = tmp_path / "net.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    return path


def check(found):
    np.testing.assert_allclose(found["sum"], X @ WEIGHT + BIAS, rtol=1e-4, atol=1e-4)
    assert np.array_equal(found["y"], np.maximum(found["sum"], 0))


@pytest.mark.parametrize("level", [LITERAL, DEPLOYED])
@pytest.mark.parametrize("inline", [1_500_000_000, 16])
def test_a_model_is_run_from_memory_or_through_a_file_that_is_gone(level, inline, monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_session, "_INLINE", inline)
    monkeypatch.setattr(onnx_session.tempfile, "tempdir", str(tmp_path))
    given = model()
    before = given.SerializeToString(deterministic=True)
    session = open_session(given, level, 1)
    assert list(tmp_path.iterdir()) == []
    found = run(session, {"x": X, "not an input": X})
    assert list(found) == ["y", "sum"]
    check(found)
    assert given.SerializeToString(deterministic=True) == before


def test_a_file_is_opened_where_it_is_and_some_outputs_are_enough(stored):
    session = open_session(stored, DEPLOYED, threads=1)
    check(run(session, {"x": X}))
    assert list(run(session, {"x": X}, ["sum"])) == ["sum"]
    assert session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize("inline", [1_500_000_000, 16])
@pytest.mark.parametrize("from_file", [False, True])
def test_the_optimized_model_has_its_weights_and_none_of_what_was_left_out(inline, from_file, monkeypatch, stored):
    monkeypatch.setattr(onnx_session, "_INLINE", inline)
    given = stored if from_file else model()
    found = optimized(given, "ORT_ENABLE_BASIC")
    assert "Identity" not in {node.op_type for node in found.graph.node}
    arrays = [numpy_helper.to_array(tensor) for tensor in found.graph.initializer]
    assert any(np.array_equal(array, WEIGHT) for array in arrays)
    check(run(open_session(found, LITERAL), {"x": X}))
    kept = optimized(given, "ORT_ENABLE_BASIC", ["EliminateIdentity"], external=False)
    assert "Identity" in {node.op_type for node in kept.graph.node}
    outside = [tensor for tensor in kept.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert [tuple(tensor.dims) for tensor in outside] == [(40, 40)]


def test_what_the_engine_refuses_is_an_error_of_ours():
    broken = model()
    broken.graph.node[0].op_type = "NoSuchOperator"
    for call in (open_session, optimized):
        with pytest.raises(WorkError, match="NoSuchOperator") as caught:
            call(broken, LITERAL)
        assert caught.value.code == "RUN_ERROR"
    session = open_session(model(), LITERAL)
    for feeds in ({}, {"x": X[:, :5]}, {"x": X.astype(np.int64)}):
        with pytest.raises(WorkError) as caught:
            run(session, feeds)
        assert caught.value.code == "RUN_ERROR"
