"""The folder for MLServer: its files, its settings, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deploykit.errors import RefusedError
from deploykit.handoff import mlserver
from deploykit.session import CUDA, SessionSettings
from deploykit.signature import TensorSpec
from tests.handoff.nets import SIGNATURE, given

TARGET = mlserver.Target()
PACKAGE = Path(mlserver.__file__).parent


def test_every_version_has_its_folder():
    handed = given(SessionSettings(), SessionSettings(threads=2))
    tree = TARGET.files(handed)
    names = ("net.onnx", "net.onnx.data", "model-settings.json")
    own = {f"models/net/{number}/{name}" for number in (1, 2) for name in names}
    assert set(tree) == {"settings.json", "onnx_runtime.py", "onnx_model.py"} | own
    assert tree["models/net/1/net.onnx.data"] == handed.versions[0].files["net.onnx.data"]


def test_the_code_is_the_package_s_own():
    tree = TARGET.files(given())
    for name, source in (("onnx_runtime", "_mlserver_runtime"), ("onnx_model", "_onnx_model")):
        assert tree[f"{name}.py"] == PACKAGE / f"{source}.py"
        assert "deploykit" not in (PACKAGE / f"{source}.py").read_text()


def test_model_settings_say_metadata_and_how_to_open():
    settings = SessionSettings(threads=2, graph_level="basic", spinning=False, arena=False)
    tree = TARGET.files(given(SessionSettings(), settings))
    found = json.loads(tree["models/net/2/model-settings.json"])
    assert found["name"] == "net"
    assert found["versions"] == ["1", "2"]
    assert found["implementation"] == "onnx_runtime.OnnxRuntime"
    assert found["inputs"] == [
        {"name": "tokens", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "scale", "datatype": "FP32", "shape": []},
        {"name": "mask", "datatype": "BOOL", "shape": [-1]},
    ]
    assert [one["shape"] for one in found["outputs"]] == [[-1, -1], [-1]]
    parameters = found["parameters"]
    assert (parameters["uri"], parameters["version"]) == ("./net.onnx", "2")
    assert parameters["extra"]["settings"] == {
        "provider": "CPUExecutionProvider",
        "threads": 2,
        "graph_level": "basic",
        "spinning": False,
        "arena": False,
    }
    assert parameters["extra"]["inputs"][0]["shape"] == ["N", "T"]
    assert parameters["extra"]["dims"] == {"N": [1, 16], "T": [2, 8]}
    first = json.loads(tree["models/net/1/model-settings.json"])["parameters"]
    assert (first["version"], first["extra"]["settings"]["threads"]) == ("1", None)


def test_the_server_is_for_this_machine_and_leaves_its_ports_to_the_environment():
    found = json.loads(TARGET.files(given())["settings.json"])
    assert found == {"debug": False, "host": "127.0.0.1", "metrics_endpoint": None, "parallel_workers": 0}
    start = TARGET.commands(given()).start
    assert start == "MLSERVER_HTTP_PORT=${PORT:-8080} MLSERVER_GRPC_PORT=${GRPC_PORT:-8081} mlserver start ."


def test_another_provider_is_refused():
    with pytest.raises(RefusedError, match=r"TARGET_CANNOT_SERVE.*CUDAExecutionProvider"):
        TARGET.check(given(provider=CUDA))


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_complex_numbers_are_refused_and_float16_is_not(side):
    odd = replace(SIGNATURE, **{side: (TensorSpec("z", "complex64", ("N",)),)})
    with pytest.raises(RefusedError, match=r"TARGET_CANNOT_SERVE.*has no word for"):
        TARGET.check(given(signature=odd))
    TARGET.check(given(signature=replace(SIGNATURE, **{side: (TensorSpec("z", "float16", ("N",)),)})))


def test_the_readme_says_what_mlserver_cannot():
    notes = "\n".join(TARGET.commands(given(SessionSettings(binding=True))).notes)
    assert "JSON tensors only" in notes
    assert "`binding`" in notes
