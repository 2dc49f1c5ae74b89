"""What a variant must satisfy to be shipped at all, and whether it was shown to. Pure.

What could not be measured is not satisfied: a limit that nobody can show to hold is no limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from statistics import NormalDist

from deploykit.errors import UsageError
from deploykit.measurements import BenchRow
from deploykit.results import VariantReport
from deploykit.units import byte_count, duration, nanoseconds, per_second, size

ACCURACY = "top1-drop"
"""The check whose value is the upper 95 % limit of the loss of accuracy, as a share."""

CONFIDENCE = 0.95
"""Of that limit, one-sided; verify's own (`deploykit/parity/statistics.py`)."""


@dataclass(frozen=True)
class Finding:
    """One constraint and one variant.

    Attributes:
        words: the constraint, `memory ≤ 50 MB`.
        holds: it was shown to hold.
        said: the value, or why there is none.
        excess: value over limit, or limit over value for a least value: above 1 where it does not hold; infinite
            where nothing is known.
        broken: it surely does not hold; False as well where too little is known to tell.
    """

    words: str
    holds: bool
    said: str
    excess: float
    broken: bool = False

    def __str__(self) -> str:
        """`misses size ≤ 1.0 MB: 4.1 MB`, or `not shown to hold …` where more samples or launches might show it."""
        return f"{'misses' if self.broken else 'not shown to hold'} {self.words}: {self.said}"


@dataclass(frozen=True)
class Constraints:
    """Limits; None asks for nothing.

    Attributes:
        max_accuracy_drop: largest loss of top-1 accuracy, as a share: the upper 95 % limit must be within it.
        latency_median_ns: the upper limit of the median's interval must be within it.
        latency_p90_ns: the 90th percentile must be within it; where calls are too short to be timed one by one, an
            upper limit of it must.
        min_throughput_per_s: samples per second.
        memory_bytes: peak resident memory of the process, the engine included.
        size_bytes: the artifact with the files beside it.
        load_ns: opening the artifact, the engine's import included.
    """

    max_accuracy_drop: float | None = None
    latency_median_ns: float | None = None
    latency_p90_ns: float | None = None
    min_throughput_per_s: float | None = None
    memory_bytes: int | None = None
    size_bytes: int | None = None
    load_ns: float | None = None

    def __bool__(self) -> bool:
        """Something is asked for."""
        return any(getattr(self, item.name) is not None for item in fields(self))

    @property
    def words(self) -> tuple[str, ...]:
        """One text per constraint, `memory ≤ 50 MB`."""
        accuracy = () if self.max_accuracy_drop is None else (_accuracy_words(self.max_accuracy_drop),)
        return accuracy + tuple(m.words(limit) for m in _MEASURES if (limit := getattr(self, m.field)) is not None)

    @classmethod
    def parse(cls, texts: Mapping[str, str | None]) -> Constraints:
        """From what people write.

        Args:
            texts: option (`max_accuracy_drop`, `latency_median`, `latency_p90`, `min_throughput`, `memory`, `size`,
                `load`) to its text (`0.5%`, `5ms`, `1000/s`, `500MB`); None and absent ones ask for nothing.

        Raises:
            UsageError: BAD_CONSTRAINT, an unknown name or a text that is no limit.
        """
        found: dict[str, float] = {}
        for name, text in texts.items():
            if text is None:
                continue
            if name not in _READERS:
                raise UsageError(name, "no such constraint", f"one of {', '.join(_READERS)}", "BAD_CONSTRAINT")
            field, read, example = _READERS[name]
            try:
                found[field] = read(text)
            except ValueError as error:
                option = f"--{name.replace('_', '-')}"
                hint = f"for example {option} {example}"
                raise UsageError(f"{option} {text}", str(error), hint, "BAD_CONSTRAINT") from None
        return cls(**found)  # type: ignore[arg-type]

    def findings(self, row: BenchRow, report: VariantReport | None) -> list[Finding]:
        """Every constraint that is asked for, and what was found of it for one variant."""
        found = [] if self.max_accuracy_drop is None else [_accuracy(self.max_accuracy_drop, report)]
        for measure in _MEASURES:
            limit = getattr(self, measure.field)
            if limit is not None:
                found.append(measure.finding(limit, row))
        return found


def missed(findings: list[Finding]) -> str:
    """The broken and open constraints on one line; empty when all hold."""
    return "; ".join(str(one) for one in findings if not one.holds)


@dataclass(frozen=True)
class _Measure:
    """A constraint on one number of a row.

    Attributes:
        read: the number and, where it is None, why.
    """

    field: str
    name: str
    read: Callable[[BenchRow], tuple[float | None, str | None]]
    show: Callable[[float], str]
    at_least: bool = False

    def words(self, limit: float) -> str:
        return f"{self.name} {'≥' if self.at_least else '≤'} {self.show(limit)}"

    def finding(self, limit: float, row: BenchRow) -> Finding:
        value, reason = self.read(row)
        if value is None:
            return Finding(self.words(limit), False, reason or "not measured", math.inf)
        excess = (limit / value if value else math.inf) if self.at_least else value / limit
        said = self.show(value)
        if excess > 1 and said == self.show(limit):  # a hair beyond it: the digits shown do not tell
            said = f"{said} ({100 * (excess - 1):.1g} % {'less' if self.at_least else 'more'})"
        sure = self.field != "latency_median_ns" or (row.median_ci_ns or (0.0,))[0] > limit
        if self.field == "latency_p90_ns" and row.p90_ns is None:  # the limit of a p90 that nobody knows
            said, sure = f"at most {said}, {row.p90_ns_reason}", False
        return Finding(self.words(limit), excess <= 1, said, excess, excess > 1 and sure)


def _median_limit(row: BenchRow) -> tuple[float | None, str | None]:
    """The upper limit of the median: a median that happens to lie under the limit shows nothing yet."""
    return (row.median_ci_ns[1], None) if row.median_ci_ns else (None, row.median_ci_ns_reason)


def _p90(row: BenchRow) -> tuple[float | None, str | None]:
    """The p90, else what it surely is within."""
    return (row.p90_at_most_ns if row.p90_ns is None else row.p90_ns), row.p90_ns_reason


def _per_second(value: float) -> str:
    return f"{per_second(value)}/s"


_MEASURES = (
    _Measure("latency_median_ns", "median latency", _median_limit, duration),
    _Measure("latency_p90_ns", "p90 latency", _p90, duration),
    _Measure("min_throughput_per_s", "throughput", lambda row: (row.throughput_per_s, None), _per_second, True),
    _Measure("memory_bytes", "peak memory", lambda row: (row.peak_rss_bytes, "the system does not tell"), size),  # type: ignore[arg-type]
    _Measure("size_bytes", "size", lambda row: (row.file_bytes, None), size),  # type: ignore[arg-type]
    _Measure("load_ns", "load time", lambda row: (None if row.load_ms is None else row.load_ms * 1e6, None), duration),
)


def _accuracy_words(limit: float) -> str:
    return f"accuracy drop ≤ {_points(limit)}"


def _points(share: float) -> str:
    return f"{100 * share:.3g} %"


def _accuracy(limit: float, report: VariantReport | None) -> Finding:
    """The worst upper limit over the outputs that decide; open where no labels say what a decision is worth."""
    words = _accuracy_words(limit)
    checks = [] if report is None else [check for check in report.checks if check.id == ACCURACY]
    known = [check for check in checks if check.value is not None]
    if not known:
        decides = report is not None and any(check.input_class == "task" for check in report.checks)
        why = "there are no labels" if decides else "verify found no output that decides between classes"
        hint = f": export with --samples FILE.npz, about {samples_for(limit):,} rows with 'labels'" if decides else ""
        return Finding(words, False, why + hint, math.inf)
    worst = max(known, key=lambda check: check.value or 0.0)
    drop = worst.value or 0.0
    said = f"up to {_points(drop)} (95 %), {worst.reason}"
    if drop > limit:
        said += f", about {samples_for(limit):,} can show it where no decision changes"
    return Finding(words, drop <= limit, said, drop / limit)


def samples_for(limit: float) -> int:
    """Labelled samples that show a drop of at most `limit` (a share) when no decision changes.

    Without a change the score interval for paired proportions (T. Tango, Statistics in Medicine 17 (1998) 891-908)
    ends at z²/(n + z²), so that n ≥ z²(1 - limit)/limit.
    """
    z = NormalDist().inv_cdf(CONFIDENCE)
    return math.ceil(z * z * (1 - limit) / limit)


def _percent(text: str) -> float:
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", text, re.ASCII)
    share = float(found[1]) / 100 if found else 0.0
    if not 0 < share < 1:
        raise ValueError("no percentage between 0 and 100 (points of accuracy)")
    return share


def _rate(text: str) -> float:
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:/\s*s)?\s*", text, re.ASCII)
    rate = float(found[1]) if found else 0.0
    if not 0 < rate < math.inf:
        raise ValueError("no positive number of samples per second")
    return rate


_READERS: dict[str, tuple[str, Callable[[str], float], str]] = {
    "max_accuracy_drop": ("max_accuracy_drop", _percent, "0.5%"),
    "latency_median": ("latency_median_ns", nanoseconds, "1ms"),
    "latency_p90": ("latency_p90_ns", nanoseconds, "5ms"),
    "min_throughput": ("min_throughput_per_s", _rate, "1000/s"),
    "memory": ("memory_bytes", byte_count, "500MB"),
    "size": ("size_bytes", byte_count, "10MB"),
    "load": ("load_ns", nanoseconds, "500ms"),
}
"""Option to the field, what reads its text, and an example."""
