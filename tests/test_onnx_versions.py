"""What an ONNX model needs of its format, and the head that is lowered to it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deploykit import onnx_versions
from deploykit.steps import versions


def value(name, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, ["N", 2])


def model(*nodes, ir=10, opsets=(("", 20),), initializers=(), functions=()):
    graph = helper.make_graph(list(nodes), "g", [value("x")], [value("y")], list(initializers))
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets]
    return helper.make_model(graph, ir_version=ir, opset_imports=imports, functions=list(functions))


RELU = helper.make_node("Relu", ["x"], ["y"])


def test_a_plain_graph_needs_no_new_format():
    plain = model(RELU)
    assert onnx_versions.needed_ir(plain) == onnx_versions.FLOOR
    onnx_versions.lower(plain, 9)
    assert plain.ir_version == 9
    onnx.checker.check_model(plain)


def test_an_older_head_stays():
    old = model(RELU, ir=8)
    onnx_versions.lower(old, 9)
    assert old.ir_version == 8


def test_operator_sets_that_nobody_uses_go_and_the_others_stay():
    inner = helper.make_graph([helper.make_node("Gelu", ["x"], ["b"], domain="com.microsoft")], "b", [], [value("b")])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    many = model(constant, branch, opsets=(("", 20), ("ai.onnx.ml", 5), ("com.microsoft", 1), ("org.pytorch.aten", 1)))
    onnx_versions.lower(many, 10)
    assert {entry.domain for entry in many.opset_import} == {"", "com.microsoft"}
    assert onnx_versions.opset(many) == 20


@pytest.mark.parametrize(
    ("kind", "ir"),
    [(TensorProto.INT4, 10), (TensorProto.FLOAT8E4M3FN, 9), (TensorProto.FLOAT4E2M1, 11), (TensorProto.FLOAT16, 8)],
)
def test_an_element_type_keeps_the_format_that_brought_it(kind, ir):
    weight = TensorProto(name="w", data_type=kind, dims=[2], raw_data=b"\0\0\0\0")
    by_tensor = model(RELU, ir=13, initializers=[weight])
    by_cast = model(helper.make_node("Cast", ["x"], ["z"], to=kind), RELU, ir=13)
    for one in (by_tensor, by_cast):
        assert onnx_versions.needed_ir(one) == ir
        onnx_versions.lower(one, 8)
        assert one.ir_version == ir


def test_functions_count():
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    calls = model(
        helper.make_node("F", ["x"], ["y"], domain="own"), opsets=(("", 18), ("own", 1)), functions=[function]
    )
    assert onnx_versions.opset(calls) == 21
    onnx_versions.lower(calls, 8)
    assert {entry.domain for entry in calls.opset_import} == {"", "own"}
    function.overload = "other"
    newer = model(helper.make_node("F", ["x"], ["y"], domain="own"), functions=[function])
    assert onnx_versions.needed_ir(newer) == 10


def test_the_step_changes_the_head_and_nothing_else(tmp_path):
    path = tmp_path / "model.onnx"
    before = model(RELU, opsets=(("", 20), ("ai.onnx.ml", 5)))
    path.write_bytes(before.SerializeToString(deterministic=True))
    assert versions.read(str(path)) == {"opset": 20, "ir_version": 10}
    assert versions.fit(str(path), 9) == {"opset": 20, "ir_version": 9}
    after = onnx.load(path)
    assert after.graph == before.graph
    assert versions.read(str(path)) == {"opset": 20, "ir_version": 9}
    untouched = path.read_bytes()
    versions.fit(str(path), 9)
    assert path.read_bytes() == untouched


def test_the_step_leaves_data_beside_the_model(tmp_path):
    path = tmp_path / "model.onnx"
    weight = onnx.numpy_helper.from_array(np.float32([[1.0, 2.0]]), "w")
    big = model(helper.make_node("Add", ["x", "w"], ["y"]), initializers=[weight])
    onnx.save_model(big, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    data = (tmp_path / "model.onnx.data").read_bytes()
    versions.fit(str(path), 8)
    assert (tmp_path / "model.onnx.data").read_bytes() == data
    assert onnx.load(path).ir_version == 8
    assert onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0]).tolist() == [[1.0, 2.0]]
