"""What `bench` finds out: times, comparisons and the recommendation. Frozen, and JSON by `results.to_json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deploykit.results import SCHEMA, VerifyReport


@dataclass(frozen=True)
class BenchRow:
    """One variant at one batch size. A number that cannot be had honestly is None, its `…_reason` says why.

    Attributes:
        median_ns: median over launches of the launch's median time of one host-to-host call, nanoseconds.
        median_ci_ns: interval around it; `median_ci_level` is its confidence.
        p90_ns, p99_ns: percentiles over all calls of all launches.
        throughput_per_s: samples per second really done, calls × batch over busy time.
        load_ms, first_call_ms: opening the artifact, and the first call, medians over launches.
        peak_rss_bytes: largest VmHWM of a worker, import of the engine included; median over launches.
        h2d_ns, compute_ns, d2h_ns: medians of the phases of one call on a device; None on the CPU.
        threads: intra-op threads, read back from the engine.
        verdict: `measured`, `not_steady`, `not_measured`; `reason` says why for the last two.
    """

    name: str
    provider: str
    batch: int
    threads: int | None
    verdict: Literal["measured", "not_steady", "not_measured"]
    reason: str = ""
    median_ns: float | None = None
    median_ci_ns: tuple[float, float] | None = None
    median_ci_level: float | None = None
    median_ci_ns_reason: str | None = None
    p90_ns: float | None = None
    p90_ns_reason: str | None = None
    p99_ns: float | None = None
    p99_ns_reason: str | None = None
    throughput_per_s: float | None = None
    load_ms: float | None = None
    first_call_ms: float | None = None
    peak_rss_bytes: int | None = None
    file_bytes: int | None = None
    h2d_ns: float | None = None
    compute_ns: float | None = None
    d2h_ns: float | None = None
    calls: int = 0
    launches: int = 0


@dataclass(frozen=True)
class Comparison:
    """`candidate` against `base` at one batch: `ratio` of times, below 1 when the candidate is faster."""

    base: str
    candidate: str
    batch: int
    ratio: float | None
    ci: tuple[float, float] | None
    ci_level: float | None
    verdict: Literal["faster", "slower", "indistinguishable", "not_measured"]


@dataclass(frozen=True)
class Choice:
    """A variant with one line of reason."""

    variant: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """Which variant to ship. `variant` is None when none qualifies; `ranking` is best first."""

    variant: str | None
    reason: str
    ranking: tuple[Choice, ...] = ()
    rejected: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class BenchReport:
    """The benchmark's answer for a bundle; `protocol` says how it was measured."""

    bundle: str
    environment: dict[str, Any]
    protocol: dict[str, Any]
    variants: tuple[BenchRow, ...]
    comparisons: tuple[Comparison, ...] = ()
    recommendation: Recommendation | None = None
    exit_code: int = 0
    schema: int = SCHEMA


@dataclass(frozen=True)
class RunReport:
    """All of `deploykit run` in one document."""

    bundle: str
    exit_code: int
    training: dict[str, Any] | None
    export: dict[str, Any]
    verify: VerifyReport
    bench: BenchReport
    seconds: dict[str, float]
    schema: int = SCHEMA
