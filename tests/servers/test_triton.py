"""The folder for Triton in the real `tritonserver`: a proof repository derived from it answers over every wire."""

import difflib
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from deploykit.endpoint import connect
from deploykit.errors import WorkError
from deploykit.handoff import _check
from deploykit.handoff.triton import lint_folder
from tests.conftest import TINY
from tests.handoff.triton_configs import BROKEN
from tests.servers import triton_proof
from tests.servers.blocks import blocks, typed
from tests.servers.environments import ROOT, environment
from tests.servers.running import assert_gone, clean_environment, free_port, running
from tests.servers.triton_binary import triton
from tests.servers.triton_there import There, mixed, rms, spoil, tensor

EXAMPLE = ROOT / "examples/serving/triton/README.md"
SETTINGS = "threads=1,graph_level=basic,arena=off"
CLIENTS = 16


@pytest.fixture(scope="module")
def folder(cli, tiny_bundle, tmp_path_factory):
    """Where a reader of the example stands after its first two blocks; version 2 is another training of the model."""
    place = tmp_path_factory.mktemp("walk")
    (place / "tiny.py").write_text(TINY.replace("manual_seed(0)", "manual_seed(1)"))
    done = cli("export", f"python:{place / 'tiny.py'}:build", "-o", place / "more/tiny", "--variants", "onnx")
    assert done.returncode == 0, done.stderr
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    shutil.copytree(tiny_bundle, place / "artifacts/mlp")
    block = blocks(EXAMPLE)[1]
    for words in (block, block.replace("artifacts/mlp", "more/tiny") + " --version 2"):
        done = typed(f"{words} --session {SETTINGS}", place, env)
        assert done.returncode == 0, done.stderr
    return place / "handoff/triton"


@pytest.fixture(scope="module")
def there(folder, tmp_path_factory):
    """The server, started as the folder's README says, beside a copy of the folder whose repository is the proof's."""
    proof = tmp_path_factory.mktemp("proof")
    repository = proof / "model_repository"
    shutil.copytree(folder / "model_repository", repository)
    changed = repository / "changed"
    shutil.copytree(repository / "tiny", changed)
    config = changed / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "tiny"', 'name: "changed"'))
    spoil(changed / "2/model.onnx")
    mixed(repository)
    triton_proof.derive(repository)
    server = triton(proof)
    port, grpc = free_port(), free_port()
    binaries = triton_proof.command(proof / "bin", server)
    env = {**server.env, "PORT": str(port), "GRPC_PORT": str(grpc)}
    env["PATH"] = f"{binaries}{os.pathsep}{env['PATH']}"

    def ready() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1) as answer:
            return bool(answer.status == 200)

    words = ["bash", "-euc", blocks(folder / "README.md")[0]]
    with running(words, ready=ready, cwd=proof, log=proof / "log", env=env, timeout_s=60) as process:
        yield There(folder, process, port, grpc)
    assert_gone(process)


@pytest.fixture(scope="module")
def sessions(folder):
    """onnxruntime in this process, by version, with the settings that were handed over."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    place = folder / "model_repository/tiny"
    return {number: ort.InferenceSession(place / number / "model.onnx", options) for number in ("1", "2")}


def test_the_example_types_what_the_folder_says(folder):
    assert blocks(EXAMPLE)[2:4] == blocks(folder / "README.md")


def test_the_proof_differs_in_the_engine_only(folder):
    real = (folder / "model_repository/tiny/config.pbtxt").read_text()
    lines = difflib.ndiff(real.splitlines(), triton_proof.derived(real).splitlines())
    assert sorted(line for line in lines if line[0] in "+-") == [
        '+ backend: "python"',
        '+ default_model_filename: "model.py"',
        '- default_model_filename: "model.onnx"',
        '- platform: "onnxruntime_onnx"',
    ]


PARSE = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
print(json.dumps([json_format.MessageToDict(text_format.Parse(text, ModelConfig())) for text in json.load(sys.stdin)]))
"""


def parsed(*texts: str) -> list[dict]:
    """Configurations as Triton's own message type reads them."""
    argv = [environment("triton") / "python", "-c", PARSE]
    env = clean_environment()
    done = subprocess.run(argv, input=json.dumps(texts), capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_parses_as_tritons_own_message(folder, tmp_path):
    mixed(tmp_path)
    files = [folder / "model_repository/tiny/config.pbtxt", tmp_path / "mixed/config.pbtxt"]
    tiny, other = parsed(*(file.read_text() for file in files))
    assert tiny["platform"] == "onnxruntime_onnx"
    assert tiny["maxBatchSize"] == 512
    assert tiny["dynamicBatching"] == {}
    assert tiny["optimization"] == {"graph": {"level": -1}}
    assert {key: value["stringValue"] for key, value in tiny["parameters"].items()} == {
        "intra_op_thread_count": "1", "enable_mem_arena": "0", "enable_mem_pattern": "0",
    }  # fmt: skip
    assert tiny["versionPolicy"] == {"all": {}}
    assert "maxBatchSize" not in other
    assert [(one["name"], one["dataType"], one["dims"]) for one in other["input"]] == [
        ("ids", "TYPE_INT64", ["-1", "2"]), ("mask", "TYPE_BOOL", ["-1"]),
        ("scale", "TYPE_INT8", ["3"]), ("half", "TYPE_FP16", ["1"]),
    ]  # fmt: skip


def test_every_broken_configuration_of_the_lint_is_one_that_triton_reads():
    assert len(parsed(*(one.text for one in BROKEN))) == len(BROKEN)
    with pytest.raises(AssertionError, match='no field named "max_batch"'):
        parsed("max_batch: 8")


def test_the_lint_has_nothing_to_say_of_the_folder(folder):
    assert lint_folder(folder) == ()


@pytest.mark.parametrize("more", [(), ("--version", "1"), ("--version", "2")], ids=["latest", "1", "2"])
def test_check_passes(there, more):
    done = there.check(*more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all answers within their limits" in done.stdout
    assert "refused: HTTP 400" in done.stdout


def test_a_changed_weight_is_found(there):
    done = there.check("--model", "changed")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL" in done.stdout


def test_the_settings_reach_the_engine(there):
    log = there.server.log.read_text()
    for number in (1, 2):
        assert f"tiny {number} is open: threads=1 graph_level=ORT_ENABLE_BASIC arena=0 pattern=0" in log
    assert "mixed 1 is open: threads=0 graph_level=ORT_ENABLE_ALL arena=1 pattern=1" in log


@pytest.mark.parametrize("wire", ["json", "binary", "auto", "grpc"])
def test_answers_are_bit_equal_to_onnxruntime_in_process(there, sessions, wire):
    for rows in (1, 3, 64):
        x = np.random.default_rng(rows).standard_normal((rows, 6), np.float32)
        here = {number: session.run(None, {"x": x})[0] for number, session in sessions.items()}
        assert not np.array_equal(here["1"], here["2"])
        for version, meant in (("", "2"), ("1", "1"), ("2", "2")):
            answer = there.answer({"x": x}, version, wire)["output"]
            assert answer.dtype == np.float32
            assert np.array_equal(answer, here[meant])


@pytest.mark.parametrize("wire", ["json", "binary", "grpc"])
def test_the_reference_within_its_limits(there, wire):
    x, expected, limit = there.case()
    assert rms(expected, there.answer({"x": x}, wire=wire)["output"]) <= limit
    assert rms(expected, there.answer({"x": x}, "1", wire)["output"]) > limit


def test_metadata_is_the_signature(there):
    endpoint = connect(there.url, "tiny")
    try:
        facts, server = endpoint.model_facts(), endpoint.server()
    finally:
        endpoint.close()
    assert server.name == "triton"
    assert "binary_tensor_data" in server.extensions
    assert (facts.name, facts.versions) == ("tiny", ("1", "2"))
    assert [str(spec) for spec in facts.inputs] == ["x:float32[x.0,6]"]
    assert [str(spec) for spec in facts.outputs] == ["output:float32[output.0,3]"]


X = np.full((2, 6), 0.5, np.float32)
WRONG_FEEDS = {
    "narrow": {"x": X[:, :5]},
    "rank": {"x": X[0]},
    "dtype": {"x": X.astype(np.float64)},
    "name": {"y": X},
    "more": {"x": X, "y": X},
    "nothing": {},
    "too many rows": {"x": np.zeros((513, 6), np.float32)},
}


@pytest.mark.parametrize("wire", ["binary", "grpc"])
@pytest.mark.parametrize("feeds", WRONG_FEEDS.values(), ids=WRONG_FEEDS.keys())
def test_wrong_feeds_are_refused(there, feeds, wire):
    with pytest.raises(WorkError, match="answers 400") as caught:
        there.answer(feeds, wire=wire)
    assert caught.value.code == "REQUEST_REFUSED"
    assert there.answer({"x": X}, wire=wire)["output"].shape == (2, 3)


WRONG = {
    "wide": [tensor(shape=[2, 7], data=[0.5] * 14)],
    "rank": [tensor(shape=[12])],
    "transposed": [tensor(shape=[6, 2])],
    "dtype": [tensor(datatype="FP64")],
    "no dtype": [tensor(datatype="FLOAT")],
    "name": [tensor(name="y")],
    "more": [tensor(), tensor(name="y")],
    "nothing": [],
    "too many rows": [tensor(shape=[513, 6], data=[0.5] * 513 * 6)],
}


@pytest.mark.parametrize("inputs", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_refused(there, inputs):
    status, text = there.post({"inputs": inputs})
    assert status == 400, text
    assert there.post({"inputs": [tensor()]})[0] == 200  # and the next one is answered


@pytest.mark.parametrize("data", [[0.5] * 11, ["0.5"] * 12], ids=["too few", "texts"])
def test_numbers_that_are_none_fail_before_the_model(there, data):
    """Triton's own reader of JSON gives a 500 for them, as the folder's README says."""
    status, text = there.post({"inputs": [tensor(data=data)]})
    assert status == 500
    assert "Unable to parse 'data'" in text
    assert "fail in Triton's own reader" in (there.folder / "README.md").read_text()
    assert there.post({"inputs": [tensor()]})[0] == 200


def test_a_version_that_is_not_there(there):
    assert there.post({"inputs": [tensor()]}, "tiny/versions/3/infer")[0] in {400, 404}
    assert there.post({"inputs": [tensor()]}, "other/infer")[0] in {400, 404}


def test_without_a_batch(there):
    """Types, a symbolic dim and names with a dot go through the server as the configuration says."""
    feeds = {
        "ids": np.array([[1, 2], [3, -4], [2**40, 0]]),
        "mask": np.array([True, False, True]),
        "scale": np.array([-128, 0, 127], np.int8),
        "half": np.array([0.333], np.float16),
    }
    endpoint = connect(there.url, "mixed", wire="binary")
    try:
        answer = endpoint.infer(feeds)
    finally:
        endpoint.close()
    checked = _check.ask_oip(there.url, "mixed", "", feeds)  # Triton has no FP16 in JSON: it has to ask again
    assert all(np.array_equal(checked[name], answer[name]) for name in answer)
    assert checked["out.half"].dtype == np.float16
    assert np.array_equal(answer["doubled"], feeds["ids"] * 2)
    assert np.array_equal(answer["kept"], ~feeds["mask"])
    for name, source in (("same", "scale"), ("out.half", "half")):
        assert answer[name].dtype == feeds[source].dtype
        assert np.array_equal(answer[name], feeds[source])


def test_parallel_clients_share_calls_and_stay_within_the_budget(there, sessions):
    _, _, limit = there.case()
    rng = np.random.default_rng(0)
    asked = [rng.standard_normal((1 + client % 3, 6), np.float32) for client in range(CLIENTS)]
    right = [sessions["2"].run(None, {"x": x})[0].astype(np.float64) for x in asked]
    worst = [0.0] * CLIENTS

    def client(number: int, start: threading.Barrier) -> None:
        endpoint = connect(there.url, "tiny", version="2", wire="binary")
        try:
            start.wait(30)
            for _ in range(40):
                error = rms(right[number], endpoint.infer({"x": asked[number]})["output"])
                worst[number] = max(worst[number], error)
        finally:
            endpoint.close()

    before = there.statistics()
    for _ in range(10):  # one round is enough unless the machine runs the clients one after another
        start = threading.Barrier(CLIENTS)
        threads = [threading.Thread(target=client, args=(number, start)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = there.statistics()
        assert after["rows"] - before["rows"] == sum(len(x) for x in asked) * 40
        shared = after["calls"] - before["calls"] < CLIENTS * 40
        if shared:
            break
        before = after
    assert shared, "no two requests shared a call"
    assert max(worst) <= limit


def test_verify_over_the_wire(there, cli):
    """The latest version is the second bundle's; the first one's reference is another model's."""
    words = blocks(EXAMPLE)[4].replace("${PORT:-8000}", str(there.port)).split()
    assert words[:3] == ["deploykit", "verify", "artifacts/mlp"]
    for bundle, code in (("more/tiny", 0), ("artifacts/mlp", 1)):
        done = cli("verify", bundle, *words[3:], cwd=there.folder.parents[1])
        assert done.returncode == code, done.stdout + done.stderr


def test_it_listens_on_loopback_only(there):
    own = there.server.own()
    listening = {
        connection.laddr.ip
        for process in (own, *own.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == "LISTEN"
    }
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
