"""ONNX Runtime on a device: provider options, fixed buffers, recorded graphs. The engine is a stand-in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deploykit.errors import WorkError
from deploykit.runtimes import _nvidia, _ort_device
from deploykit.runtimes.onnxruntime import OrtSession, Runtime
from deploykit.session import CPU, CUDA, SessionSettings


class Buffer:
    """An OrtValue on the pretended device, with an address that never changes."""

    def __init__(self, array):
        self.array = array.copy()

    @classmethod
    def ortvalue_from_numpy(cls, array, device, index):
        assert (device, index) == ("cuda", 0)
        return cls(array)

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape, dtype, device, index):
        assert (device, index) == ("cuda", 0)
        return cls(np.zeros(shape, dtype))

    def update_inplace(self, array):
        assert (array.shape, array.dtype) == (self.array.shape, self.array.dtype)
        self.array[...] = array

    def numpy(self):
        return self.array.copy()


class Options(dict):
    add_run_config_entry = dict.__setitem__


class Binding:
    def __init__(self):
        self.inputs, self.outputs = {}, {}

    def bind_ortvalue_input(self, name, value):
        self.inputs[name] = value

    def bind_ortvalue_output(self, name, value):
        self.outputs[name] = value

    def bind_output(self, name, device, index):
        self.outputs[name] = None

    def synchronize_inputs(self):
        """Nothing runs on by itself here."""

    def synchronize_outputs(self):
        """Nothing runs on by itself here."""

    def get_outputs(self):
        return [self.results[name] for name in self.outputs]


class Engine:
    """y = 2x. With a graph's number, the first run records the addresses and later ones use those, as CUDA would."""

    def __init__(self, output=("N", 3), kind="tensor(float)"):
        self.graphs, self.runs, self.output, self.kind = {}, [], output, kind

    def get_session_options(self):
        return SimpleNamespace(intra_op_num_threads=1)

    def get_inputs(self):
        return [SimpleNamespace(name="x", shape=["N", 3], type="tensor(float)")]

    def get_outputs(self):
        return [SimpleNamespace(name="y", shape=list(self.output), type=self.kind)]

    def io_binding(self):
        return Binding()

    def run_with_iobinding(self, binding, options=None):
        number = (options or {}).get(_ort_device.GRAPH_ID)
        self.runs.append(number)
        source, target = binding.inputs["x"], binding.outputs["y"]
        if number is not None:
            assert target is not None, "a graph writes to a fixed address"
            source, target = self.graphs.setdefault(number, (source, target))
        target = target or Buffer(np.zeros_like(source.array))
        target.array[...] = source.array * 2
        binding.results = {"y": target}

    def run(self, names, feeds):
        raise AssertionError("a recorded session has to answer through its graph")


def opened(settings, engine=None):
    engine = engine or Engine()
    ort = SimpleNamespace(OrtValue=Buffer, RunOptions=Options)
    return OrtSession(ort, engine, Path("v/m.onnx"), settings), engine


def rows(count, value):
    return {"x": np.full((count, 3), value, np.float32)}


@pytest.mark.parametrize("words", ["binding=on", "device_graph=on"])
def test_fixed_buffers_answer_every_call_with_its_own_values(words):
    session, _ = opened(SessionSettings(CUDA).with_words(words))
    calls = [session.prepare(rows(2, value)) for value in (1, 4)]
    for call, want in zip(calls * 2, (2, 8) * 2, strict=True):
        (answer,) = call()
        assert answer.tolist() == [[want] * 3] * 2
    first = session.prepare(rows(2, 1))()[0]
    session.prepare(rows(2, 9))()
    assert first.tolist() == [[2.0] * 3] * 2
    assert session.phases(rows(2, 1)).events_ns is None


def test_a_graph_is_recorded_once_per_shape_and_parity_is_asked_of_it():
    session, engine = opened(SessionSettings(CUDA, device_graph=True))
    for count, value in ((2, 1), (2, 3), (5, 1)):
        answer = session.run(rows(count, value))["y"]
        assert answer.tolist() == [[2 * value] * 3] * count
    assert engine.runs == ["1", "1", "1", "2", "2"]  # a recording and a replay, a replay, a recording and a replay
    assert set(engine.graphs) == {"1", "2"}


@pytest.mark.parametrize(("output", "kind"), [(("M", 3), "tensor(float)"), (("N", None), "tensor(float)"), (("N", 3), "tensor(bfloat16)")])  # fmt: skip  # noqa: E501
def test_an_output_without_a_fixed_address_is_no_graph(output, kind):
    session, engine = opened(SessionSettings(CUDA, device_graph=True), Engine(output, kind))
    with pytest.raises(WorkError, match="the shape of y may depend on values") as caught:
        session.prepare(rows(2, 1))
    assert caught.value.code == "DEVICE_GRAPH"
    assert engine.runs == []
    bound, _ = opened(SessionSettings(CUDA, binding=True), Engine(output, kind))
    assert bound.prepare(rows(2, 1))()[0].tolist() == [[2.0] * 3] * 2  # the engine allocates it


def test_options_of_the_provider():
    cuda = _ort_device.providers(SessionSettings(CUDA))
    assert cuda == [(CUDA, {"use_tf32": "0", "enable_cuda_graph": "0"}), CPU]
    both = _ort_device.providers(SessionSettings(CUDA, tf32=True, device_graph=True))
    assert both[0] == (CUDA, {"use_tf32": "1", "enable_cuda_graph": "1"})
    assert _ort_device.providers(SessionSettings(tf32=True, device_graph=True)) == [CPU]
    assert _ort_device.providers(SessionSettings("XExecutionProvider")) == ["XExecutionProvider", CPU]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("as the model has control flow nodes which can't be supported", "the model has control flow"),
        ("as all compute graph nodes have not been partitioned to the CUDA EP", "not every node has a kernel there"),
    ],
)
def test_a_model_that_cannot_be_recorded_is_refused_with_the_reason(monkeypatch, tmp_path, said, reason):
    import onnxruntime as ort

    def create(model, options, providers):
        raise RuntimeError(f"This session cannot use the graph capture feature as requested by the user {said}")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", create)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(WorkError, match=reason) as caught:
        Runtime().open(tmp_path / "m.onnx", (), SessionSettings(CUDA, device_graph=True))
    assert caught.value.code == "DEVICE_GRAPH"
    with pytest.raises(WorkError) as caught:
        Runtime().open(tmp_path / "m.onnx", (), SessionSettings(CUDA))
    assert caught.value.code == "LOAD_ERROR"


def test_device_memory_is_asked_of_the_driver(monkeypatch):
    monkeypatch.setattr(_nvidia, "process_memory", lambda: (77, ""))
    assert opened(SessionSettings(CUDA))[0].gpu_memory() == (77, "")
    assert opened(SessionSettings())[0].gpu_memory() == (None, "it runs on the CPU")
