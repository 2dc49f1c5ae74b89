"""Calls of ONNX Runtime on a device, through IOBinding: transfer in, compute and transfer out are separate steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from deploykit.errors import WorkError
from deploykit.runtimes import _errors
from deploykit.runtimes._host_binding import DTYPES, HostBinding, shape_of
from deploykit.session import CPU, CUDA, SessionSettings
from deploykit.signature import Feeds

GRAPH_ID = "gpu_graph_id"
"""The run option that tells recorded graphs apart; one graph holds for one set of shapes."""

_REFUSED = "as requested by the user"
"""How onnxruntime says, in every version so far, that it cannot record this model."""


def providers(settings: SessionSettings) -> list[Any]:
    """What an InferenceSession is given: the wanted provider with its options, and the CPU beside it."""
    if settings.provider != CUDA:
        return list(dict.fromkeys((settings.provider, CPU)))
    switches = {"use_tf32": settings.tf32, "enable_cuda_graph": settings.device_graph}
    return [(CUDA, {name: str(int(value)) for name, value in switches.items()}), CPU]


def refusal(artifact: Path, settings: SessionSettings, error: Exception) -> WorkError:
    """The error for a session that did not open: DEVICE_GRAPH where it is about the recording, else LOAD_ERROR."""
    text = str(error)
    if settings.device_graph and _REFUSED in text:
        reason = "not every node has a kernel there" if "control flow" not in text else "the model has control flow"
        return _errors.graph_error(artifact, reason)
    return _errors.load_error(artifact, error)


class DeviceCall(Protocol):
    """One way to call, for inputs of one set of shapes."""

    def copy_in(self, feeds: Feeds) -> None:
        """Bring contiguous arrays to the device; done when it returns."""

    def compute(self) -> None:
        """Run, and wait for the device."""

    def fetch(self) -> list[Any]:
        """The outputs as arrays on the host."""


class Free:
    """Everything new at every call, as a caller does who hands over arrays."""

    def __init__(self, ort: Any, session: Any, names: list[str], device: str) -> None:
        self._ort, self._session, self._names, self._device = ort, session, names, device
        self._binding: Any = None

    def copy_in(self, feeds: Feeds) -> None:
        """Bring contiguous arrays to the device."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0))
        for name in self._names:
            binding.bind_output(name, self._device, 0)
        binding.synchronize_inputs()
        self._binding = binding

    def compute(self) -> None:
        """Run, and wait for the device."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def fetch(self) -> list[Any]:
        """The outputs as arrays on the host."""
        return [value.numpy() for value in self._binding.get_outputs()]


class Fixed:
    """Inputs and outputs in buffers of the device that are made once; with `graph`, recorded and replayed.

    Args:
        ort: the onnxruntime module.
        session: an opened InferenceSession.
        feeds: contiguous; all later ones have their shapes and dtypes.
        device: onnxruntime's word for it.
        graph: number of the recording, from 1; 0 records nothing.
        artifact: named in errors.

    Raises:
        WorkError: DEVICE_GRAPH, the shapes of the inputs do not tell that of an output, so its address may change.
    """

    def __init__(self, ort: Any, session: Any, feeds: Feeds, device: str, graph: int, artifact: Path) -> None:
        self._session, self._options = session, None
        value = ort.OrtValue
        self._inputs = {name: value.ortvalue_from_numpy(array, device, 0) for name, array in feeds.items()}
        self._binding = session.io_binding()
        for name, buffer in self._inputs.items():
            self._binding.bind_ortvalue_input(name, buffer)
        sizes = HostBinding(ort, session).sizes(feeds)
        for output in session.get_outputs():
            shape = shape_of(tuple(output.shape or ()), sizes)
            if shape is not None and output.type in DTYPES:
                made = value.ortvalue_from_shape_and_type(list(shape), DTYPES[output.type], device, 0)
                self._binding.bind_ortvalue_output(output.name, made)
            elif graph:
                raise _errors.graph_error(artifact, f"the shape of {output.name} may depend on values")
            else:
                self._binding.bind_output(output.name, device, 0)
        if graph:
            self._options = ort.RunOptions()
            self._options.add_run_config_entry(GRAPH_ID, str(graph))
            self.compute()  # the recording

    def copy_in(self, feeds: Feeds) -> None:
        """Write contiguous arrays into the buffers."""
        for name, array in feeds.items():
            self._inputs[name].update_inplace(array)
        self._binding.synchronize_inputs()

    def compute(self) -> None:
        """Run or replay, and wait for the device."""
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()

    def fetch(self) -> list[Any]:
        """The outputs as arrays on the host."""
        return [value.numpy() for value in self._binding.get_outputs()]


class DeviceCalls:
    """The ways to call one session, by the shapes and dtypes of the inputs."""

    def __init__(self, ort: Any, session: Any, artifact: Path, device: str, settings: SessionSettings) -> None:
        self._ort, self._session, self._artifact, self._device = ort, session, artifact, device
        self.recorded = settings.device_graph and settings.provider == CUDA
        self._fixed = settings.binding or self.recorded
        self._made: dict[tuple[Any, ...], Fixed] = {}

    def of(self, feeds: Feeds) -> DeviceCall:
        """How to call with such inputs."""
        if not self._fixed:
            names = [output.name for output in self._session.get_outputs()]
            return Free(self._ort, self._session, names, self._device)
        key = tuple((name, array.shape, array.dtype.str) for name, array in feeds.items())
        if key not in self._made:
            graph = len(self._made) + 1 if self.recorded else 0
            self._made[key] = Fixed(self._ort, self._session, feeds, self._device, graph, self._artifact)
        return self._made[key]
