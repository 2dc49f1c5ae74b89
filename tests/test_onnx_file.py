"""ONNX files: what is none is refused in one voice, and external data comes along or stays where it is."""

import errno

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit import onnx_file
from deploykit.errors import RefusedError

WEIGHT = np.random.default_rng(4).standard_normal((6, 6)).astype(np.float32)


@pytest.fixture
def beside(tmp_path):
    """A model whose weight lies beside it."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 6]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "net", ports[:1], ports[1:],
        [numpy_helper.from_array(WEIGHT, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    return path


def test_external_data_comes_along_or_stays(beside):
    (inside,) = onnx_file.load(beside).graph.initializer
    assert np.array_equal(numpy_helper.to_array(inside), WEIGHT)
    (outside,) = onnx_file.load(beside, external=False).graph.initializer
    assert outside.data_location == TensorProto.EXTERNAL
    assert outside.raw_data == b""


@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("content", [b"text", b"\x08\x0a\x12\x00", b""])
def test_what_is_no_onnx_model_is_refused(tmp_path, content, external):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(RefusedError) as caught:
        onnx_file.load(tmp_path / "x.onnx", external=external)
    assert (caught.value.code, caught.value.subject) == ("MALFORMED", "x.onnx")


def test_a_model_without_its_external_data_is_refused_by_name_and_without_paths(beside):
    (beside.parent / "net.onnx.data").unlink()
    with pytest.raises(RefusedError, match=r"net\.onnx\.data") as caught:
        onnx_file.load(beside)
    assert str(beside.parent) not in str(caught.value)
    assert onnx_file.load(beside, external=False).graph.node[0].op_type == "MatMul"


def test_a_file_that_is_not_there_says_nothing_about_onnx(tmp_path):
    with pytest.raises(OSError, match=r"x\.onnx") as caught:
        onnx_file.load(tmp_path / "x.onnx")
    assert caught.value.errno == errno.ENOENT
