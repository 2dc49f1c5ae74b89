"""Real Ray Serve on one node, started as the folder's README says; one start for all requests."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit import handed, wire
from deploykit.endpoint import connect
from tests.servers.blocks import blocks, typed
from tests.servers.environments import environment
from tests.servers.running import clean_environment, free_port, running

EXAMPLE = Path(__file__).parents[2] / "examples/serving/ray-serve/README.md"
BATCH = 8

SCHEMA = """
import json, sys, yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

def unknown(model, given, where=""):
    for key, value in given.items():
        if key not in type(model).model_fields:
            yield where + key
            continue
        inner = getattr(model, key)
        lists = ([inner], [value]) if isinstance(inner, BaseModel) else (inner, value)
        for one, part in zip(*lists) if isinstance(lists[0], list) else ():
            if isinstance(one, BaseModel):
                yield from unknown(one, part, where + key + ".")

with open(sys.argv[1]) as file:
    given = yaml.safe_load(file)
odd = json.loads(json.dumps(given))
odd["applications"][0]["deployments"][0]["num_replica"] = 1
odd["http_option"] = {}
print(json.dumps([sorted(unknown(ServeDeploySchema.model_validate(one), one)) for one in (given, odd)]))
"""

SHARED = """
import asyncio, json, sys
from types import SimpleNamespace
import numpy
from ray import serve
sys.path.insert(0, sys.argv[1])
import app
config = SimpleNamespace(max_ongoing_requests=2 * app.BATCH)
serve.get_replica_context = lambda: SimpleNamespace(_deployment_config=config)  # asked for by a warning only
replica = app.Model()
model = replica._versions[app.LATEST]
run, calls = model.run, []
model.run = lambda feeds, names: (calls.append(len(feeds["x"])), run(feeds, names))[1]

async def ask():
    asked = [numpy.full((rows, 6), rows / 10, numpy.float32) for rows in (1, 2, 3, 2, 20)]
    found = await asyncio.gather(*(replica._shared(model, {"x": x}) for x in asked))
    pairs = [(one["output"], run({"x": x}, ["output"])["output"]) for one, x in zip(found, asked)]
    return [one.shape == alone.shape and bool(numpy.allclose(one, alone, atol=1e-6)) for one, alone in pairs]

print(json.dumps([asyncio.run(ask()), sorted(calls), model.opened()]))
"""


def tuned(bundle, place):
    """The bundle as `bench --tune` leaves it where it found a batch for throughput."""
    shutil.copytree(bundle, place)
    manifest = json.loads((place / "manifest.json").read_text())
    found = {"goal": "throughput", "provider": "CPUExecutionProvider", "settings": "threads=1,spinning=off"}
    for variant in manifest["variants"]:
        variant["tuned"] = [{**found, "batch": BATCH, "cores": 2}] if variant["name"] == "onnx" else []
    (place / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def walk(tiny_bundle, tmp_path_factory):
    """Where a reader of the example stands: `artifacts/mlp`, and `handoff/ray-serve` with a tuned second version."""
    place = tmp_path_factory.mktemp("walk")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    tuned(tiny_bundle, place / "artifacts/mlp")
    command = blocks(EXAMPLE)[1]
    first, second = "--session threads=1,graph_level=basic", "--version 2 --goal throughput"
    done = typed(f"{command} {first}\n{command} {second}", place, {**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def folder(walk):
    return walk / "handoff/ray-serve"


@pytest.fixture(scope="module")
def env(folder):
    """A shell in the stack's environment. Ray's sockets need a short path, its token a home."""
    binaries = environment("ray-serve")
    home = tempfile.mkdtemp(prefix="r")
    yield clean_environment(
        PATH=f"{binaries}{os.pathsep}{os.environ['PATH']}", HOME=home, RAY_TMPDIR=home, PORT=str(free_port())
    )
    shutil.rmtree(home)


def damaged(path):
    """The same model with another weight."""
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.01), weight.name))
    onnx.save(model, path)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def served(folder, env, log, tmp_path_factory):
    """The base URL. What is served is a copy of the folder whose version 1 got another weight, version 2 is whole."""
    place = tmp_path_factory.mktemp("served") / "folder"
    shutil.copytree(folder, place)
    damaged(place / "models/1/model.onnx")
    base = f"http://127.0.0.1:{env['PORT']}"

    def ready():
        return urllib.request.urlopen(f"{base}/v2/health/ready", timeout=1).status == 200

    start = ["bash", "-euc", blocks(folder / "README.md")[1]]
    with running(start, ready=ready, cwd=place, log=log, env=env, timeout_s=150, own_network=[int(env["PORT"])]):
        yield base


def asked(url, body=None, headers=None, method=None):
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_example_types_what_the_folder_says(folder):
    assert blocks(EXAMPLE)[2:5] == blocks(folder / "README.md")


def test_the_configuration_fits_rays_schema_and_has_no_key_that_it_does_not_know(folder, env):
    argv = ["python", "-c", SCHEMA, folder / "serve.yaml"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    ours, odd = json.loads(done.stdout.splitlines()[-1])
    assert ours == []
    assert odd == ["applications.deployments.num_replica", "http_option"]  # which the schema itself takes


def test_requests_that_come_together_share_a_call(folder, env, tmp_path):
    argv = ["python", "-c", SHARED, folder]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    right, calls, opened = json.loads(done.stdout.splitlines()[-1])
    assert right == [True] * 5
    assert calls == [8, 20]  # 1 + 2 + 3 + 2 samples fill a batch, 20 are more than one
    assert "threads=1" in opened
    assert "spinning=0" in opened


def test_check_passes(folder, env, served):
    done = typed(blocks(folder / "README.md")[2], folder, env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all answers within their limits" in done.stdout
    assert "refused: HTTP 400" in done.stdout


def test_check_finds_the_changed_weight(folder, env, served):
    done = typed(f"{blocks(folder / 'README.md')[2]} --version 1", folder, env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL" in done.stdout


def test_the_settings_reach_the_engine(served, log):
    text = log.read_text()
    assert "version 1 is open: provider=CPUExecutionProvider threads=1 graph_level=ORT_ENABLE_BASIC spinning=1" in text
    assert "version 2 is open: provider=CPUExecutionProvider threads=1 graph_level=ORT_ENABLE_ALL spinning=0" in text


@pytest.fixture(scope="module")
def case(folder):
    """Inputs, exact answers and limits of one case of version 2."""
    one = next(case for case in handed.load(folder).versions[1].cases if case.id == "batch-3")
    with np.load(folder / one.file) as arrays:
        inputs = {"x": arrays["inputs/x"]}
        return inputs, {name: arrays[f"expected/{name}"] for name in one.limits}, one.limits


@pytest.mark.parametrize("way", ["json", "binary", "auto"])
def test_the_endpoint_gets_the_reference(served, case, way):
    inputs, expected, limits = case
    endpoint = connect(served, "tiny", wire=way)
    try:
        assert endpoint.ready(5)
        assert endpoint.server().extensions == ("binary_tensor_data",)
        facts = endpoint.model_facts()
        answer = endpoint.infer(inputs)
    finally:
        endpoint.close()
    assert (facts.name, facts.versions) == ("tiny", ("1", "2"))
    assert [(one.name, one.dtype, one.shape[1:]) for one in facts.inputs] == [("x", "float32", (6,))]
    assert set(answer) == set(expected)
    for name, right in expected.items():
        assert answer[name].dtype == np.float32
        assert np.sqrt(np.mean((answer[name] - right) ** 2)) <= limits[name]


def test_a_version_answers_for_itself(served, case):
    inputs, _, _ = case
    found = []
    for version in ("1", "2", ""):
        endpoint = connect(served, "tiny", version=version)
        try:
            found.append(endpoint.infer(inputs)["output"])
        finally:
            endpoint.close()
    assert not np.allclose(found[0], found[1], atol=1e-4)
    assert np.allclose(found[1], found[2], atol=1e-6)


def test_many_at_once_get_their_own_answers(served, case):
    inputs, _, _ = case
    alone = connect(served, "tiny")
    right = alone.infer(
        {"x": np.repeat(inputs["x"], 4, axis=0)[:12] * np.linspace(0, 1, 12, dtype=np.float32)[:, None]}
    )
    alone.close()
    wrong = []

    def ask(row):
        endpoint = connect(served, "tiny")
        try:
            x = inputs["x"][row // 4 : row // 4 + 1] * np.linspace(0, 1, 12, dtype=np.float32)[row]
            for _ in range(5):
                answer = endpoint.infer({"x": x})["output"]
                if answer.shape != (1, 3) or not np.allclose(answer, right["output"][row : row + 1], atol=1e-5):
                    wrong.append(row)
        except BaseException as error:
            wrong.append(error)
            raise
        finally:
            endpoint.close()

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def one(**more):
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 6], "data": [0.0] * 6, **more}]}


WRONG = {
    "wide": one(shape=[1, 7], data=[0.0] * 7),
    "rank": one(shape=[6]),
    "few values": one(data=[0.0] * 5),
    "no row": one(shape=[0, 6], data=[]),
    "datatype": one(datatype="INT64", data=[0] * 6),
    "no datatype": one(datatype="FLOAT"),
    "name": one(name="y"),
    "text": one(data=["a"] * 6),
    "null": one(data=[None] * 6),
    "too large": one(data=[1e300] * 6),
    "huge": one(shape=[10**12, 6]),
    "output": {**one(), "outputs": [{"name": "nothing"}]},
    "twice": {"inputs": one()["inputs"] * 2},
    "none": {"inputs": []},
    "no json": b"{",
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_refused_with_a_reason(served, body):
    url = f"{served}/v2/models/tiny/infer"
    status, text = asked(url, body)
    assert status == 400, text
    assert json.loads(text)["error"]
    assert asked(url, one())[0] == 200  # and the next one is answered


def test_wrong_bytes_are_refused(served):
    message = wire.request({"x": np.zeros((1, 6), np.float32)}, binary=True)
    url = f"{served}/v2/models/tiny/infer"
    assert asked(url, message.body, message.headers)[0] == 200
    assert asked(url, message.body[:-1], message.headers)[0] == 400
    assert asked(url, message.body + b"\0", message.headers)[0] == 400
    assert asked(url, message.body, {**message.headers, wire.JSON_LENGTH: "99999"})[0] == 400


def test_what_is_not_finite_travels_as_bytes_only(served):
    inputs = {"x": np.full((1, 6), np.nan, np.float32)}
    endpoint = connect(served, "tiny", wire="binary")
    try:
        assert np.isnan(endpoint.infer(inputs)["output"]).all()
    finally:
        endpoint.close()
    message = wire.request(inputs, binary=True)
    head = json.loads(message.body[: int(message.headers[wire.JSON_LENGTH])])
    text = json.dumps({**head, "parameters": {"binary_data_output": False}}).encode()
    body = text + inputs["x"].tobytes()
    status, said = asked(f"{served}/v2/models/tiny/infer", body, {wire.JSON_LENGTH: str(len(text))})
    assert (status, "binary" in said.decode()) == (400, True)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v2/health/live", "GET", 200),
        ("/v2/models/tiny/ready", "GET", 200),
        ("/v2/models/tiny/versions/1/ready", "GET", 200),
        ("/v2/models/tiny/versions/3", "GET", 404),
        ("/v2/models/tiny/versions", "GET", 404),
        ("/v2/models/other", "GET", 404),
        ("/", "GET", 404),
        ("/v2/models/tiny/infer", "GET", 405),
        ("/v2/models/tiny", "POST", 405),
        ("/v2/models/tiny/versions/3/infer", "POST", 404),
        ("/v2/models/tiny/unload", "POST", 404),
    ],
)
def test_paths_and_methods(served, path, method, status):
    assert asked(served + path, b"{}" if method == "POST" else None, method=method)[0] == status


def test_a_token_is_asked_for(env, served):
    """Ray made one: without it nobody gets at Ray itself."""
    token = Path(env["HOME"]) / ".ray/auth_token"
    assert len(token.read_text().strip()) >= 32


def test_verify_over_the_wire(walk, env, served, cli):
    words = blocks(EXAMPLE)[5].replace("${PORT:-8000}", env["PORT"]).split()
    assert words[0] == "deploykit"
    done = cli(*words[1:], cwd=walk)
    assert done.returncode == 0, done.stdout + done.stderr
