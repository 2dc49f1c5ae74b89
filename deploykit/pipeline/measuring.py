"""What every way of measuring a bundle starts with: the request, the parity gate, the subjects."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from deploykit import registry
from deploykit.benchmark.gate import Rules
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.scenario import Scenario
from deploykit.bundle import Bundle, VariantRecord
from deploykit.environment import cpu_name, usable_cores
from deploykit.errors import UsageError
from deploykit.forks import Templates
from deploykit.isolation import Limits, Worker
from deploykit.measurements import COMPILED, EAGER
from deploykit.model import SourceSpec
from deploykit.pipeline.subjects import REBUILT, Subjects
from deploykit.pipeline.verify import VerifyRequest, verify
from deploykit.progress import Progress
from deploykit.recommend.choose import Wish
from deploykit.results import VariantReport, VerifyReport
from deploykit.session import CPU, SessionSettings
from deploykit.signature import MAX_DIM
from deploykit.tune_results import Goal
from deploykit.tuned import elsewhere, opened, parted, tuned_for


@dataclass(frozen=True)
class BenchRequest:
    """What to measure and how.

    Attributes:
        variants: names, or None for all of the bundle.
        batches: batch sizes; the first one decides the recommendation.
        threads: intra-op threads for every variant; None takes every core this process may use.
        wish: goal and constraints of the recommendation.
        session: further settings of every session, in the words of `SessionSettings.with_words`; the word `default`
            leaves aside what was tuned for a variant.
        scenario: the load that is put on the model.
        compiled: eager under torch.compile is measured, too.
        profile: every subject is profiled, too, after its times were taken.
        source: builds `eager` for bundles whose source is the user's own code; None where it is not at hand.
        tune: look for the best settings for this goal instead of measuring a table.
        seconds: wall time for a search; None is that search's own default.
        against: what the speed gate holds the variants against, in the words of `pipeline/opponent.py`; empty for none.
        rules: of the speed gate.
        limits: changes to the parity gate's budgets, where it has to be asked first.
    """

    bundle: Path
    variants: tuple[str, ...] | None = None
    provider: str = CPU
    batches: tuple[int, ...] = (1,)
    threads: int | None = None
    quick: bool = False
    seed: int = 0
    trust_code: bool = False
    source: SourceSpec | None = None
    session: str = ""
    scenario: Scenario = field(default_factory=Scenario)
    wish: Wish = field(default_factory=Wish)
    tune: Goal | None = None
    seconds: float | None = None
    compiled: bool = False
    profile: bool = False
    against: str = ""
    rules: Rules = field(default_factory=Rules)
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> SessionSettings:
        """What sessions are opened with for which nothing was tuned.

        Raises:
            UsageError: BAD_SETTING.
        """
        settings = SessionSettings(self.provider, self.threads or usable_cores()).with_words(parted(self.session)[1])
        if self.provider == CPU and (settings.tf32 or settings.device_graph):
            name = "tf32" if settings.tf32 else "device_graph"
            hint = f"leave {name} out, or add --on cuda"
            raise UsageError(f"{name}=on", "does nothing on the CPU", hint, "BAD_SETTING")
        return settings

    def settings_for(self, record: VariantRecord) -> SessionSettings:
        """What the session of one variant is opened with: what was tuned for it, and on top what was asked for.

        Raises:
            UsageError: BAD_SETTING.
        """
        plain, words = parted(self.session)
        tuned = None if plain else tuned_for(record.tuned, self.provider)
        settings = opened(tuned, SessionSettings(self.provider, usable_cores()), usable_cores())
        if self.threads is not None:
            settings = replace(settings, threads=self.threads)
        return settings.with_words(words)

    @property
    def is_quick_table(self) -> bool:
        """A first impression of all variants, on the CPU: its workers may be forks.

        Everything else needs independent launches; a device's driver is not trusted with forks.
        """
        alone = not self.against and self.tune is None and self.scenario.kind == "single-stream"
        return self.quick and alone and self.provider == CPU

    @property
    def protocol(self) -> Protocol:
        """The protocol for a table."""
        return Protocol.short(self.seed) if self.quick else Protocol(seed=self.seed)


@dataclass(frozen=True)
class Field:
    """A bundle that went through the gate, ready to be measured; made by `prepared`.

    Attributes:
        verified: the gate's answer.
        subjects: what of the bundle can be timed.
        folder: for files that live as long as the measurement.
        templates: what workers are forked from; None starts a process for each.
    """

    request: BenchRequest
    bundle: Bundle
    verified: VerifyReport
    subjects: Subjects
    folder: Path
    templates: Templates | None = None

    @cached_property
    def verdicts(self) -> dict[str, VariantReport]:
        """The gate's answer by variant."""
        return {report.name: report for report in self.verified.variants}

    @property
    def left_out(self) -> dict[str, str]:
        """What the gate did not pass, and so is not timed, each with the reason."""
        return {
            one.name: f"{one.code}: {one.reason}" if one.code else one.reason or one.verdict
            for one in self.verified.variants
            if one.verdict != "pass"
        }

    @cached_property
    def tuned(self) -> dict[str, str]:
        """Variants that open with tuned settings: these, and a word where they were found on another machine."""
        if parted(self.request.session)[0]:
            return {}
        here = cpu_name()
        said = {}
        for record in self.subjects.passed(self.verdicts):
            one = tuned_for(record.tuned, self.request.provider)
            if one is not None and one.settings:
                where = elsewhere(one, here, usable_cores())
                said[record.name] = f"{one.settings}, tuned for {one.goal}{f' ({where})' if where else ''}"
        return said

    def open_worker(self, subject: Subject) -> Worker:
        """A child process for one subject: a fork where there are templates, else a fresh process."""
        return self.fresh_worker() if self.templates is None else self.templates.worker(subject.runtime)

    def fresh_worker(self) -> Worker:
        """A new child process with limits for this model."""
        return Worker(Limits.for_model(self.bundle.largest_file))


@contextmanager
def prepared(
    request: BenchRequest, progress: Progress, verified: VerifyReport | None = None, *, forks: bool = True
) -> Iterator[Field]:
    """Check the request, ask the gate, collect the subjects.

    Args:
        request: see BenchRequest.
        progress: is told what verify does.
        verified: the gate's answer for this bundle and provider from a moment ago; None asks it now.
        forks: workers may be forks, where the request allows that.

    Raises:
        DeploykitError: the bundle cannot be used, or a batch size does not fit its signature.
    """
    _check_counts(request)
    settings = request.settings
    bundle = Bundle(request.bundle)
    with ExitStack() as stack:
        templates = None
        if forks and request.is_quick_table:  # engines are imported while verify is at work
            templates = stack.enter_context(
                Templates(_runtimes(request, bundle), Limits.for_model(bundle.largest_file))
            )
        if verified is None:
            asked = VerifyRequest(
                request.bundle, request.variants, request.provider, request.trust_code, limits=request.limits
            )
            verified = verify(asked, progress)
        else:
            bundle.check()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploykit-")))
        own, compiled = request.settings_for, request.compiled
        subjects = Subjects(bundle, request.batches, settings, folder, request.source, own, compiled=compiled)
        yield Field(request, bundle, verified, subjects, folder, templates)


def _runtimes(request: BenchRequest, bundle: Bundle) -> list[str]:
    """The engines of what may become a subject, those first whose import takes long."""
    chosen = request.variants
    found = {one.runtime for one in bundle.manifest.variants if one.file and (chosen is None or one.name in chosen)}
    if request.source is not None or bundle.manifest.source.spec.kind in REBUILT:
        found |= {EAGER, COMPILED} if request.compiled else {EAGER}
    return sorted(found & set(registry.names("runtimes")), reverse=True)


def _check_counts(request: BenchRequest) -> None:
    """The command line cannot ask for these, a program can."""
    if not request.batches or not all(0 < batch <= MAX_DIM for batch in request.batches):
        hint = "for example batches=(1, 8, 64)"
        raise UsageError(f"batches {request.batches}", f"a batch is 1 to {MAX_DIM}", hint, "BAD_BATCH")
    if request.seed < 0 or (request.threads is not None and request.threads < 1):
        raise UsageError("threads and seed", "a negative number, or no thread at all", "leave them out", "BAD_COUNT")
