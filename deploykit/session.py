"""What every runtime opens: a session that takes feeds and gives feeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

from deploykit.errors import UsageError
from deploykit.signature import Feeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
MAX_THREADS = 1024
"""More threads than this are a slip of the finger."""

GRAPH_LEVELS = ("disable", "basic", "extended", "all")
"""How much ONNX Runtime may rearrange a graph, least first."""

PROVIDERS = {"cpu": CPU, "cuda": CUDA}
"""Short names people type, to ONNX Runtime's full names, which also name the device of the torch runtimes."""


@dataclass(frozen=True)
class SessionSettings:
    """How a session is opened. An engine that has no such switch ignores it.

    Attributes:
        provider: ONNX Runtime's full provider name; torch runtimes map it to their device.
        threads: intra-op threads; None leaves the engine's own default.
        graph_level: ONNX Runtime's graph optimization level: `disable`, `basic`, `extended` or `all`.
        spinning: idle threads of the pool spin for a while before they sleep (ONNX Runtime's default): a shorter
            next call for a core that is never idle.
        arena: memory is kept between calls (ONNX Runtime's default) instead of given back.
        binding: the outputs go into buffers made once, through IOBinding, instead of new arrays at every call.
        tf32: matrix products of a CUDA device may round float32 to 10 bits of mantissa.
        device_graph: a CUDA device replays one recorded graph instead of launching kernel by kernel.
    """

    provider: str = CPU
    threads: int | None = None
    graph_level: str = "all"
    spinning: bool = True
    arena: bool = True
    binding: bool = False
    tf32: bool = False
    device_graph: bool = False

    @property
    def words(self) -> str:
        """What differs from the defaults, provider aside, as `with_words` reads it: `threads=1,spinning=off`."""
        plain = SessionSettings(self.provider)
        return ",".join(
            f"{item.name}={_word(getattr(self, item.name))}"
            for item in fields(self)
            if getattr(self, item.name) != getattr(plain, item.name)
        )

    def with_words(self, text: str) -> SessionSettings:
        """These settings with those changed that `text` names.

        Args:
            text: `threads=1,spinning=off`; an empty text changes nothing.

        Raises:
            UsageError: BAD_SETTING, a setting or a value is unknown, or a setting is given twice.
        """
        changed: dict[str, Any] = {}
        for entry in filter(None, text.split(",")):
            name, _, value = entry.strip().partition("=")
            if name in changed:
                raise UsageError(text, f"{name} is given twice", "give every setting once", "BAD_SETTING")
            changed[name] = _value(name, value, entry)
        return replace(self, **changed)


_SWITCH = {"on": True, "off": False}


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _value(name: str, text: str, entry: str) -> object:
    """The value of setting `name` that `text` means.

    Raises:
        UsageError: BAD_SETTING.
    """
    plain = SessionSettings()
    known = [item.name for item in fields(plain) if item.name != "provider"]
    if name == "threads" and text.isdecimal() and 0 < int(text) <= MAX_THREADS:
        return int(text)
    if name == "graph_level" and text in GRAPH_LEVELS:
        return text
    if name in known and isinstance(getattr(plain, name), bool) and text in _SWITCH:
        return _SWITCH[text]
    ways = {"threads": f"1 to {MAX_THREADS}", "graph_level": " | ".join(GRAPH_LEVELS)}
    hint = f"{name}={ways.get(name, 'on | off')}" if name in known else f"one of {', '.join(known)}"
    raise UsageError(entry, "no setting of a session", hint, "BAD_SETTING")


@dataclass(frozen=True)
class Phases:
    """One call on a device, taken apart; nanoseconds of wall time, each phase synchronized.

    Attributes:
        compute_ns: inputs already there, outputs left there: the scope `device_only`.
        events_ns: the same as two events on the device's own stream see it, the scope `gpu_events`; None, and
            `events_reason` says why, where the stream is the engine's own.
    """

    h2d_ns: int
    compute_ns: int
    d2h_ns: int
    events_ns: int | None = None
    events_reason: str = ""


class Session(Protocol):
    """An opened artifact.

    Attributes:
        provider: full name of the provider that really runs it, read back from the engine.
        threads: intra-op threads read back from the engine, None where it does not tell.
    """

    provider: str
    threads: int | None

    def run(self, feeds: Feeds) -> Feeds:
        """The outputs by name for one set of inputs, numpy in, numpy out."""

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """One host-to-host call bound to `feeds`, with nothing around it: what the benchmark times."""

    def phases(self, feeds: Feeds) -> Phases | None:
        """One call with transfer and compute apart; None where inputs need no transfer."""


class DeviceSession(Session, Protocol):
    """A session that can also tell what it holds of a device's memory."""

    def gpu_memory(self) -> tuple[int | None, str]:
        """The most bytes this process held so far, or None and why not."""


def laid_out(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """The same values lying differently in memory: what a caller's slices and transposes hand to a session.

    Args:
        array: C-contiguous.
        layout: `transposed` (columns first), `strided` (every second element), `channels_last` (4-d arrays),
            `expanded` (all rows share the first one's memory, whose values they must have), or empty.
    """
    import numpy as np
    from numpy.lib.stride_tricks import as_strided

    if layout == "transposed":
        return np.asfortranarray(array)
    if layout == "strided" and array.ndim:
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    if layout == "channels_last" and array.ndim == 4:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    if layout == "expanded" and array.ndim:
        return as_strided(array[:1].copy(), array.shape, (0, *array.strides[1:]))
    return array


def provider_name(text: str) -> str:
    """`cuda`, `CUDA` or `CUDAExecutionProvider` as the full name.

    Raises:
        UsageError: the name is neither a short one nor ends in `ExecutionProvider`.
    """
    if text.lower() in PROVIDERS:
        return PROVIDERS[text.lower()]
    if not text.endswith("ExecutionProvider"):
        raise UsageError(
            f"--on {text}", "unknown execution provider", "cpu, cuda or ONNX Runtime's full name", "UNKNOWN_PROVIDER"
        )
    return text
