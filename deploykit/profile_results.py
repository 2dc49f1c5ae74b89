"""What `bench --profile` finds out: where the time of a call goes. Frozen, and JSON by `results.to_json`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class OperatorTime:
    """One operator in a profile: its own time over all profiled calls, without that of operators it calls.

    Attributes:
        name: the node in an ONNX graph, else what torch calls the operator.
        op_type: `Gemm`, `addmm`, ….
        provider: who ran it.
        calls: how often it ran in all profiled calls together.
        total_us: microseconds in all of them, interruptions included; over the calls of the profile it is the mean.
        share: `median_us` over the sum of those of all operators, 0 to 1.
        median_us: microseconds in one call of the model, the median over profiled calls.
    """

    name: str
    op_type: str
    provider: str
    calls: int
    total_us: float
    share: float
    median_us: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a call goes, told by the engine's own profiler, which costs time itself: nothing to compare.

    Attributes:
        batch: samples in a call.
        calls: how many were profiled; `wall_us` is the time of all of them, profiler included.
        call_us: median time of one of them.
        covered: the operators' medians together over `call_us`; the rest is the call's own overhead and the profiler's.
        operators: those that take the most time, largest first; `operator_count` tells how many there are.
        nodes: nodes of the graph per provider; `Memcpy` are those that only carry data from one to another.
        trace: the trace's file in the bundle, for ui.perfetto.dev; empty where none was kept.
        reason: why there is no profile; empty where there is one.
    """

    name: str
    provider: str
    batch: int
    calls: int = 0
    wall_us: float | None = None
    covered: float | None = None
    operators: tuple[OperatorTime, ...] = ()
    operator_count: int = 0
    nodes: dict[str, int] = field(default_factory=dict)
    trace: str = ""
    reason: str = ""
    call_us: float | None = None
