"""One session for everything that torch calls. It imports torch at the top: runtimes import it in `open` only."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from deploykit import nested
from deploykit.errors import DeploykitError, WorkError
from deploykit.quiet import quiet
from deploykit.runtimes import _errors
from deploykit.runtimes._torch_graph import Replay, Replays
from deploykit.session import CPU, CUDA, Phases, SessionSettings
from deploykit.signature import Feeds

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEFAULT_THREADS = torch.get_num_threads()
"""The count is the process's own: a session without a wish must not inherit that of an earlier one."""

Call = Callable[..., Any]
"""An opened module: tensors in, any nest of tensors out."""


def providers() -> tuple[str, ...]:
    """CPU, and CUDA where a device answers."""
    return (CPU, CUDA) if torch.cuda.is_available() else (CPU,)


def open_session(
    artifact: Path,
    output_names: tuple[str, ...],
    settings: SessionSettings,
    load: Callable[[torch.device], Call],
    *,
    builds: bool = False,
) -> TorchSession:
    """A session around what `load` returns for the wanted device; `builds` as in `TorchSession`.

    Raises:
        WorkError: PROVIDER_FALLBACK when torch has no such device; LOAD_ERROR when `load` fails.
    """
    _errors.check_there(artifact)
    device = _device(artifact, settings.provider)
    torch.set_num_threads(settings.threads or _DEFAULT_THREADS)
    # TF32 keeps 10 bits of mantissa: no fp32 verdict could be given unless it was asked for
    torch.backends.cuda.matmul.allow_tf32 = settings.tf32
    torch.backends.cudnn.allow_tf32 = settings.tf32
    with quiet():
        try:
            call = load(device)
        except DeploykitError:
            raise
        except Exception as error:  # a damaged archive raises anything, from KeyError to RuntimeError
            raise _errors.load_error(artifact, error) from error
    return TorchSession(call, artifact, output_names, device, builds=builds, recorded=settings.device_graph)


def profiled(calls: Callable[[], object], trace: Path, provider: str) -> None:
    """Make `calls` under torch's profiler and write its Chrome trace."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if provider == CUDA:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        calls()
    profiler.export_chrome_trace(str(trace))


def _device(artifact: Path, provider: str) -> torch.device:
    if provider == CPU:
        return torch.device("cpu")
    hint = "use --on cpu, or install a torch build with CUDA on a machine with a device"
    if provider != CUDA:
        raise _errors.fallback(artifact, provider, CPU, "torch has no such provider", "use --on cpu or --on cuda")
    if not torch.cuda.is_available():
        built = "no CUDA device answers" if torch.version.cuda else "this torch is built without CUDA"
        raise _errors.fallback(artifact, provider, CPU, built, hint)
    return torch.device("cuda", 0)


class TorchSession:
    """A callable on a device, seen through numpy.

    Args:
        call: takes tensors in the order of the feeds.
        artifact: named in errors.
        output_names: names of the outputs, flattened in pytree order without `None` leaves.
        device: where `call` expects its inputs.
        builds: the first call of every shape compiles something, which `prepare` then makes apart.
        recorded: on a CUDA device, calls are recorded as CUDA graphs and replayed.
    """

    def __init__(
        self,
        call: Call,
        artifact: Path,
        output_names: tuple[str, ...],
        device: torch.device,
        *,
        builds: bool = False,
        recorded: bool = False,
    ) -> None:
        self.provider = CUDA if device.type == "cuda" else CPU
        self.threads: int | None = torch.get_num_threads()
        self._call, self._artifact, self._names, self._device = call, artifact, output_names, device
        self._builds = builds
        self._replays = (
            Replays(lambda *inputs: _leaves(call(*inputs)), device) if recorded and device.type == "cuda" else None
        )

    def run(self, feeds: Feeds) -> Feeds:
        """The outputs by name; `feeds` in call order, contiguous ones copied: a module may write to its inputs."""
        with self._one_edge():
            inputs = [_tensor(array) for array in feeds.values()]
            replay = self._replay(inputs)
            if replay is None:
                leaves = _leaves(self._call(*(tensor.to(self._device) for tensor in inputs)))
            else:
                replay.copy_in(inputs)
                leaves = replay.replay()
            arrays = [_array(leaf) for leaf in leaves]
        return dict(zip(_errors.names_for(self._artifact, self._names, len(arrays)), arrays, strict=True))

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """One call with host tensors in and out; on a device that includes both transfers."""
        inputs = [torch.from_numpy(np.array(array, order="C")) for array in feeds.values()]
        call, device = self._call, self._device
        with self._one_edge():
            replay = self._replay(inputs)

        @torch.inference_mode()
        def on_host() -> object:
            return call(*inputs)

        @torch.inference_mode()
        def on_device() -> object:
            return [leaf.cpu() for leaf in _leaves(call(*(tensor.to(device) for tensor in inputs)))]

        @torch.inference_mode()
        def replayed() -> object:
            assert replay is not None
            replay.copy_in(inputs)
            return [leaf.cpu() for leaf in replay.replay()]

        chosen = replayed if replay is not None else on_host if device.type == "cpu" else on_device
        if self._builds:
            with self._one_edge():
                chosen()
        return chosen

    def phases(self, feeds: Feeds) -> Phases | None:
        """Transfer in, compute, transfer out, each synchronized; None on the CPU."""
        if self._device.type == "cpu":
            return None
        inputs = [torch.from_numpy(np.array(array, order="C")) for array in feeds.values()]
        with self._one_edge():
            replay = self._replay(inputs)
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            there: list[torch.Tensor] = []
            torch.cuda.synchronize()
            start = time.perf_counter_ns()
            if replay is None:
                there = [tensor.to(self._device) for tensor in inputs]
            else:
                replay.copy_in(inputs)
            torch.cuda.synchronize()
            copied = time.perf_counter_ns()
            before.record()
            leaves = _leaves(self._call(*there)) if replay is None else replay.replay()
            after.record()
            torch.cuda.synchronize()
            computed = time.perf_counter_ns()
            _back = [leaf.cpu() for leaf in leaves]
            end = time.perf_counter_ns()
            events_ns = round(before.elapsed_time(after) * 1e6)
        return Phases(copied - start, computed - copied, end - computed, events_ns)

    def gpu_memory(self) -> tuple[int | None, str]:
        """The most that torch's allocator held of the device, without what the CUDA context itself takes."""
        if self._device.type == "cpu":
            return None, "it runs on the CPU"
        return int(torch.cuda.max_memory_reserved(self._device)), ""

    def _replay(self, inputs: list[torch.Tensor]) -> Replay | None:
        """The recorded call for such inputs; None where calls are not recorded.

        Raises:
            WorkError: DEVICE_GRAPH.
        """
        if self._replays is None:
            return None
        try:
            return self._replays.of(inputs)
        except Exception as error:  # whatever a module does that a recording cannot hold
            raise _errors.graph_error(self._artifact, _errors.clean(str(error)) or type(error).__name__) from error

    @contextmanager
    def _one_edge(self) -> Iterator[None]:
        try:
            with torch.inference_mode(), quiet():
                yield
        except WorkError:
            raise
        except Exception as error:  # the edge to torch: whatever a module raises is this call's error
            raise _errors.run_error(self._artifact, error) from error


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A copy, lying in memory as `array` does: a case about strides must reach the program with them."""
    strided = not array.flags.c_contiguous and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if strided else np.array(array, order="C"))


def _leaves(value: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(value)
    if not all(leaf is None or isinstance(leaf, torch.Tensor) for leaf in leaves):
        nested.register_dataclasses(value)
        leaves = pytree.tree_leaves(value)
    return [leaf for leaf in leaves if leaf is not None]


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    plain = tensor.detach().cpu()
    # numpy has no bfloat16
    array: np.ndarray[Any, Any] = (plain.float() if plain.dtype == torch.bfloat16 else plain).contiguous().numpy()
    return array.copy()
