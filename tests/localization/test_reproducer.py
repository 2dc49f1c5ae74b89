"""A reproducer runs for real, in a process that has numpy and onnxruntime and nothing of ours."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deploykit.errors import DeploykitError
from deploykit.localization import reproducer

X = np.float32([[1.0, 2.0, np.nan], [3.0, -4.0, 5.0]])


def part(operator: str) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("a/b.c", TensorProto.FLOAT, None)
    node = helper.make_node(operator, ["a/b.c"], ["y"])
    graph = helper.make_graph([node], "part", [value], [onnx.ValueInfoProto(name="y")])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def written(folder, operator="Neg", expected=-X, title="value y of variant onnx"):
    fault = reproducer.Fault(title, part(operator), {"a/b.c": X}, expected, 1e-6, "ORT_DISABLE_ALL", "one operator")
    return reproducer.write(fault, folder / "onnx")


def outcome(folder):
    script = folder / "reproduce.py"
    return subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("operator", "code", "says"),
    [("Neg", 0, "RMSE 0, "), ("Abs", 1, "RMSE "), ("IsNaN", 1, "RMSE "), ("Relu", 1, "RMSE ")],
)
def test_it_exits_1_while_the_fault_is_there(tmp_path, operator, code, says):
    done = outcome(written(tmp_path, operator))
    assert (done.returncode, done.stderr) == (code, "")
    assert says in done.stdout or "pattern" in done.stdout


def test_it_replaces_a_reproducer_and_nothing_else(tmp_path):
    assert written(tmp_path) == written(tmp_path)
    (tmp_path / "onnx" / "reproduce.py").unlink()
    before = sorted((tmp_path / "onnx").iterdir())
    with pytest.raises(DeploykitError, match="no reproducer"):
        written(tmp_path)
    assert sorted((tmp_path / "onnx").iterdir()) == before


def test_another_shape_and_another_pattern_fail(tmp_path):
    for expected in (-X[:1], -np.nan_to_num(X)):
        done = outcome(written(tmp_path, expected=expected))
        assert done.returncode == 1
        assert "another shape or non-finite pattern" in done.stdout


def test_the_script_is_short_and_knows_no_path_of_this_machine(tmp_path):
    folder = written(tmp_path)
    text = (folder / "reproduce.py").read_text()
    assert len(text.splitlines()) <= 15
    assert str(tmp_path) not in text
    assert "deploykit" not in text
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "expected.npy",
        "input_0.npy",
        "model.onnx",
        "reproduce.py",
    ]
    assert "exits 1 while the fault is there" in (folder / "README.md").read_text()


def test_a_hostile_name_stays_text(tmp_path):
    done = outcome(written(tmp_path, title='y"""; raise SystemExit(0)\nimport os {x} \\'))
    assert (done.returncode, done.stderr) == (0, "")
    done = outcome(written(tmp_path, "Abs", title='y"""; raise SystemExit(0)\nimport os {x} \\'))
    assert (done.returncode, done.stderr) == (1, "")


def test_an_older_one_is_replaced(tmp_path):
    folder = written(tmp_path)
    (folder / "input_7.npy").write_bytes(b"")
    assert not (written(tmp_path) / "input_7.npy").exists()


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path):
    (tmp_path / "onnx").write_text("a file is in the way")
    with pytest.raises(DeploykitError):
        written(tmp_path)
