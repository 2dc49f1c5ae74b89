"""The Ray Serve folder: configuration, wire and batches, all of it without Ray."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from deploykit import wire
from deploykit.bundle import VariantRecord
from deploykit.errors import RefusedError
from deploykit.handoff import _layout, ray_serve
from deploykit.handoff.interface import Given, Version
from deploykit.session import CUDA, SessionSettings
from deploykit.signature import Dim, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("tokens", "int64", ("N", "T")), TensorSpec("image", "float32", ("N", 2))),
    (TensorSpec("scores", "float32", ("N", "T", 3)), TensorSpec("first", "int64", ("N",))),
    (Dim("N", 1, 16), Dim("T", 2, 128)),
)
TARGET = ray_serve.Target()


def given(*settings, signature=SIGNATURE, batch=None):
    """Two inputs, two outputs, a symbolic inner dim, external data; a version for each of the settings."""
    record = VariantRecord(
        name="onnx",
        status="ready",
        made_by="onnx",
        precision="fp32",
        runtime="onnxruntime",
        file="variants/onnx/net.onnx",
    )
    versions = tuple(
        Version(number, record, {name: Path(f"v{number}") / name for name in ("net.onnx", "net.onnx.data")}, one, batch)
        for number, one in enumerate(settings or (SessionSettings(),), 1)
    )
    return Given("net", signature, versions, provider=versions[-1].settings.provider)


def test_every_version_and_the_application_are_there_once_each():
    tree = TARGET.files(given(SessionSettings(), SessionSettings(threads=2)))
    assert set(tree) == {
        *("app.py", "oip.py", "batches.py", "onnx_model.py", "app.json", "serve.yaml"),
        *(f"models/{number}/{name}" for number in (1, 2) for name in ("net.onnx", "net.onnx.data")),
    }
    assert tree["models/2/net.onnx"] == Path("v2/net.onnx")


def test_the_application_reads_settings_tensors_and_ranges():
    tuned = SessionSettings(threads=3, graph_level="basic", spinning=False, arena=False)
    read = json.loads(TARGET.files(given(SessionSettings(), tuned))["app.json"])
    assert read["versions"]["2"]["settings"] == {
        "provider": "CPUExecutionProvider", "threads": 3, "graph_level": "basic", "spinning": False, "arena": False,
    }  # fmt: skip
    assert read["versions"]["1"]["settings"]["threads"] is None
    assert read["versions"]["1"]["inputs"][0] == {"name": "tokens", "datatype": "INT64", "shape": ["N", "T"]}
    assert read["versions"]["1"]["dims"] == {"N": [1, 16], "T": [2, 128]}
    assert (read["model"], read["batch"]) == ("net", None)


def configured(handed):
    read = yaml.safe_load(TARGET.files(handed)["serve.yaml"])
    (application,) = read["applications"]
    (deployment,) = application["deployments"]
    return read, application, deployment


def test_the_configuration_is_for_this_machine_and_does_not_scale_by_itself():
    read, application, deployment = configured(given())
    assert read["http_options"] == {"host": "127.0.0.1", "port": 8000}
    assert (application["name"], application["route_prefix"], application["import_path"]) == ("net", "/", "app:app")
    assert deployment["num_replicas"] == 1
    assert not {"autoscaling_config", "max_replicas"} & set(deployment)


@pytest.mark.parametrize(("threads", "cpus"), [((None,), 1), ((4,), 4), ((4, 2), 4), ((None, 2), 2)])
def test_cpus_are_the_threads(threads, cpus):
    *_, deployment = configured(given(*(SessionSettings(threads=one) for one in threads)))
    assert deployment["ray_actor_options"] == {"num_cpus": cpus}


@pytest.mark.parametrize(
    ("signature", "tuned", "batch"),
    [
        (SIGNATURE, None, None),
        (SIGNATURE, 8, 8),
        (SIGNATURE, 1, None),
        (SIGNATURE, 64, 16),  # more than the dim may have
        (replace(SIGNATURE, outputs=(TensorSpec("mean", "float32", (3,)),)), 8, None),
        (replace(SIGNATURE, outputs=(TensorSpec("square", "float32", ("N", "N")),)), 8, None),
        (replace(SIGNATURE, inputs=(*SIGNATURE.inputs, TensorSpec("scale", "float32", ()))), 8, None),
    ],
)
def test_batching_only_where_it_was_tuned_and_samples_stand_apart(signature, tuned, batch):
    handed = given(signature=signature, batch=tuned)
    *_, deployment = configured(handed)
    assert json.loads(TARGET.files(handed)["app.json"])["batch"] == batch
    assert deployment["max_ongoing_requests"] == (2 * batch if batch else 2)
    assert ("share a call" in "\n".join(TARGET.commands(handed).notes)) == bool(batch)


def test_the_port_of_the_command_is_that_of_the_configuration():
    assert "s/port: 8000/port: ${PORT:-8000}/" in TARGET.commands(given()).start
    assert TARGET.files(given())["serve.yaml"].count("port: 8000\n") == 1


@pytest.mark.parametrize(
    ("handed", "words"),
    [
        (given(SessionSettings(CUDA)), CUDA),
        (given(signature=Signature((TensorSpec("z", "complex64", (2,)),), ())), "complex64"),
    ],
)
def test_refused(handed, words):
    with pytest.raises(RefusedError, match=words) as caught:
        TARGET.check(handed)
    assert caught.value.code == "TARGET_CANNOT_SERVE"
    assert caught.value.hint


def test_a_folder_gets_a_second_version(cli, tiny_bundle, tmp_path):
    out = tmp_path / "out"
    for number, words in ((1, "threads=1"), (2, "threads=2,spinning=off")):
        done = cli("handoff", tiny_bundle, "--to", "ray-serve", "-o", out, "--version", number, "--session", words)
        assert done.returncode == 0, done.stderr
    read = json.loads((out / "app.json").read_text())
    assert [read["versions"][number]["settings"]["threads"] for number in "12"] == [1, 2]
    assert (out / "models/1/model.onnx").read_bytes() == (tiny_bundle / "variants/onnx/model.onnx").read_bytes()
    assert (out / "models/2/model.onnx").is_file()
    assert "serve run" in (out / "README.md").read_text()


@pytest.fixture
def there(tmp_path, monkeypatch):
    """The modules of a folder, imported from it as Ray does."""
    tree = TARGET.files(given())
    _layout.lay({name: content for name, content in tree.items() if name.endswith(".py")}, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("onnx_model", "oip", "batches")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


FEEDS = {
    "tokens": np.array([[1, 2, -(2**62)], [4, 5, 2**62]]),
    "image": np.array([[0.1, np.finfo(np.float32).max], [-0.0, 1e-45]], np.float32),
    "flag": np.array([True, False]),
    "half": np.array([0.1, 65504], np.float16),
}


@pytest.mark.parametrize("binary", [False, True])
def test_what_our_client_writes_is_read(there, binary):
    message = wire.request(FEEDS, outputs=("scores",), binary=binary, id="7")
    asked = there["oip"].read(message.body, message.headers.get(wire.JSON_LENGTH))
    found = {one.name: there["onnx_model"].array_of(one) for one in asked.sent}
    for name, array in FEEDS.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()
    assert (asked.id, asked.wanted, asked.binary) == ("7", ("scores",), frozenset({"scores"} if binary else ()))


@pytest.mark.parametrize("binary", [False, True])
def test_our_client_reads_what_is_written(there, binary):
    asked = there["oip"].Asked((), id="7", all_binary=binary)
    body, headers = there["oip"].written(FEEDS, "net", "2", asked)
    found = wire.parse_response(headers, body)
    assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in FEEDS.items()}
    head = json.loads(body[: int(headers.get(wire.JSON_LENGTH, len(body)))])
    assert (head["model_name"], head["model_version"], head["id"]) == ("net", "2", "7")


def test_outputs_choose_their_wire(there):
    message = {
        "inputs": [],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
    }
    asked = there["oip"].read(json.dumps(message).encode(), None)
    body, headers = there["oip"].written({"a": np.ones(2), "b": np.ones(2)}, "net", "1", asked)
    entries = json.loads(body[: int(headers[wire.JSON_LENGTH])])["outputs"]
    assert [("data" in one, "parameters" in one) for one in entries] == [(False, True), (True, False)]


def test_what_json_cannot_hold_is_refused_and_goes_as_bytes(there):
    outputs = {"a": np.array([1, np.nan], np.float32)}
    with pytest.raises(there["onnx_model"].UnfitError, match="binary"):
        there["oip"].written(outputs, "net", "1", there["oip"].Asked(()))
    body, _ = there["oip"].written(outputs, "net", "1", there["oip"].Asked((), all_binary=True))
    assert body.endswith(outputs["a"].tobytes())


def tensor(**more):
    return {"name": "a", "datatype": "FP32", "shape": [1], "data": [1.0], **more}


def sized(size, **more):
    one = tensor(parameters={"binary_data_size": size}, **more)
    del one["data"]
    return {"inputs": [one]}


MALFORMED = [
    b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"inputs": 1}', b'{"inputs": [1]}', b'{"inputs": [], "inputs": []}',
    b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', {}, {"inputs": [{}]},
    {"inputs": [tensor(name="")]}, {"inputs": [tensor(datatype="FP8")]}, {"inputs": [tensor(shape=[-1])]},
    {"inputs": [tensor(shape=[True])]}, {"inputs": [tensor(shape=[1] * 33)]}, {"inputs": [tensor(shape="1")]},
    {"inputs": [tensor(data="1")]}, {"inputs": [tensor(data=None)]}, {"inputs": [tensor(parameters=[1])]},
    {"inputs": [tensor(parameters={"shared_memory_region": "x"})]}, {"inputs": [tensor()], "id": 1},
    {"inputs": [], "outputs": [{}]}, {"inputs": [], "outputs": [{"name": "a"}, {"name": "a"}]},
    {"inputs": [], "parameters": {"binary_data_output": 1}}, sized(4), sized(3), sized("4"), sized(True),
    sized(4 * 10**12, shape=[10**12]),
]  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: str(body)[:40])
def test_what_is_no_request_is_refused(there, body):
    with pytest.raises(there["onnx_model"].UnfitError):
        there["oip"].read(body if isinstance(body, bytes) else json.dumps(body).encode(), None)


@pytest.mark.parametrize("length", ["-1", "x", "1000", "1.0", "²", "9" * 30])
def test_a_wrong_length_of_the_json_is_refused(there, length):
    with pytest.raises(there["onnx_model"].UnfitError):
        there["oip"].read(b'{"inputs": []}', length)


def test_bytes_after_the_last_tensor_and_odd_bools_are_refused(there):
    text = json.dumps({"inputs": []}).encode()
    with pytest.raises(there["onnx_model"].UnfitError, match="follow"):
        there["oip"].read(text + b"x", str(len(text)))
    text = json.dumps(sized(1, datatype="BOOL")).encode()
    with pytest.raises(there["onnx_model"].UnfitError, match="BOOL"):
        there["oip"].read(text + b"\2", str(len(text)))


class Engine:
    """Adds the inputs; says how many samples each call had."""

    def __init__(self, poison=None):
        self.calls, self.poison = [], poison

    def __call__(self, feeds):
        self.calls.append(len(feeds["a"]))
        if self.poison is not None and (feeds["a"] == self.poison).any():
            raise RuntimeError("poisoned")
        return {"sum": feeds["a"] + feeds["b"]}


def asked(value, count, width=2):
    return {"a": np.full((count, width), value), "b": np.arange(count * width).reshape(count, width)}


def test_requests_of_one_shape_share_a_call(there):
    engine = Engine()
    requests = [asked(10, 1), asked(20, 3), asked(30, 2, width=5), asked(40, 2)]
    answers = there["batches"].together(engine, requests)
    for one, answer in zip(requests, answers, strict=True):
        assert np.array_equal(answer["sum"], one["a"] + one["b"])
    assert engine.calls == [6, 2]
    assert [there["batches"].rows(one) for one in requests] == [1, 3, 2, 2]


def test_one_bad_request_does_not_take_the_others_along(there):
    engine = Engine(poison=20)
    first, bad, last = there["batches"].together(engine, [asked(10, 1), asked(20, 1), asked(30, 1)])
    assert isinstance(bad, RuntimeError)
    assert np.array_equal(first["sum"], asked(10, 1)["a"] + asked(10, 1)["b"])
    assert np.array_equal(last["sum"], asked(30, 1)["a"] + asked(30, 1)["b"])
    assert engine.calls == [3, 1, 1, 1]
