"""Transforms where they differ: fp16's blocked operators, nothing to quantize, external data, no samples."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploykit import onnx_file, registry
from deploykit.errors import WorkError
from deploykit.exporters.onnx import Exporter
from deploykit.runtimes.onnxruntime import Runtime
from deploykit.session import SessionSettings
from deploykit.transforms import fp16
from deploykit.transforms.fp16 import Transform


def run(path, feeds):
    return next(iter(Runtime().open(path, (), SessionSettings()).run(feeds).values()))


@pytest.fixture
def exponential(tmp_path):
    """x @ W, then exp: with x = 1 the answer is exp(12), which float16 cannot hold."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    product = helper.make_node("MatMul", ["x", "w"], ["h"], name="product")
    nodes = [product, helper.make_node("Exp", ["h"], ["y"], name="exp")]
    weight = numpy_helper.from_array(np.full((4, 4), 3, np.float32), "w")
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], [weight])
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def by_definition(path, feeds):
    """What the file says, by onnx's reference: onnxruntime's CPU provider removes casts and computes in float32."""
    with np.errstate(over="ignore"):
        return ReferenceEvaluator(onnx.load(path)).run(None, feeds)[0]


def test_a_blocked_operator_keeps_float32_up_to_the_output(exponential, tmp_path, monkeypatch):
    feeds = {"x": np.ones((2, 4), np.float32)}
    Transform(op_block_list=("Exp",)).apply(exponential, tmp_path / "kept.onnx", [])
    for kept in (by_definition(tmp_path / "kept.onnx", feeds), run(tmp_path / "kept.onnx", feeds)):
        assert np.allclose(kept, np.exp(12), rtol=1e-5)
    # control: with the converter's round trips it overflows, blocked or not
    monkeypatch.setattr(fp16, "_skip_round_trips", lambda graph, own: None)
    Transform(op_block_list=("Exp",)).apply(exponential, tmp_path / "rounded.onnx", [])
    assert np.isinf(by_definition(tmp_path / "rounded.onnx", feeds)).all()


def test_log_probabilities_are_no_float16_values(small_models, tmp_path):
    Exporter().export(small_models.model("mlp"), tmp_path / "m.onnx")
    Transform().apply(tmp_path / "m.onnx", tmp_path / "h.onnx", [])
    feeds = {"image": np.random.default_rng(0).random((7, 784), np.float32)}
    answer = run(tmp_path / "h.onnx", feeds)
    assert not np.array_equal(answer, answer.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("name", ["int8-dynamic", "int8-static"])
def test_nothing_to_quantize(name, small_models, tmp_path):
    Exporter().export(small_models.model("no-weights"), tmp_path / "m.onnx")
    transform = registry.load("transforms", name)()
    with pytest.raises(WorkError) as caught:
        transform.apply(tmp_path / "m.onnx", tmp_path / "q.onnx", [{"x": np.ones((2, 6), np.float32)}])
    assert caught.value.code == "VARIANT_NOT_APPLIED"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_static_without_samples(tmp_path):
    with pytest.raises(WorkError) as caught:
        registry.load("transforms", "int8-static")().apply(tmp_path / "m.onnx", tmp_path / "q.onnx", [])
    assert caught.value.code == "NO_CALIBRATION"


@pytest.mark.parametrize("name", ["fp16", "int8-dynamic", "int8-static"])
@pytest.mark.parametrize("limit", [1000, onnx_file.EXTERNAL_OVER])
def test_external_data_in_and_out(name, limit, small_models, tmp_path, monkeypatch):
    Exporter(external_data_threshold=1000).export(small_models.model("mlp"), tmp_path / "m.onnx")
    monkeypatch.setattr(onnx_file, "EXTERNAL_OVER", limit)
    (tmp_path / "out").mkdir()
    feeds = {"image": np.random.default_rng(0).random((4, 784), np.float32)}
    registry.load("transforms", name)().apply(tmp_path / "m.onnx", tmp_path / "out" / "q.onnx", [feeds])
    wanted = {"q.onnx", "q.onnx.data"} if limit == 1000 else {"q.onnx"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == wanted
    assert np.abs(run(tmp_path / "out" / "q.onnx", feeds) - small_models.expected("mlp", feeds)["output"]).max() < 0.05


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2, 1], [2, 0, 1]])
def test_a_transpose_before_a_product_can_be_loaded(order, tmp_path):
    """onnxruntime 1.32 dies while it opens [1, 0, 2] in float16, so this runs in a process of its own."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["A", "B", "C"]) for name in ("x", "y")]
    shape = [4, 4, 4]
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=order),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="product"),
    ]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], [weight])
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "m.onnx")
    Transform().apply(tmp_path / "m.onnx", tmp_path / "h.onnx", [])
    x = np.random.default_rng(0).random(shape, np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    script = (
        "import sys, numpy, onnxruntime as ort; options = ort.SessionOptions(); options.log_severity_level = 3; "
        "session = ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider']); "
        "numpy.save(sys.argv[3], session.run(None, {'x': numpy.load(sys.argv[2])['x']})[0])"
    )
    arguments = [str(tmp_path / name) for name in ("h.onnx", "x.npz", "y.npy")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
    assert np.allclose(np.load(tmp_path / "y.npy"), x.transpose(order), atol=1e-3)
