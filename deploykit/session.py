"""What every runtime opens: a session that takes feeds and gives feeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from deploykit.errors import UsageError
from deploykit.signature import Feeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}
"""Short names people type, to ONNX Runtime's full names, which also name the device of the torch runtimes."""


@dataclass(frozen=True)
class SessionSettings:
    """How a session is opened.

    Attributes:
        provider: ONNX Runtime's full provider name; torch runtimes map it to their device.
        threads: intra-op threads; None leaves the engine's own default.
        graph_level: ONNX Runtime's graph optimization level: `disable`, `basic`, `extended` or `all`.
    """

    provider: str = CPU
    threads: int | None = None
    graph_level: str = "all"


@dataclass(frozen=True)
class Phases:
    """One call on a device, taken apart; nanoseconds of wall time, each phase synchronized."""

    h2d_ns: int
    compute_ns: int
    d2h_ns: int


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
