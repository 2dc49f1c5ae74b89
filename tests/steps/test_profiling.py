"""Profiles of real engines, and what a device would tell."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit import registry
from deploykit.errors import WorkError
from deploykit.quiet import quiet
from deploykit.reference import save_arrays
from deploykit.session import CPU, CUDA, Phases
from deploykit.steps import profiling

SETTINGS = {"threads": 1}
ASKED = {"input_names": ["x"], "output_names": ["y"], "settings": SETTINGS}


@pytest.fixture
def feeds(tmp_path):
    sets = {f"{index}/x": np.full((2, 64), index, np.float32) for index in range(4)}
    save_arrays(sets, tmp_path / "feeds")
    return str(tmp_path / "feeds")


@pytest.fixture
def onnx_file(tmp_path):
    """y = relu(x W), in a folder whose name is a secret."""
    weight = numpy_helper.from_array(np.ones((64, 512), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "/block/fc/MatMul"),
        helper.make_node("Relu", ["h"], ["y"], "/block/act/Relu"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c]) for n, c in (("x", 64), ("y", 512))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    path = tmp_path / "secret-place" / "model.onnx"
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture
def script_file(tmp_path):
    import torch

    path = tmp_path / "secret-place" / "model.pt"
    path.parent.mkdir()
    module = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU()).eval()
    with quiet():  # PyTorch calls it deprecated, people still have such files
        torch.jit.trace(module, torch.ones(2, 64)).save(str(path))
    return path


def assert_opens_in_perfetto(path, *secrets):
    """What its importer of JSON asks of a trace, and nothing about this machine in it."""
    text = path.read_text()
    document = json.loads(text, parse_constant=pytest.fail)
    events = document["traceEvents"]
    assert events
    for event in events:
        assert event["ph"] in {"X", "M"}
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        assert isinstance(event["name"], str)
        assert event["ts"] >= 0
        assert event["ph"] == "M" or event["dur"] >= 0
    assert min(event["ts"] for event in events) == 0
    for secret in (*secrets, os.sep + "tmp" + os.sep, str(Path.home()) + os.sep, "host_name", "secret-place"):
        assert secret not in text, secret


def profiled(tmp_path, runtime, artifact, feeds):
    found = profiling.profile(
        runtime=runtime, artifact=str(artifact), feeds=feeds, trace=str(tmp_path / "out.json"), min_calls=20,
        limit_ns=1_000_000, **ASKED,
    )  # fmt: skip
    json.dumps(found, allow_nan=False)
    assert 20 <= found["calls"] <= profiling.MOST_CALLS
    assert found["provider"] == CPU
    assert 0 < found["total_us"] <= found["wall_us"]
    assert abs(sum(one["share"] for one in found["operators"]) - 1) < 1e-6
    assert_opens_in_perfetto(tmp_path / "out.json", str(tmp_path))
    return found


def test_onnxruntime_tells_nodes_of_the_profiled_calls_only(tmp_path, onnx_file, feeds):
    before = set(Path.cwd().iterdir())
    found = profiled(tmp_path, "onnxruntime", onnx_file, feeds)
    types = {one["op_type"]: one for one in found["operators"]}
    assert {"MatMul", "Relu"} <= set(types) or "FusedMatMul" in types or "FusedGemm" in types
    assert all(one["calls"] == found["calls"] for one in found["operators"])
    assert {one["provider"] for one in found["operators"]} == {CPU}
    assert found["nodes"] == {CPU: found["operator_count"]}
    assert any(one["name"].startswith("/block/") for one in found["operators"]), "names of nodes stay as they are"
    assert set(Path.cwd().iterdir()) == before, "a trace was left behind"


def test_torch_tells_operators(tmp_path, script_file, feeds):
    found = profiled(tmp_path, "torchscript", script_file, feeds)
    assert "aten::addmm" in {one["name"] for one in found["operators"]}
    assert found["nodes"] == {}


def test_calls_end_at_the_limit_but_are_enough_before(monkeypatch):
    made = []
    session = SimpleNamespace(prepare=lambda feeds: lambda: made.append(feeds["x"]))
    calls = profiling._Calls(session, [{"x": index} for index in range(3)], 20, 0)
    calls.plan()()
    assert len(calls.walls_ns) == 20
    assert made[:6] == [0, 1, 2, 0, 1, 2]
    assert len(made) == 20 + profiling.WARM_UP_CALLS
    endless = profiling._Calls(session, [{"x": 0}], 20, 1 << 62)
    endless.plan()()
    assert len(endless.walls_ns) == profiling.MOST_CALLS


def toy(monkeypatch, session, **more):
    plugin = SimpleNamespace(open=lambda artifact, names, settings: session, **more)
    monkeypatch.setattr(registry, "load", lambda kind, name: lambda: plugin)


def test_a_runtime_without_a_profiler_says_so(monkeypatch, tmp_path, feeds):
    toy(monkeypatch, None)
    with pytest.raises(WorkError) as caught:
        profiled(tmp_path, "toy", tmp_path / "m", feeds)
    assert caught.value.code == "NO_PROFILER"


class OnDevice:
    provider = CUDA

    def __init__(self, phases, memory=None):
        self.answer, self.asked = phases, 0
        if memory is not None:
            self.gpu_memory = lambda: memory

    def prepare(self, feeds):
        return lambda: None

    def phases(self, feeds):
        self.asked += 1
        return self.answer


def on_device(feeds, calls=5):
    return profiling.on_device(runtime="toy", artifact="m", feeds=feeds, calls=calls, **ASKED)


def test_a_device_tells_memory_and_events(monkeypatch, feeds):
    session = OnDevice(Phases(1, 2, 3, 40), (1 << 30, ""))
    toy(monkeypatch, session)
    assert on_device(feeds) == {
        "events_ns": 40, "events_reason": None, "gpu_memory_bytes": 1 << 30, "gpu_memory_reason": None,
    }  # fmt: skip
    assert session.asked == 5


@pytest.mark.parametrize(
    ("phases", "memory", "reasons"),
    [
        (Phases(1, 2, 3, None, "own stream"), (None, "no driver"), ("own stream", "no driver")),
        (None, None, ("the engine takes no call apart", "the engine does not tell")),
    ],
)
def test_what_a_device_does_not_tell_has_a_reason(monkeypatch, feeds, phases, memory, reasons):
    toy(monkeypatch, OnDevice(phases, memory))
    found = on_device(feeds)
    assert (found["events_ns"], found["gpu_memory_bytes"]) == (None, None)
    assert (found["events_reason"], found["gpu_memory_reason"]) == reasons


def test_on_the_host_there_is_nothing_to_tell(feeds, onnx_file):
    found = profiling.on_device(runtime="onnxruntime", artifact=str(onnx_file), feeds=feeds, calls=1, **ASKED)
    assert found["events_ns"] is found["gpu_memory_bytes"] is None
    assert found["events_reason"] == found["gpu_memory_reason"] == "it runs on the CPU"
