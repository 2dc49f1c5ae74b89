"""MLflow reads the folder without a line of ours, and its stock server answers the reference."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

from deploykit import handed
from deploykit.endpoint import connect
from tests.servers.blocks import blocks, typed
from tests.servers.environments import environment
from tests.servers.running import clean_environment, free_port, running

EXAMPLE = Path(__file__).parents[2] / "examples/serving/mlflow/README.md"
SETTINGS = "threads=1,graph_level=extended,spinning=off"

LOAD = """
import json, sys
import mlflow, numpy, onnxruntime
from mlflow.models import Model
from mlflow.types import Schema, TensorSpec
from mlflow.utils.proto_json_utils import parse_tf_serving_input
folder, case, wide = sys.argv[1:4]
model = Model.load(folder)
graph = mlflow.onnx.load_model(folder)
loaded = mlflow.pyfunc.load_model(folder)
session = loaded._model_impl.rt
options = session.get_session_options()
with numpy.load(case) as arrays:
    inputs = {name.removeprefix("inputs/"): arrays[name] for name in arrays if name.startswith("inputs/")}
own = onnxruntime.InferenceSession(folder + "/model.onnx", options, providers=["CPUExecutionProvider"])
right = dict(zip([output.name for output in own.get_outputs()], own.run(None, inputs)))
answer = loaded.predict(inputs)
schema = Schema([TensorSpec(numpy.dtype("int64"), (-1,), "n")])
cast = parse_tf_serving_input({"inputs": {"n": [1.5, "2"]}}, schema)["n"]
mlflow.onnx.save_model(graph, wide, signature=model.signature, onnx_execution_providers=["CPUExecutionProvider"],
    onnx_session_options=model.flavors["onnx"]["onnx_session_options"], metadata=model.metadata,
    pip_requirements=folder + "/requirements.txt")
print(json.dumps({
    "threads": options.intra_op_num_threads,
    "level": int(options.graph_optimization_level),
    "spinning": options.get_session_config_entry("session.intra_op.allow_spinning"),
    "providers": session.get_providers(),
    "equal": {name: bool((right[name] == answer[name]).all()) for name in right},
    "inputs": str(model.signature.inputs),
    "cast": cast.tolist(),
    "nodes": len(graph.graph.node),
}))
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """A shell in the stack's environment, with a home of its own: MLflow writes there."""
    binaries = environment("mlflow")
    home = tmp_path_factory.mktemp("home")
    return clean_environment(
        PATH=f"{binaries}{os.pathsep}{os.environ['PATH']}", HOME=str(home), MLFLOW_DISABLE_TELEMETRY="true"
    )


@pytest.fixture(scope="module")
def walk(tiny_bundle, tmp_path_factory):
    """Where a reader of the example stands after its first two blocks: `artifacts/mlp` and `handoff/mlflow`."""
    place = tmp_path_factory.mktemp("walk")
    shutil.copytree(tiny_bundle, place / "artifacts/mlp")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = typed(f"{blocks(EXAMPLE)[1]} --session {SETTINGS}", place, {**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def folder(walk):
    return walk / "handoff/mlflow"


def started(folder, env, log):
    """The folder's own start command, on a free port."""
    port = free_port()
    _, start, _ = blocks(folder / "README.md")

    def ready():
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=1).status == 200

    words = ["bash", "-euc", start]
    return port, running(words, ready=ready, cwd=folder, log=log, env={**env, "PORT": str(port)}, timeout_s=90)


@pytest.fixture(scope="module")
def port(folder, env, tmp_path_factory):
    port, server = started(folder, env, tmp_path_factory.mktemp("log") / "log")
    with server:
        yield port


def post(port, body, kind="application/json"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def case(folder):
    """One case: its file, inputs, exact answers and limits."""
    one = next(case for case in handed.load(folder).versions[0].cases if case.id == "batch-3")
    with np.load(folder / one.file) as arrays:
        inputs = {"x": arrays["inputs/x"]}
        expected = {name: arrays[f"expected/{name}"] for name in one.limits}
    return folder / one.file, inputs, expected, one.limits


def test_the_example_types_what_the_folder_says(folder):
    example, own = blocks(EXAMPLE), blocks(folder / "README.md")
    assert example[2:5] == own


@pytest.fixture(scope="module")
def loaded(folder, env, case, tmp_path_factory):
    """What MLflow's own functions make of the folder, and the directory that `save_model` writes from it."""
    saved = tmp_path_factory.mktemp("saved") / "model"
    argv = ["python", "-W", "error::FutureWarning", "-c", LOAD, folder / "model", case[0], saved]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "differs" not in done.stderr  # packages or Python other than recorded
    return json.loads(done.stdout.splitlines()[-1]), saved


def test_the_settings_reach_the_engine(loaded):
    found, _ = loaded
    assert (found["threads"], found["level"], found["spinning"]) == (1, 2, "0")
    assert found["providers"] == ["CPUExecutionProvider"]


def test_it_loads_without_code_of_ours(loaded):
    found, _ = loaded
    assert found["equal"] == {"output": True}
    assert "'x': Tensor('float32', (-1, 6))" in found["inputs"]
    assert found["nodes"] > 0


def test_numbers_are_cast_as_the_note_says(loaded):
    assert loaded[0]["cast"] == [1, 2]


def test_mlmodel_says_what_save_model_writes(folder, loaded):
    ours = yaml.safe_load((folder / "model/MLmodel").read_text())
    theirs = yaml.safe_load((loaded[1] / "MLmodel").read_text())
    left_out = {"model_uuid", "utc_time_created", "model_size_bytes", "model_id", "prompts"}
    assert set(theirs) - set(ours) == left_out
    assert set(ours) <= set(theirs)
    assert [theirs[key] for key in ("model_id", "prompts")] == [None, None]
    for side in (ours, theirs):
        function = side["flavors"]["python_function"]
        function["python_version"] = ".".join(function["python_version"].split(".")[:2])
        for way in ("inputs", "outputs"):
            side["signature"][way] = json.loads(side["signature"][way])
    assert {key: theirs[key] for key in ours} == ours
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml"):
        assert (loaded[1] / name).is_file()
        assert (folder / "model" / name).is_file()
    conda = [yaml.safe_load((place / "conda.yaml").read_text()) for place in (folder / "model", loaded[1])]
    assert [set(one) for one in conda] == [{"channels", "dependencies", "name"}] * 2
    assert conda[0]["dependencies"][-1] == conda[1]["dependencies"][-1]


def test_check_passes(folder, env, port):
    done = typed(blocks(folder / "README.md")[2], folder, {**env, "PORT": str(port)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all answers within their limits" in done.stdout
    assert "refused: HTTP 400" in done.stdout


def test_the_endpoint_gets_the_reference(folder, case, port):
    _, inputs, expected, limits = case
    outputs = handed.load(folder).signature.outputs
    endpoint = connect(f"mlflow+http://127.0.0.1:{port}", "tiny", outputs=outputs)
    try:
        assert endpoint.ready(5)
        answer = endpoint.infer(inputs)
    finally:
        endpoint.close()
    assert set(answer) == set(expected)
    for name, right in expected.items():
        assert answer[name].dtype == np.float32
        assert np.sqrt(np.mean((answer[name] - right) ** 2)) <= limits[name]


ROW = [0.0] * 6
WRONG = {
    "wide": {"inputs": {"x": [[*ROW, 0.0]]}},
    "rank": {"inputs": {"x": ROW}},
    "ragged": {"inputs": {"x": [ROW, ROW[1:]]}},
    "name": {"inputs": {"y": [ROW]}},
    "text": {"inputs": {"x": [["a"] * 6]}},
    "null": {"inputs": {"x": None}},
    "object": {"inputs": {"x": [[{}] * 6]}},
    "nothing": {"inputs": {}},
    "empty": {},
    "both": {"inputs": {"x": [ROW]}, "instances": [ROW]},
    "no json": b"{",
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_refused(port, body):
    status, text = post(port, body)
    assert status == 400, text
    assert post(port, {"inputs": {"x": [ROW]}})[0] == 200  # and the next one is answered


def test_another_content_type_is_refused(port):
    assert post(port, {"inputs": {"x": [ROW]}}, "text/html")[0] == 415


def test_verify_over_the_wire(walk, port, cli):
    words = blocks(EXAMPLE)[5].replace("${PORT:-8000}", str(port)).split()
    assert words[0] == "deploykit"
    done = cli(*words[1:], cwd=walk)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_weight_is_found(folder, env, tmp_path):
    """The folder's check asks a server whose file is not the one that was handed over."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    model = onnx.load(other / "model/model.onnx")
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.01), weight.name))
    onnx.save(model, other / "model/model.onnx")
    port, server = started(other, env, tmp_path / "log")
    command = blocks(folder / "README.md")[2]
    with server:
        honest = typed(command, folder, {**env, "PORT": str(port)})
        own = typed(command, other, {**env, "PORT": str(port)})
    assert honest.returncode == 1, honest.stdout + honest.stderr
    assert "FAIL" in honest.stdout
    assert own.returncode == 5  # and beside the changed file it does not even ask
    assert "model/model.onnx" in own.stderr
