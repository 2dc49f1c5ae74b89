"""What `bench` finds out: times, comparisons and the recommendation. Frozen, and JSON by `results.to_json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from deploykit.profile_results import Profile
from deploykit.results import SCHEMA, HandoffReport, VerifyReport
from deploykit.tune_results import Tuned

EAGER, COMPILED = BASE_LINES = ("eager", "torch-compile")
"""Subjects that are the live module itself: measured to compare with, and no artifacts that could be shipped."""

MATTERS = 0.02
"""Smallest relative difference worth a word: under it two variants count as equal (the gate's +2 % in bench.md)."""

Goal = Literal["latency", "throughput", "memory", "size"]
"""What is to be best: time of a call, samples per second, peak memory of the process, or bytes of the artifact."""


@dataclass(frozen=True)
class BenchRow:
    """One variant at one batch size. A number that cannot be had honestly is None, its `…_reason` says why.

    Attributes:
        median_ns: median over launches of the launch's median time of one host-to-host call, nanoseconds.
        median_ci_ns: interval around it; `median_ci_level` is its confidence.
        p90_ns, p99_ns: percentiles over all calls of all launches.
        p90_at_most_ns: an upper limit of `p90_ns` where calls are too short to be timed one by one: a call takes at
            most as long as the reading it is a part of.
        throughput_per_s: samples per second really done, calls × batch over busy time.
        load_ms, first_call_ms: opening the artifact, and the first call, medians over launches.
        peak_rss_bytes: largest VmHWM of a worker, import of the engine included; median over launches.
        h2d_ns, compute_ns, d2h_ns: medians of the phases of one call on a device; None on the CPU.
        gpu_memory_bytes: the most that the worker held of a device's memory; None on the CPU.
        events_ns: the compute phase as the device's own clock sees it; `compute_ns` is the host's.
        nodes: nodes of an ONNX graph per provider, on a device; `Memcpy` are those that only carry data across.
        threads: intra-op threads, read back from the engine.
        verdict: `measured`, `not_steady`, `not_measured`; `reason` says why for the last two.
        settings: what its sessions were opened with, in the words of `SessionSettings.words`.
        clients: connections over which a running server was asked at once; 0 for what ran in the worker. Of a server,
            `throughput_per_s` is the median over launches of requests × batch over wall time, all clients together,
            and `throughput_ci` the interval around it, with the confidence `median_ci_level`.
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
    gpu_memory_bytes: int | None = None
    gpu_memory_reason: str | None = None
    events_ns: float | None = None
    events_ns_reason: str | None = None
    nodes: dict[str, int] = field(default_factory=dict)
    settings: str = ""
    p90_at_most_ns: float | None = None
    clients: int = 0
    throughput_ci: tuple[float, float] | None = None


@dataclass(frozen=True)
class Comparison:
    """`candidate` against `base` at one batch: `ratio` of times, below 1 when the candidate is faster.

    Attributes:
        added_ns: of a server against the same variant in-process, by how much a request takes longer than a call,
            nanoseconds, with interval `added_ci_ns` at `ci_level`; None for other pairs.
    """

    base: str
    candidate: str
    batch: int
    ratio: float | None
    ci: tuple[float, float] | None
    ci_level: float | None
    verdict: Literal["faster", "slower", "indistinguishable", "not_measured"]
    added_ns: float | None = None
    added_ci_ns: tuple[float, float] | None = None


@dataclass(frozen=True)
class Choice:
    """A variant with one line of reason."""

    variant: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """Which variant to ship. `variant` is None when none qualifies; `ranking` is best first.

    Attributes:
        goal: what the ranking goes by.
        constraints: what was asked for, in words; each of `ranking` was shown to satisfy all of it.
        satisfied: False when something was asked for and nothing was shown to satisfy it.
        pareto: variants that no other one beats in latency, memory, size and exactness together, best first.
        dominated: the others, and which variant beats each.
    """

    variant: str | None
    reason: str
    ranking: tuple[Choice, ...] = ()
    rejected: tuple[Choice, ...] = ()
    goal: Goal = "latency"
    constraints: tuple[str, ...] = ()
    satisfied: bool = True
    pareto: tuple[str, ...] = ()
    dominated: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class SweepRow:
    """One batch size of an offline sweep.

    Attributes:
        throughput_per_s: samples per second really done, calls × batch over busy time; median over launches.
        throughput_ci: interval around it with confidence `ci_level`; None with one launch.
        call_ns: median time of one call, nanoseconds; median over launches.
        gain: by how much the throughput is above that of half the batch; None for the smallest.
    """

    batch: int
    throughput_per_s: float
    throughput_ci: tuple[float, float] | None
    ci_level: float | None
    call_ns: float
    gain: float | None
    launches: int


@dataclass(frozen=True)
class Sweep:
    """The Offline scenario of one variant: throughput by batch size.

    Attributes:
        batch: where throughput saturates; the fastest measured where it does not (`saturated` is False).
        throughput_per_s: at that batch.
        stopped: why no larger batch was tried.
        settings: what its sessions were opened with, in the words of `SessionSettings.words`.
    """

    name: str
    provider: str
    threads: int | None
    verdict: Literal["measured", "not_measured"]
    reason: str = ""
    rows: tuple[SweepRow, ...] = ()
    batch: int | None = None
    throughput_per_s: float | None = None
    saturated: bool = False
    stopped: str = ""
    settings: str = ""


@dataclass(frozen=True)
class LatencyPercentile:
    """A percentile of latency under load (`p50`, `p90`, `p99`, `p99.9`), nanoseconds from the scheduled time.

    Attributes:
        ns: None where it could not be had honestly; `reason` says why, also where only the interval is missing.
        ci_ns: limits, the widest of order statistics over calls, of those over launches, and of a bootstrap over
            launches.
        ci_level: their confidence, 0.95 from six launches on.
    """

    percentile: str
    ns: float | None
    ci_ns: tuple[float, float] | None = None
    reason: str = ""
    ci_level: float | None = None


@dataclass(frozen=True)
class Probe:
    """One rate tried in a search; `ns` is the objective's percentile, None where the probe ended early."""

    rate_per_s: float
    phase: Literal["search", "confirm"]
    verdict: Literal["met", "missed", "overloaded", "inconclusive"]
    ns: float | None = None


@dataclass(frozen=True)
class Load:
    """The Server scenario of one variant: latency while requests arrive at their own times.

    Attributes:
        batch: samples in one request.
        verdict: `met`, `missed` or `inconclusive` against `slo`; a rate that is not sustained is `missed` with or
            without one, one that is sustained without one is `measured`; `not_measured` and `reason` when it failed.
        slo: the objective in words; `slo_ns` is its limit.
        slo_assumed: nobody gave it: ten times the median of a request alone.
        rate_per_s: requests offered per second; after a search the capacity, None where no rate met the objective.
        searched: the rate was looked for, and is the highest found that meets the objective.
        overloaded: requests arrived faster than they were served.
        latency: percentiles, all calls of all launches.
        mean_wait_ns: mean time a request waited for the ones before it.
        md1_wait_ns: what it would be with the same utilization and calls of constant length (Pollaczek-Khinchine).
        service_ns: mean time of a call under load; `single_ns` the median of calls one after another.
        utilization: rate × service time.
        closed_loop_per_s: 1/`single_ns`: no rate above it can be sustained; a bound, not a measurement.
        late: requests that the generator itself sent late, with `pacing_ns` the 99th percentile of its error.
        probes: what a search tried, in order.
        settings: what its sessions were opened with, in the words of `SessionSettings.words`.
        clients: connections to a running server, 0 for a session in the worker. Then a request waits for a free
            client, `utilization` is that of the clients, and there is no `md1_wait_ns` with more than one of them.
    """

    name: str
    provider: str
    batch: int
    threads: int | None
    verdict: Literal["met", "missed", "inconclusive", "measured", "not_measured"]
    reason: str = ""
    slo: str | None = None
    slo_ns: float | None = None
    slo_assumed: bool = False
    rate_per_s: float | None = None
    searched: bool = False
    overloaded: bool = False
    latency: tuple[LatencyPercentile, ...] = ()
    mean_wait_ns: float | None = None
    md1_wait_ns: float | None = None
    service_ns: float | None = None
    single_ns: float | None = None
    utilization: float | None = None
    closed_loop_per_s: float | None = None
    late: int = 0
    pacing_ns: float | None = None
    calls: int = 0
    launches: int = 0
    probes: tuple[Probe, ...] = ()
    settings: str = ""
    clients: int = 0


GateVerdict = Literal["pass", "fail", "inconclusive", "invalid"]

GATE_EXITS: dict[str, int] = {"pass": 0, "fail": 1, "inconclusive": 3, "invalid": 4}
"""Verdict of the speed gate to exit code."""


@dataclass(frozen=True)
class GateMetric:
    """One metric of a speed gate.

    Attributes:
        name: `median` and `p90` time of a call, `throughput` as busy time per call, `memory` as peak resident memory,
            `load` as time to open: of all of them less is better.
        ratio: candidate over base, above 1 is worse; Hodges-Lehmann estimate over launches.
        low: the ratio is above it with confidence `low_level`, one-sided; None where too few launches were made.
        high: the ratio is below it with confidence `high_level`, one-sided.
        p: exact one-sided p-value that the ratio is above the failing margin (and the floor, where that is larger);
            `p_holm` is adjusted for all metrics.
        base, candidate: medians over launches; nanoseconds, for `memory` bytes.
    """

    name: str
    verdict: GateVerdict
    reason: str
    ratio: float | None = None
    low: float | None = None
    low_level: float | None = None
    high: float | None = None
    high_level: float | None = None
    p: float | None = None
    p_holm: float | None = None
    base: float | None = None
    candidate: float | None = None


@dataclass(frozen=True)
class GateReport:
    """Whether `candidate` is slower than `base` at one batch.

    Attributes:
        reason: one line.
        worse: the failing margin, 0.02 for 2 %; `fine` the passing one.
        floor_ns: a change of a time has to be larger than this as well to fail, and passes below it; nanoseconds.
        launches: those that have both sides.
        rounds: pairs of blocks made, `dropped_rounds` of them left out for what befell the machine.
        retried: the first launches did not decide; fresh ones were added and pooled with them.
        paired: both sides were measured together; False for a stored result, which is informational.
        said: what else has to be known: loosened margins, why rounds were dropped, packages that differ.
    """

    base: str
    candidate: str
    batch: int
    verdict: GateVerdict
    exit_code: int
    reason: str
    metrics: tuple[GateMetric, ...] = ()
    worse: float | None = None
    fine: float | None = None
    launches: int = 0
    rounds: int = 0
    dropped_rounds: int = 0
    retried: bool = False
    paired: bool = True
    said: tuple[str, ...] = ()
    floor_ns: float | None = None


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
    sweeps: tuple[Sweep, ...] = ()
    loads: tuple[Load, ...] = ()
    gates: tuple[GateReport, ...] = ()
    profiles: tuple[Profile, ...] = ()
    tuned: tuple[Tuned, ...] = ()


@dataclass(frozen=True)
class RunReport:
    """All of `deploykit run` in one document.

    Attributes:
        more: what a recipe asks to be measured beside the table: settings that were looked for, a load, the speed gate.
        handoffs: the folders that were written, and `not_handed` those that were not, with the reason.
    """

    bundle: str
    exit_code: int
    training: dict[str, Any] | None
    export: dict[str, Any]
    verify: VerifyReport
    bench: BenchReport
    seconds: dict[str, float]
    schema: int = SCHEMA
    more: tuple[BenchReport, ...] = ()
    handoffs: tuple[HandoffReport, ...] = ()
    not_handed: dict[str, str] = field(default_factory=dict)
