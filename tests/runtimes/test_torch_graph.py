"""Recorded torch calls. The device is a stand-in: what is recorded is run again by `replay`, on the host."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deploykit.errors import WorkError
from deploykit.runtimes import _torch_graph
from deploykit.runtimes._torch import TorchSession, open_session
from deploykit.session import SessionSettings

HOST = torch.device("cpu")


class FakeDevice:
    """torch.cuda, as far as a recording uses it; `log` has what happened in order."""

    def __init__(self):
        self.log, self.recording = [], None

    def Stream(self, device):  # noqa: N802 - torch's name
        return self

    def current_stream(self, device):
        return self

    def wait_stream(self, other):
        self.log.append("wait")

    @contextmanager
    def stream(self, stream):
        self.log.append("side")
        yield

    def CUDAGraph(self):  # noqa: N802 - torch's name
        device = self

        class Graph:
            kernels = None

            def replay(self):
                device.log.append("replay")
                self.kernels()

        return Graph()

    @contextmanager
    def graph(self, graph):
        self.log.append("record")
        self.recording = graph
        yield
        self.recording = None


@pytest.fixture
def device(monkeypatch):
    fake = FakeDevice()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def doubling(device):
    """y = 2x; while recording, what replays it writes to the same output."""

    def call(x):
        device.log.append("call")
        y = x * 2
        if device.recording is not None:
            device.recording.kernels = lambda: y.copy_(x * 2)
        return [y]

    return call


def test_records_once_after_a_warm_up_and_replays_in_place(device):
    replay = _torch_graph.Replay(doubling(device), [torch.ones(3)], HOST)
    assert device.log == ["wait", "side", *["call"] * _torch_graph.WARM_UP_CALLS, "wait", "record", "call"]
    device.log.clear()
    before = replay.outputs[0].data_ptr()
    for value in (3.0, 5.0):
        replay.copy_in([torch.full((3,), value)])
        (answer,) = replay.replay()
        assert answer.tolist() == [2 * value] * 3
        assert answer.data_ptr() == before
    assert device.log == ["replay", "replay"]


def test_every_shape_and_dtype_has_a_recording_of_its_own(device):
    replays = _torch_graph.Replays(doubling(device), HOST)
    first = replays.of([torch.ones(3)])
    assert replays.of([torch.zeros(3)]) is first
    others = [replays.of([torch.ones(4)]), replays.of([torch.ones(3, dtype=torch.float64)])]
    assert len({id(one) for one in (first, *others)}) == 3


def session(device, tmp_path, call):
    """A session that believes in its device."""
    made = TorchSession(call, tmp_path / "v" / "m.pt", ("y",), HOST)
    made._replays = _torch_graph.Replays(lambda *inputs: list(call(*inputs)), HOST)
    return made


def test_a_recorded_session_answers_every_call_with_its_own_values(device, tmp_path):
    made = session(device, tmp_path, doubling(device))
    feeds = [{"x": np.full(3, value, np.float32)} for value in (1, 4)]
    calls = [made.prepare(one) for one in feeds]
    assert device.log.count("record") == 1
    for call, want in zip(calls * 2, (2, 8) * 2, strict=True):
        assert call()[0].tolist() == [want] * 3
    kept = made.run(feeds[0])["y"]
    made.run(feeds[1])
    assert kept.tolist() == [2, 2, 2], "an answer must not change with the next call"


def test_what_cannot_be_recorded_says_so(device, tmp_path):
    def waits(x):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nat /a/b.cpp:12")

    for work in ("run", "prepare"):
        with pytest.raises(WorkError, match="cannot run as a device graph: CUDA error") as caught:
            getattr(session(device, tmp_path, waits), work)({"x": np.ones(3, np.float32)})
        assert caught.value.code == "DEVICE_GRAPH"
        assert "/a/b" not in str(caught.value)


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_what_the_settings_say(tmp_path, tf32):
    (tmp_path / "m").write_bytes(b"x")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        open_session(tmp_path / "m", ("y",), SessionSettings(tf32=tf32), lambda device: torch.nn.Identity())
        assert torch.backends.cuda.matmul.allow_tf32 is tf32
        assert torch.backends.cudnn.allow_tf32 is tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_on_the_host_nothing_is_recorded_and_no_device_memory_held(tmp_path):
    (tmp_path / "m").write_bytes(b"x")
    settings = SessionSettings(device_graph=True)
    made = open_session(tmp_path / "m", ("y",), settings, lambda device: torch.nn.Identity())
    assert made._replays is None
    assert made.gpu_memory() == (None, "it runs on the CPU")
    assert made.phases({"x": np.ones(3, np.float32)}) is None


def test_what_compiles_is_called_once_before_it_is_timed(tmp_path):
    seen = []
    made = TorchSession(lambda x: seen.append(1) or x, tmp_path / "m", ("y",), HOST, builds=True)
    call = made.prepare({"x": np.ones(3, np.float32)})
    assert len(seen) == 1
    call()
    assert len(seen) == 2


class FakeEvent:
    made = 0

    def __init__(self, enable_timing):
        assert enable_timing
        FakeEvent.made += 1

    def record(self):
        """Nothing to record."""

    def elapsed_time(self, other):
        assert isinstance(other, FakeEvent)
        return 1.25  # milliseconds


def test_phases_on_a_device_have_event_times(monkeypatch, tmp_path, device):
    done = []
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 12_345)
    made = TorchSession(lambda x: x * 2, tmp_path / "m", ("y",), torch.device("cuda", 0))
    made._device = there = SimpleNamespace(type="cuda")  # a device without a driver
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self if device is there else None)
    phases = made.phases({"x": np.ones(3, np.float32)})
    assert phases.events_ns == 1_250_000
    assert done == ["synchronize"] * 3
    assert min(phases.h2d_ns, phases.compute_ns, phases.d2h_ns) >= 0
    assert made.gpu_memory() == (12_345, "")


def test_threads_of_one_session_are_not_inherited_by_the_next(tmp_path):
    (tmp_path / "m").write_bytes(b"x")
    usual = torch.get_num_threads()
    try:
        for wish, got in ((usual + 1, usual + 1), (None, usual)):
            made = open_session(
                tmp_path / "m", ("y",), SessionSettings(threads=wish), lambda device: torch.nn.Identity()
            )
            assert (made.threads, torch.get_num_threads()) == (got, got)
    finally:
        torch.set_num_threads(usual)
