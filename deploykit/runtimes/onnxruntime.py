"""ONNX Runtime. The provider that really runs is read back: asked for one it cannot load, it takes the CPU silently."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deploykit.errors import WorkError
from deploykit.runtimes import _errors, _nvidia, _ort_device
from deploykit.runtimes._host_binding import HostBinding
from deploykit.runtimes._ort_device import DeviceCall, DeviceCalls
from deploykit.session import CPU, CUDA, Phases, Session, SessionSettings
from deploykit.signature import Feeds

_ERROR = 3
"""Severity from which onnxruntime logs: warnings about graphs we did not write help nobody."""

_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}

_REMOTE = "AzureExecutionProvider"
"""Always listed, has no kernels, and calls a web service."""

_ON_HOST = {CPU, "OpenVINOExecutionProvider", "DnnlExecutionProvider", "XnnpackExecutionProvider"}
"""Providers that read inputs where numpy keeps them."""

_OWN_STREAM = "onnxruntime computes on a stream of its own"

_PACKAGES = {
    CUDA: "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
}


@dataclass(frozen=True)
class Runtime:
    """`onnxruntime.InferenceSession`."""

    stack: ClassVar[str] = "onnxruntime"
    runs_code: ClassVar[bool] = False
    imports: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def unavailable(self) -> str | None:
        """Why this engine cannot be used here; None when it can."""
        return None if find_spec("onnxruntime") else "the package onnxruntime is not installed"

    def providers(self) -> tuple[str, ...]:
        """The listed providers with which a one-node model really opens: being listed is no proof."""
        import onnxruntime as ort

        probe = _probe()
        return tuple(name for name in ort.get_available_providers() if name == CPU or _opens(ort, probe, name))

    def open(self, artifact: Path, output_names: tuple[str, ...], settings: SessionSettings) -> Session:  # noqa: ARG002 - ONNX names its own
        """Open the model on the wanted provider, with the CPU beside it for nodes that have no kernel there.

        Raises:
            WorkError: PROVIDER_FALLBACK, LOAD_ERROR.
        """
        return self._open(artifact, settings)

    def profile(
        self,
        artifact: Path,
        output_names: tuple[str, ...],  # noqa: ARG002 - ONNX names its own
        settings: SessionSettings,
        trace: Path,
        plan: Callable[[Session], Callable[[], object]],
    ) -> None:
        """Open with onnxruntime's profiler on, warm up by `plan`, make the calls that it gives, write the Chrome trace.

        The profiler runs from the opening on: the trace holds the warm-up too.

        Raises:
            WorkError: as `open`.
        """
        session = self._open(artifact, settings, trace)
        plan(session)()
        session.end_profiling().replace(trace)

    @staticmethod
    def _open(artifact: Path, settings: SessionSettings, trace: Path | None = None) -> OrtSession:
        import onnxruntime as ort

        _errors.check_there(artifact)
        session, reason = None, "this onnxruntime is built without it"
        if settings.provider == _REMOTE:
            reason = "it has no kernels, it calls a web service"
        elif settings.provider in ort.get_available_providers():
            session, reason = _create(ort, artifact, settings, trace)
        got = session.get_providers()[0] if session is not None else CPU
        if session is None or got != settings.provider:
            package = _PACKAGES.get(settings.provider)
            hint = f"install {package} with its libraries, or use --on cpu" if package else "use --on cpu"
            raise _errors.fallback(artifact, settings.provider, got, reason, hint)
        return OrtSession(ort, session, artifact, settings)


class OrtSession:
    """An InferenceSession; on a device the feeds travel through IOBinding, so that transfers can be told from compute.

    Args:
        ort: the onnxruntime module.
        session: an opened InferenceSession.
        artifact: named in errors.
        settings: what it was opened with; `binding` takes calls through IOBinding on the host, too.
    """

    def __init__(self, ort: Any, session: Any, artifact: Path, settings: SessionSettings) -> None:
        self.provider = settings.provider
        # 0 is "as many as cores", which it does not tell
        self.threads: int | None = session.get_session_options().intra_op_num_threads or None
        self._session, self._artifact = session, artifact
        self._names = [output.name for output in session.get_outputs()]
        on_host = self.provider in _ON_HOST
        self._there = None if on_host else DeviceCalls(ort, session, artifact, "cuda", settings)
        bound = HostBinding(ort, session) if settings.binding and on_host else None
        self._bound = bound if bound is not None and bound.fits() else None

    def run(self, feeds: Feeds) -> Feeds:
        """The outputs under the names that the model gives them, in arrays of their own."""
        with self._one_edge():
            if self._bound is not None:
                answer = self._bound.prepare(_dense(feeds))()
                return {name: array.copy() for name, array in zip(self._names, answer, strict=True)}
            if self._there is not None and self._there.recorded:
                dense = _dense(feeds)
                return dict(zip(self._names, _carried(self._there.of(dense), dense), strict=True))
            return dict(zip(self._names, self._session.run(self._names, _dense(feeds)), strict=True))

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """One call, numpy in and numpy out; on a device that includes both transfers."""
        dense = _dense(feeds)
        if self._bound is not None:
            with self._one_edge():
                return self._bound.prepare(dense)
        if self._there is None:
            return partial(self._session.run, self._names, dense)
        with self._one_edge():
            return partial(_carried, self._there.of(dense), dense)

    def phases(self, feeds: Feeds) -> Phases | None:
        """Transfer in, compute, transfer out, each synchronized; None where the inputs stay on the host."""
        if self._there is None:
            return None
        dense = _dense(feeds)
        with self._one_edge():
            there = self._there.of(dense)
            start = time.perf_counter_ns()
            there.copy_in(dense)
            copied = time.perf_counter_ns()
            there.compute()
            computed = time.perf_counter_ns()
            there.fetch()
            end = time.perf_counter_ns()
        return Phases(copied - start, computed - copied, end - computed, events_reason=_OWN_STREAM)

    def gpu_memory(self) -> tuple[int | None, str]:
        """What this process holds of the device now: onnxruntime's arena keeps what it once took."""
        return (None, "it runs on the CPU") if self._there is None else _nvidia.process_memory()

    def end_profiling(self) -> Path:
        """The Chrome trace of everything since the opening, where the session was opened for that."""
        return Path(self._session.end_profiling())

    @contextmanager
    def _one_edge(self) -> Iterator[None]:
        try:
            yield
        except WorkError:
            raise
        except Exception as error:  # the edge to onnxruntime, whose exceptions share no base
            raise _errors.run_error(self._artifact, error) from error


def _carried(there: DeviceCall, feeds: Feeds) -> list[Any]:
    """One call from host to host."""
    there.copy_in(feeds)
    there.compute()
    return there.fetch()


def _create(ort: Any, artifact: Path, settings: SessionSettings, trace: Path | None) -> tuple[Any, str]:
    """The session, and what the engine wrote to stderr about a provider that it could not load."""
    # nothing leaves this machine; the child is also started with ORT_DISABLE_TELEMETRY, which acts from the import on
    ort.disable_telemetry_events()
    ort.set_default_logger_severity(_ERROR)
    if settings.provider == CPU:
        return _session(ort, str(artifact), artifact, settings, trace), ""
    said: list[str] = []
    with _engine_output(said), redirect_stdout(io.StringIO()):
        # CUDA's libraries may lie in Python packages, where the dynamic loader does not look
        if settings.provider == CUDA and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        session = _session(ort, str(artifact), artifact, settings, trace)
    return session, _why(said[0])


def _session(ort: Any, model: str | bytes, artifact: Path, settings: SessionSettings, trace: Path | None = None) -> Any:
    options = ort.SessionOptions()
    if trace is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(trace.with_suffix(""))
    options.log_severity_level = _ERROR
    options.inter_op_num_threads = 1
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[settings.graph_level])
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    options.enable_cpu_mem_arena = settings.arena
    # a pattern is one block for all of a call: without an arena the system would be asked for it every time
    options.enable_mem_pattern = settings.arena
    try:
        return ort.InferenceSession(model, options, providers=_ort_device.providers(settings))
    except Exception as error:  # the edge to onnxruntime, whose exceptions share no base
        raise _ort_device.refusal(artifact, settings, error) from error


@contextmanager
def _engine_output(said: list[str]) -> Iterator[None]:
    """Collect what C++ code writes to stderr: it is the only place where onnxruntime says why a provider is missing."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read().decode("utf-8", "replace"))


def _why(text: str) -> str:
    """The library that could not be loaded, or the first line of `text`, cleaned."""
    lines = [line for line in text.splitlines() if line.strip()]
    line = next((line for line in lines if "with error:" in line), lines[0] if lines else "")
    return _errors.clean(line.partition("with error:")[2] or line.rpartition("]")[2])


def _dense(feeds: Feeds) -> Feeds:
    """Contiguous arrays; not `ascontiguousarray`, which gives a scalar a dim."""
    return {name: np.asarray(array, order="C") for name, array in feeds.items()}


def _probe() -> bytes:
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


def _opens(ort: Any, probe: bytes, provider: str) -> bool:
    if provider == _REMOTE:
        return False
    said: list[str] = []
    try:
        with _engine_output(said), redirect_stdout(io.StringIO()):
            session = _session(ort, probe, Path("probe"), SessionSettings(provider))
    except WorkError:
        return False
    return bool(session.get_providers()[0] == provider)
