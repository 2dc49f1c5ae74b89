"""What every runtime opens: a session that takes feeds and gives feeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from deploykit.errors import UsageError
from deploykit.signature import Feeds

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
