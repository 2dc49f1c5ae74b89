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

from deploykit.errors import DeploykitError, WorkError
from deploykit.quiet import quiet
from deploykit.runtimes import _errors
from deploykit.session import CPU, CUDA, Phases, SessionSettings
from deploykit.signature import Feeds

if TYPE_CHECKING:
    from collections.abc import Iterator

Call = Callable[..., Any]
"""An opened module: tensors in, any nest of tensors out."""


def providers() -> tuple[str, ...]:
    """CPU, and CUDA where a device answers."""
    return (CPU, CUDA) if torch.cuda.is_available() else (CPU,)


def open_session(
    artifact: Path, output_names: tuple[str, ...], settings: SessionSettings, load: Callable[[torch.device], Call]
) -> TorchSession:
    """A session around what `load` returns for the wanted device.

    Raises:
        WorkError: PROVIDER_FALLBACK when torch has no such device; LOAD_ERROR when `load` fails.
    """
    _errors.check_there(artifact)
    device = _device(artifact, settings.provider)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    # TF32 keeps 10 bits of mantissa: no fp32 verdict could be given
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with quiet():
        try:
            call = load(device)
        except DeploykitError:
            raise
        except Exception as error:  # a damaged archive raises anything, from KeyError to RuntimeError
            raise _errors.load_error(artifact, error) from error
    return TorchSession(call, artifact, output_names, device)


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
    """

    def __init__(self, call: Call, artifact: Path, output_names: tuple[str, ...], device: torch.device) -> None:
        self.provider = CUDA if device.type == "cuda" else CPU
        self.threads: int | None = torch.get_num_threads()
        self._call, self._artifact, self._names, self._device = call, artifact, output_names, device

    def run(self, feeds: Feeds) -> Feeds:
        """The outputs by name; `feeds` in call order, contiguous ones copied: a module may write to its inputs."""
        with self._one_edge():
            inputs = [_tensor(array).to(self._device) for array in feeds.values()]
            leaves = _leaves(self._call(*inputs))
            arrays = [_array(leaf) for leaf in leaves]
        return dict(zip(_errors.names_for(self._artifact, self._names, len(arrays)), arrays, strict=True))

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """One call with host tensors in and out; on a device that includes both transfers."""
        inputs = [torch.from_numpy(np.array(array, order="C")) for array in feeds.values()]
        call, device = self._call, self._device

        @torch.inference_mode()
        def on_host() -> object:
            return call(*inputs)

        @torch.inference_mode()
        def on_device() -> object:
            return [leaf.cpu() for leaf in _leaves(call(*(tensor.to(device) for tensor in inputs)))]

        return on_host if device.type == "cpu" else on_device

    def phases(self, feeds: Feeds) -> Phases | None:
        """Transfer in, compute, transfer out, each synchronized; None on the CPU."""
        if self._device.type == "cpu":
            return None
        inputs = [torch.from_numpy(np.array(array, order="C")) for array in feeds.values()]
        with self._one_edge():
            torch.cuda.synchronize()
            start = time.perf_counter_ns()
            there = [tensor.to(self._device) for tensor in inputs]
            torch.cuda.synchronize()
            copied = time.perf_counter_ns()
            leaves = _leaves(self._call(*there))
            torch.cuda.synchronize()
            computed = time.perf_counter_ns()
            _back = [leaf.cpu() for leaf in leaves]
            end = time.perf_counter_ns()
        return Phases(copied - start, computed - copied, end - computed)

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
    return [leaf for leaf in pytree.tree_leaves(value) if leaf is not None]


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    plain = tensor.detach().cpu()
    # numpy has no bfloat16
    array: np.ndarray[Any, Any] = (plain.float() if plain.dtype == torch.bfloat16 else plain).contiguous().numpy()
    return array.copy()
