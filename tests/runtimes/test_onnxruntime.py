"""ONNX Runtime's edge: a provider that is listed and does not load, IOBinding, messages. The engine is a stand-in."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

from deploykit.errors import WorkError
from deploykit.runtimes import _errors
from deploykit.runtimes.onnxruntime import OrtSession, Runtime
from deploykit.session import CPU, CUDA, SessionSettings

ORT = "[ONNXRuntimeError] :"
NAMES = ("OrtValue", "synchronize_inputs", "run", "synchronize_outputs", "numpy")


class FakeSession:
    """y = 2x on a pretended device; writes down what happens, in order."""

    def __init__(self, log):
        self.log = log

    def get_session_options(self):
        return SimpleNamespace(intra_op_num_threads=3)

    def get_outputs(self):
        return [SimpleNamespace(name="y")]

    def io_binding(self):
        return FakeBinding(self.log)

    def run_with_iobinding(self, binding):
        self.log.append("run")
        binding.result = binding.inputs["x"] * 2


class FakeBinding:
    def __init__(self, log):
        self.log, self.inputs = log, {}

    def bind_ortvalue_input(self, name, value):
        self.inputs[name] = value

    def bind_output(self, name, device, index):
        assert (name, device, index) == ("y", "cuda", 0)

    def synchronize_inputs(self):
        self.log.append("synchronize_inputs")

    def synchronize_outputs(self):
        self.log.append("synchronize_outputs")

    def get_outputs(self):
        def numpy():
            self.log.append("numpy")
            return self.result

        return [SimpleNamespace(numpy=numpy)]


@pytest.fixture
def on_device(tmp_path):
    log = []

    def from_numpy(array, device, index):
        assert (device, index) == ("cuda", 0)
        assert array.flags.c_contiguous
        log.append("OrtValue")
        return array

    ort = SimpleNamespace(OrtValue=SimpleNamespace(ortvalue_from_numpy=from_numpy))
    return OrtSession(ort, FakeSession(log), tmp_path / "m.onnx", SessionSettings(CUDA)), log


def test_phases_copy_compute_and_fetch_in_order_each_synchronized(on_device):
    session, log = on_device
    phases = session.phases({"x": np.ones((4, 2), np.float32).T})
    assert tuple(log) == NAMES
    assert min(phases.h2d_ns, phases.compute_ns, phases.d2h_ns) >= 0
    assert phases.events_ns is None
    assert "stream of its own" in phases.events_reason


def test_prepared_call_includes_both_transfers(on_device):
    session, log = on_device
    call = session.prepare({"x": np.ones(3, np.float32)})
    assert log == []
    for _ in range(2):
        (answer,) = call()
        assert answer.tolist() == [2, 2, 2]
    assert tuple(log) == NAMES * 2


def listed_but_broken(monkeypatch):
    """An engine that lists CUDA, says on stderr why it does not load, and takes the CPU."""
    import onnxruntime as ort

    def create(model, options, providers):
        os.write(2, b"[E:onnxruntime:Default, bridge.cc:1 Get] Failed with error: libcublas.so.12: cannot open\n")
        return SimpleNamespace(get_providers=lambda: [CPU])

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", create)
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("advice"), raising=False)


def test_listed_and_not_loaded_is_a_fallback_with_its_reason(monkeypatch, tmp_path, capfd):
    listed_but_broken(monkeypatch)
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(WorkError) as caught:
        Runtime().open(tmp_path / "m.onnx", (), SessionSettings(CUDA))
    assert caught.value.code == "PROVIDER_FALLBACK"
    assert f"asked for {CUDA}, would have run on {CPU} (libcublas.so.12: cannot open)" in str(caught.value)
    assert "onnxruntime-gpu" in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_providers_lists_only_what_opens(monkeypatch, capfd):
    listed_but_broken(monkeypatch)
    assert Runtime().providers() == (CPU,)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (f"{ORT} 7 : INVALID_PROTOBUF : Load model from /a/b.onnx failed:Protobuf.", "INVALID_PROTOBUF: Protobuf."),
        (
            f"{ORT} 1 : FAIL : Load model from /a/b.onnx failed:/src/graph/model.cc:181 "
            "onnxruntime::Model::Model(onnx::ModelProto&&, int) Unsupported model IR version: 99",
            "FAIL: Unsupported model IR version: 99",
        ),
        ("failed at /home/someone/secret/file.bin", "failed at file.bin"),
        ("two\n  lines", "two lines"),
    ],
)
def test_messages_are_one_line_without_paths(raw, wanted):
    assert _errors.clean(raw) == wanted
