"""`deploykit bench --tune`: look for the settings that suit a goal, prove them, and write them into the bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from deploykit.benchmark.search import Outcome, Try, search, verdict
from deploykit.benchmark.space import AXES, Candidate, Space
from deploykit.benchmark.stats import Interval
from deploykit.bundle import Bundle, Manifest, VariantRecord
from deploykit.environment import fingerprint, usable_cores
from deploykit.errors import UsageError, gravest
from deploykit.isolation import Limits, Pool
from deploykit.measurements import BenchReport, BenchRow
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.measuring import BenchRequest, Field, prepared
from deploykit.pipeline.rating import FULL, Rating, Spending
from deploykit.pipeline.subjects import INPUT_SETS
from deploykit.pipeline.trial import Trial
from deploykit.progress import Progress, Silent
from deploykit.publish import amending
from deploykit.recommend.choose import Wish
from deploykit.results import VerifyReport, to_json
from deploykit.session import CPU
from deploykit.tune_results import GOALS, Goal, Tried, Tuned
from deploykit.tuned import TunedRecord

SECONDS = 180.0
"""Wall time for all variants together, unless another is asked for; verify comes before."""

LARGEST_BATCH = 4096
FEED_BYTES = 256 << 20
"""Limits of the batches that are tried: samples in a call, and bytes of all its input sets."""

ENGINES = ("onnxruntime", "torch")
"""What opens the artifacts, by the stem of its packages' names."""


def tune(request: BenchRequest, progress: Progress, verified: VerifyReport | None = None) -> BenchReport:
    """Find settings for the goal asked for; writes them into the manifest, and `reports/tune.json` beside it.

    The manifest is written once, at the end: whatever ends this earlier leaves the old one.

    Args:
        request: with `tune`; see BenchRequest.
        progress: is told of every launch.
        verified: the parity gate's answer for this bundle and provider from a moment ago; None asks it now.

    Raises:
        DeploykitError: the bundle cannot be used or written, or another run works on it.
    """
    check(request)
    with amending(Bundle(request.bundle)) as rewrite, prepared(request, progress, verified) as ground:
        records = ground.subjects.passed(ground.verdicts)
        if not records:
            message, hint = "no variant passed verify: nothing to tune", "deploykit verify says why"
            raise UsageError(ground.bundle.path.name, message, hint, "NOTHING_TO_MEASURE")
        spending = Spending(progress, time.monotonic(), SECONDS if request.seconds is None else request.seconds)
        spending.begin()
        tuning = Tuning(ground, spending, request.tune or "latency", fingerprint())
        ends = spending.began + spending.seconds
        for index, record in enumerate(records):
            tuning.variant(record, (ends - time.monotonic()) / (len(records) - index))
        report = tuning.report()
        ground.bundle.write_report("tune.json", to_json(report))
        if (manifest := tuning.manifest()) != ground.bundle.manifest:
            rewrite(manifest)
    return report


def check(request: BenchRequest) -> None:
    """Refuse what contradicts a search for settings, before anything is asked of the bundle.

    Raises:
        UsageError: NOT_WITH_TUNE, UNKNOWN_GOAL, BAD_SECONDS.
    """
    given = {
        "--threads": request.threads,
        "--session": request.session,
        "--quick": request.quick,
        "--against": request.against,
        "--profile": request.profile,
        "--scenario": request.scenario.kind != "single-stream",
        "a goal or limits for a recommendation": request.wish != Wish(),
    }
    for option, value in given.items():
        if value:
            raise UsageError(
                option, "does not go with --tune, which looks for it", f"leave {option} out", "NOT_WITH_TUNE"
            )
    if request.tune not in GOALS:
        raise UsageError(f"tune {request.tune}", "no goal", f"one of {', '.join(GOALS)}", "UNKNOWN_GOAL")
    if len(request.batches) > 1:
        raise UsageError("--batch", "a search starts at one batch size", "give one number", "NOT_WITH_TUNE")
    if request.seconds is not None and not 0 < request.seconds < float("inf"):
        raise UsageError(f"--seconds {request.seconds}", "no positive time", "for example --seconds 180", "BAD_SECONDS")


@dataclass
class Tuning:
    """What was found so far, variant after variant."""

    ground: Field
    progress: Spending
    goal: Goal
    environment: dict[str, Any]
    tuned: list[Tuned] = field(default_factory=list)
    records: dict[str, TunedRecord | None] = field(default_factory=dict)
    rows: list[BenchRow] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    def variant(self, record: VariantRecord, seconds: float) -> None:
        """Search for one variant, and prove by the whole gate what was found."""
        space = self._space(record)
        rating = Rating(self.ground, record, space, self.goal, self.progress)
        began = time.monotonic()
        outcome = search(space, self.goal, rating, time.monotonic, seconds)
        if outcome.chosen.settings != space.plain.settings and (reason := self._disproved(record, outcome.chosen)):
            plain = space.plain_at(outcome.chosen.batch)
            outcome = replace(outcome, chosen=plain, said=f"the default stays: {space.words(outcome.chosen)} {reason}")
        self.tuned.append(self._tuned(record, space, outcome, time.monotonic() - began))
        self.rows += rating.rows
        self.codes += [] if outcome.measured else [rating.exit_code]
        if outcome.measured:
            self.records[record.name] = self._record(record, space, outcome)

    def report(self) -> BenchReport:
        """Everything in one document; the rows are those of the last comparisons."""
        plain = self.ground.request.settings
        said = {"goal": self.goal, "threads": plain.threads, "scope": "host_to_host", "left_out": self.ground.left_out}
        return BenchReport(
            self.ground.bundle.manifest.name,
            self.environment,
            {**asdict(FULL), **said},
            tuple(self.rows),
            exit_code=gravest([self.ground.verified.exit_code, *self.codes]),
            tuned=tuple(self.tuned),
        )

    def manifest(self) -> Manifest:
        """The bundle's manifest with what was found; a default that stays leaves no record."""
        manifest, provider = self.ground.bundle.manifest, self.ground.request.provider
        variants = []
        for record in manifest.variants:
            if record.name in self.records:
                mine = self.records[record.name]
                kept = [one for one in record.tuned if (one.goal, one.provider) != (self.goal, provider)]
                variants.append(record.model_copy(update={"tuned": (*kept, *([mine] if mine else []))}))
            else:
                variants.append(record)
        return manifest.model_copy(update={"variants": tuple(variants)})

    def _space(self, record: VariantRecord) -> Space:
        request, subjects = self.ground.request, self.ground.subjects
        plain = Candidate(request.settings, subjects.batches[0])
        axes: tuple[str, ...] = ("threads",)
        if record.runtime == "onnxruntime":
            axes = AXES[self.goal] if request.provider == CPU else ("graph_level",)
        elif request.provider != CPU:
            axes = ()
        batches = _batches(subjects.base.rows, subjects.feeds(plain.batch).stat().st_size, plain.batch)
        return Space(plain, usable_cores(), axes, batches if self.goal == "throughput" and subjects.batched else ())

    def _disproved(self, record: VariantRecord, chosen: Candidate) -> str:
        """Why settings are not shipped though they won: the search asks one case, the gate asks all."""
        bundle = self.ground.bundle
        gate = Gate(bundle, self.ground.request.provider, settings=chosen.settings)
        with Pool(Limits.for_model(bundle.largest_file)) as pool:
            found = Trial(gate, pool, Silent(), trusted=True, reproducers=None).of(record, bundle.file_of(record.name))
        return "" if found.verdict == "pass" else f"does not pass verify: {found.code or found.reason}"

    def _tuned(self, record: VariantRecord, space: Space, outcome: Outcome, seconds: float) -> Tuned:
        ratio, times = outcome.ratio, outcome.time_ratio if self.goal == "memory" else None
        return Tuned(
            record.name,
            self.goal,
            space.words(outcome.chosen),
            space.plain.settings.words,
            outcome.chosen.batch,
            ratio.estimate if ratio else None,
            _limits(ratio),
            ratio.level if ratio else None,
            times.estimate if times else None,
            _limits(times),
            tuple(_tried(one, space, self.goal) for one in outcome.tried),
            seconds,
            outcome.said,
        )

    def _record(self, record: VariantRecord, space: Space, outcome: Outcome) -> TunedRecord | None:
        """What the manifest keeps; None where the default is as good."""
        words, ratio = space.words(outcome.chosen), outcome.ratio
        if not words and outcome.chosen.batch == space.plain.batch:
            return None
        shown = {} if ratio is None else {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high}
        cpu = self.environment["cpu"]
        return TunedRecord(
            goal=self.goal,
            provider=self.ground.request.provider,
            settings=words,
            batch=outcome.chosen.batch,
            level=ratio.level if ratio else None,
            cpu=cpu[:120] if cpu else None,
            cores=space.cores,
            engine=_engine(record.runtime, self.environment["packages"]),
            **shown,
        )


def _batches(rows: int | None, feed_bytes: int, batch: int) -> tuple[int, ...]:
    """The batch asked for and its doubles, as far as the inputs stay small."""
    if rows is None:
        return ()
    largest = min(LARGEST_BATCH, max(batch, FEED_BYTES * batch // max(feed_bytes, INPUT_SETS)))
    return tuple(batch << step for step in range(LARGEST_BATCH.bit_length()) if batch << step <= largest)


def _limits(found: Interval | None) -> tuple[float, float] | None:
    return None if found is None or not found.level else (found.low, found.high)


def _tried(one: Try, space: Space, goal: Goal) -> Tried:
    shown = one.reason or (verdict(goal, one.ratio) if one.ratio else "not compared")
    words = space.words(one.candidate) or "default"
    return Tried(words, one.candidate.batch, one.ratio.estimate if one.ratio else None, shown)


def _engine(runtime: str, packages: Mapping[str, str | None]) -> str:
    """`onnxruntime 1.23.2`: settings are found for an engine as it is."""
    stem = runtime if runtime in ENGINES else ENGINES[-1]
    found = (f"{name} {version}" for name, version in packages.items() if name.startswith(stem) and version)
    return next(found, "")[:80]
