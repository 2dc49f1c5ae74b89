"""The speed gate: is the candidate slower than the base? Pure.

A launch gives one log ratio per metric, from what both sides did in it; the launches are the sample. The centre of
that sample is estimated by Hodges and Lehmann, its limits and p-values are those of the exact signed-rank test.

- FAIL: the ratio is above 1 + `worse` at one-sided confidence 99 %. Several metrics are several chances to be fooled:
  their p-values are adjusted by Holm.
- PASS: the ratio of every metric is below 1 + `fine` at one-sided confidence 95 %. All of them must be, so what slips
  through is never likelier than 5 %, however many there are (intersection-union: R. L. Berger, "Multiparameter
  hypothesis testing and acceptance sampling", Technometrics 24 (1982) 295-300). No adjustment is needed.
- INCONCLUSIVE: neither; INVALID: what was measured carries no answer at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from deploykit.benchmark import metrics, stats, summary
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.series import Measured, Series
from deploykit.measurements import GATE_EXITS, GateMetric, GateReport, GateVerdict
from deploykit.units import duration

FAIL_LEVEL = 0.99
"""One-sided confidence of a FAIL."""

PASS_LEVEL = 0.95
"""One-sided confidence of a PASS."""


@dataclass(frozen=True)
class Rules:
    """What the gate asks, declared before anything is measured.

    Attributes:
        metrics: names of `metrics.METRICS`.
        worse: a slow-down beyond this fails.
        fine: a slow-down below this passes.
        floor_ns: no change of a time smaller than this fails; nobody feels it, and clocks and caches move as much.
            Where it is more than `worse` or `fine` of a call it takes that margin's place, at the same confidence.
    """

    metrics: tuple[str, ...] = ("median",)
    worse: float = 0.02
    fine: float = 0.05
    floor_ns: float = 5_000.0

    def margins(self, name: str, base: float) -> tuple[float, float]:
        """What fails and what passes, relative to `base`, once the floor is respected.

        Args:
            name: of a metric.
            base: its typical value for the base.
        """
        floor = self.floor_ns / base if metrics.METRICS[name].is_time and base > 0 else 0.0
        return max(self.worse, floor), max(self.fine, floor)

    @property
    def loosened(self) -> str:
        """What is laxer than the defaults, in words; empty when nothing is."""
        plain = Rules()
        wide = [
            f"{what} +{value:.3g} % instead of +{default:.3g} %"
            for what, value, default in (
                ("fails above", 100 * self.worse, 100 * plain.worse),
                ("passes below", 100 * self.fine, 100 * plain.fine),
            )
            if value > default
        ]
        if self.floor_ns > plain.floor_ns:
            wide.append(f"ignores changes under {duration(self.floor_ns)} instead of {duration(plain.floor_ns)}")
        return f"loosened: {', '.join(wide)}" if wide else ""


def judge(measured: Measured, base: Subject, candidate: Subject, batch: int, rules: Rules) -> GateReport:
    """The gate's answer about one pair of subjects that were measured together.

    Args:
        measured: of these two subjects only.
        base: what it is held against.
        candidate: what may have become slower.
        batch: batch size.
        rules: what was declared.
    """
    shared = summary.pairs(measured, base.name, candidate.name, batch)
    why = _unfit(measured, base, candidate, batch, rules)
    own = [one for one in measured.rounds if one.batch == batch]
    report = GateReport(
        base.name,
        candidate.name,
        batch,
        "invalid",
        GATE_EXITS["invalid"],
        why,
        worse=rules.worse,
        fine=rules.fine,
        launches=len(shared),
        rounds=len(own),
        dropped_rounds=sum((one.launch, one.batch, one.index) in measured.dropped for one in own),
        said=_said(measured, base, candidate, shared, rules),
        floor_ns=rules.floor_ns,
    )
    return report if why else _decided(report, shared, rules)


@dataclass(frozen=True)
class _Asked:
    """The numbers of one metric, before all metrics are known; limits are ratios."""

    name: str
    limits: stats.Limits
    p: float
    base: float
    candidate: float


def _decided(report: GateReport, shared: Sequence[tuple[Series, Series]], rules: Rules) -> GateReport:
    found = {name: _asked(name, shared, rules) for name in rules.metrics}
    # a metric that could not be had was declared as well, and counts
    p_values = [one.p if isinstance(one, _Asked) else 1.0 for one in found.values()]
    judged = tuple(
        _judged(one, p_holm, rules) if isinstance(one, _Asked) else GateMetric(name, "invalid", one)
        for (name, one), p_holm in zip(found.items(), stats.holm(p_values), strict=True)
    )
    verdict = _worst(judged)
    reason = "; ".join(f"{one.name} {one.reason}" for one in judged if one.verdict == verdict)
    return replace(report, verdict=verdict, exit_code=GATE_EXITS[verdict], reason=reason, metrics=judged)


def _worst(judged: Sequence[GateMetric]) -> GateVerdict:
    """A metric that is shown to be worse fails the gate whatever the others are; a missing one is never a pass."""
    found = {one.verdict for one in judged}
    order: tuple[GateVerdict, ...] = ("fail", "invalid", "inconclusive", "pass")
    return next((verdict for verdict in order if verdict in found), "invalid")


def enough(
    protocol: Protocol, base: Subject, candidate: Subject, batches: Sequence[int], rules: Rules, before: Measured
) -> Callable[[Measured], bool]:
    """Whether the intervals of all declared metrics are as narrow as `protocol` asks; see `summary.narrow`.

    Args:
        protocol: how the launches are made.
        base: one side.
        candidate: the other.
        batches: batch sizes that are measured.
        rules: what was declared.
        before: launches made earlier, pooled with what is measured now.
    """

    def width(measured: Measured, batch: int, name: str) -> float:
        shared = summary.pairs(measured, base.name, candidate.name, batch)
        lost = measured.reason(base.name, batch) or measured.reason(candidate.name, batch)
        if lost or not shared:
            return 0.0 if lost else math.inf
        logs = _logs(name, shared)
        return 0.0 if isinstance(logs, str) else stats.half_width(stats.log_ratio_interval(logs))

    def narrow(now: Measured) -> bool:
        measured = before.with_more(now)
        widths = (width(measured, batch, name) for batch in batches for name in rules.metrics)
        return all(one <= protocol.half_width for one in widths)

    return narrow


def _logs(name: str, shared: Sequence[tuple[Series, Series]]) -> list[float] | str:
    """The log ratio of every launch, or why it cannot be had."""
    metric = metrics.METRICS[name]
    refused = next((why for pair in shared for one in pair if (why := metric.refusal(one))), "")
    return refused or [metric.log_ratio(*pair) for pair in shared]


def _asked(name: str, shared: Sequence[tuple[Series, Series]], rules: Rules) -> _Asked | str:
    """The numbers of one metric, or why they cannot be had."""
    logs = _logs(name, shared)
    if isinstance(logs, str):
        return logs
    found = stats.signed_rank_limits(logs, FAIL_LEVEL, PASS_LEVEL)
    ratios = replace(found, estimate=math.exp(found.estimate), low=math.exp(found.low), high=math.exp(found.high))
    before, after = (metrics.METRICS[name].typical(pair[side] for pair in shared) for side in (0, 1))
    p = stats.signed_rank_p(logs, math.log1p(rules.margins(name, before)[0]))
    return _Asked(name, ratios, p, before, after)


def _judged(asked: _Asked, p_holm: float, rules: Rules) -> GateMetric:
    """What the numbers of one metric mean."""
    limits = asked.limits
    failing, passing = rules.margins(asked.name, asked.base)
    changed = f"{100 * (limits.estimate - 1):+.1f} %"
    worse = duration(rules.floor_ns) if failing > rules.worse else f"+{100 * rules.worse:.3g} %"
    fine = duration(rules.floor_ns) if passing > rules.fine else f"+{100 * rules.fine:.3g} %"
    verdict: GateVerdict = "pass"
    if p_holm <= 1 - FAIL_LEVEL + stats.ROUNDING:
        verdict, reason = "fail", f"{changed}: more than {worse} (p = {p_holm:.2g})"
    elif limits.high < 1 + rules.fine:
        reason = f"{changed}: less than +{100 * rules.fine:.3g} % at {PASS_LEVEL:.0%} confidence"
    elif limits.high < 1 + passing:
        reason = f"{changed}: a change of less than {fine} at {PASS_LEVEL:.0%} confidence"
    else:
        verdict, reason = "inconclusive", f"{changed}: neither surely more than {worse} nor surely less than {fine}"
    return GateMetric(
        asked.name,
        verdict,
        reason,
        limits.estimate,
        limits.low,
        limits.low_level,
        limits.high,
        limits.high_level,
        asked.p,
        p_holm,
        asked.base,
        asked.candidate,
    )


def _unfit(measured: Measured, base: Subject, candidate: Subject, batch: int, rules: Rules) -> str:
    """Why the measurement carries no answer; empty when it does."""
    shared = summary.pairs(measured, base.name, candidate.name, batch)
    for subject in (base, candidate):
        lost = measured.reason(subject.name, batch)
        if lost is not None:
            return f"{lost.subject}: {lost.code}: {lost.reason}"
    if measured.overrun:
        return f"{len(measured.disturbed)} of {len(measured.rounds)} rounds were disturbed ({_why(measured)})"
    if not shared:
        return "nothing was measured"
    needed = math.ceil(
        math.log2(len(rules.metrics) / (1 - FAIL_LEVEL))
    )  # n launches reach p = 2⁻ⁿ, which Holm multiplies
    if len(shared) < needed:
        return f"{len(shared)} launches have both sides, {needed} are needed for {FAIL_LEVEL:.0%} confidence"
    return _unlike(base, candidate, shared) or _restless(base, candidate, shared)


def _unlike(base: Subject, candidate: Subject, shared: Sequence[tuple[Series, Series]]) -> str:
    """Whether the two ran on different providers or threads without having been asked to."""
    for before, after in shared:
        if before.provider != after.provider:
            return f"the providers differ: {before.provider} and {after.provider}"
        if base.settings.threads == candidate.settings.threads and before.threads != after.threads:
            return f"the threads differ: {before.threads} and {after.threads}"
        same = base.runtime == candidate.runtime and base.settings == candidate.settings
        if same and _pools(before) != _pools(after):
            return f"the thread pools differ: {_pools(before)} and {_pools(after)}"
    return ""


def _pools(one: Series) -> list[tuple[str, int]]:
    """Threads per kind of pool, largest first; how many copies of a library are loaded says nothing."""
    found = {(str(pool.get("user_api")), int(pool.get("num_threads") or 0)) for pool in one.pools}
    return sorted(found)


def _restless(base: Subject, candidate: Subject, shared: Sequence[tuple[Series, Series]]) -> str:
    for subject, side in ((base, 0), (candidate, 1)):
        restless = sum(not pair[side].steady for pair in shared)
        if 2 * restless > len(shared):
            return f"{subject.name}: the warm-up did not settle in {restless} of {len(shared)} launches"
    return ""


def _said(
    measured: Measured, base: Subject, candidate: Subject, shared: Sequence[tuple[Series, Series]], rules: Rules
) -> tuple[str, ...]:
    lines = [line for line in (rules.loosened, _floored(shared, rules), _uneven(shared, rules)) if line]
    if base.settings != candidate.settings:
        words = [one.settings.words or "the defaults" for one in (base, candidate)]
        lines.append(f"opened differently: the base with {words[0]}, the candidate with {words[1]}")
    if measured.dropped:
        count, total = len(measured.dropped), len(measured.rounds)
        lines.append(f"{count} of {total} rounds dropped for both sides ({_why(measured)})")
    lost = len({one.launch for one in measured.series}) - len(shared)
    if lost > 0 and shared:
        lines.append(f"{lost} launches have one side only and are not counted")
    return tuple(lines)


def _floored(shared: Sequence[tuple[Series, Series]], rules: Rules) -> str:
    """That the floor, and no margin, decides about a call this short; empty where it does not."""
    bases = {
        name: metrics.METRICS[name].typical(base for base, _ in shared)
        for name in rules.metrics
        if shared and metrics.METRICS[name].is_time and not isinstance(_logs(name, shared), str)
    }
    least = min(bases, key=lambda name: bases[name], default=None)
    if least is None or rules.margins(least, bases[least])[0] <= rules.worse:
        return ""
    margin = f"--margin {100 * rules.worse:.3g}%,{100 * rules.fine:.3g}%,0us"
    share = f"{100 * rules.floor_ns / bases[least]:.3g} %"
    what = "this call" if least == "median" else f"the base's {least}"
    return f"{duration(rules.floor_ns)} is {share} of {what}, and no smaller change fails: {margin} judges it"


def _uneven(shared: Sequence[tuple[Series, Series]], rules: Rules) -> str:
    """That the busy time per call changed otherwise than the median, when only one of them is judged."""
    if len({"median", "throughput"} & set(rules.metrics)) != 1 or not shared:
        return ""
    median, busy = (metrics.METRICS[name] for name in ("median", "throughput"))
    apart = stats.signed_rank_interval([busy.log_ratio(*pair) - median.log_ratio(*pair) for pair in shared]).estimate
    if abs(math.expm1(apart)) <= rules.fine:
        return ""
    changed = [
        f"{100 * math.expm1(stats.signed_rank_interval([one.log_ratio(*pair) for pair in shared]).estimate):+.1f} %"
        for one in (busy, median)
    ]
    both = " → ".join(duration(busy.typical(pair[side] for pair in shared)) for side in (0, 1))
    return (
        f"the mean time of a call changed by {changed[0]} ({both}), its median by {changed[1]}: "
        "--metrics median,throughput judges both"
    )


def _why(measured: Measured) -> str:
    reasons = [one.disturbed for one in measured.disturbed]
    return ", ".join(f"{reason}: {reasons.count(reason)}" for reason in sorted(set(reasons)))
