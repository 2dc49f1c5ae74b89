"""`deploykit bench --against`: the speed gate between two bundles, two variants, or two ways to open the same one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from deploykit.benchmark import summary
from deploykit.benchmark.duel import Duel
from deploykit.benchmark.plan import Subject
from deploykit.benchmark.series import Measured
from deploykit.bundle import Bundle, VariantRecord
from deploykit.environment import fingerprint
from deploykit.errors import UsageError, gravest
from deploykit.measurements import GATE_EXITS, BenchReport, GateReport
from deploykit.pipeline.keeping import keep
from deploykit.pipeline.measuring import BenchRequest, Field, prepared
from deploykit.pipeline.opponent import Opponent
from deploykit.pipeline.stored import Stored, informational
from deploykit.progress import Progress
from deploykit.results import VerifyReport
from deploykit.signature import Feeds, Signature


def against(request: BenchRequest, progress: Progress, verified: VerifyReport | None = None) -> BenchReport:
    """Measure candidate and base together and judge; writes `reports/gate.json` and the raw readings beside it.

    Args:
        request: with `against`.
        progress: is told of every launch.
        verified: the parity gate's answer for the candidate's bundle from a moment ago; None asks it now.

    Raises:
        DeploykitError: a bundle cannot be used, the two cannot be compared, or REF is nothing.
    """
    opponent = Opponent.of(request)
    stored = Stored.load(opponent.stored) if opponent.stored is not None else None
    if stored is None:
        _check_comparable(request, Bundle(request.bundle), Bundle(opponent.bundle))
    else:
        stored.check(Bundle(request.bundle).manifest)  # before anything takes time
    asked = replace(request, variants=opponent.involved(request))
    with ExitStack() as stack:
        ours = stack.enter_context(prepared(asked, progress, verified))
        if stored is not None:
            subjects, measured, gates = informational(ours, stored, progress)
            return _kept(ours, subjects, measured, gates)
        same = opponent.is_in(request.bundle)
        other = replace(
            asked,
            bundle=opponent.bundle,
            session=opponent.words,
            variants=asked.variants if same else request.variants,
        )
        theirs = stack.enter_context(prepared(other, progress, ours.verified if same else None))
        match = Match(request, opponent, ours, theirs, progress)
        gates = match.gates()
        return _kept(ours, match.subjects, match.measured, gates, match.not_gated)


def _kept(
    ours: Field, subjects: list[Subject], measured: Measured, gates: tuple[GateReport, ...], not_gated: Any = ()
) -> BenchReport:
    """The report, written into the candidate's bundle where that can be written."""
    request = ours.request
    said = {
        "threads": ours.subjects.settings.threads,
        "scope": "host_to_host",
        "against": next((one.base for one in gates), ""),
        "rules": asdict(request.rules),
        "not_gated": list(not_gated),
    }
    paired = [one for one in gates if one.paired]
    report = BenchReport(
        ours.bundle.manifest.name,
        fingerprint(),
        {**asdict(request.protocol), **said, **summary.sampling(measured)},
        tuple(summary.rows(subjects, measured)),
        tuple(summary.compare(measured, one.base, one.candidate, one.batch) for one in paired),
        None,
        gravest([ours.verified.exit_code, *(one.exit_code for one in gates)]),
        gates=gates,
    )
    raw = ours.folder / "gate.safetensors"
    measured.save(raw)
    return keep(ours.bundle, "gate", report, raw)


@dataclass
class Match:
    """All pairs of two fields, measured one pair after another: two workers stay closer to each other than twelve.

    Attributes:
        measured: everything, launches numbered through.
        not_gated: variants that nobody asked for and that cannot be compared, with the reason.
    """

    request: BenchRequest
    opponent: Opponent
    ours: Field
    theirs: Field
    progress: Progress
    measured: Measured = field(default_factory=lambda: Measured(()))
    subjects: list[Subject] = field(default_factory=list)
    not_gated: list[str] = field(default_factory=list)
    _sides: dict[str, Field] = field(default_factory=dict)

    def gates(self) -> tuple[GateReport, ...]:
        """The answers, pair by pair and batch by batch.

        Raises:
            UsageError: NOTHING_TO_MEASURE.
        """
        wanted = self._wanted()
        if not wanted:
            why = "; ".join(self.not_gated) or "the two have no variant in common"
            raise UsageError(
                f"--against {self.request.against}", why, "deploykit verify says more", "NOTHING_TO_MEASURE"
            )
        ready = [name for name, why in wanted.items() if not why]
        found: list[GateReport] = []
        for name, why in wanted.items():
            found += [self._invalid(name, batch, why) for batch in self.ours.subjects.batches if why]
            if not why:
                self.progress.note(f"speed gate {ready.index(name) + 1} of {len(ready)}: {name}")
                found += self._gate(name, len(ready))
        return tuple(found)

    def _wanted(self) -> dict[str, str]:
        """The candidates to judge, each with the reason why it cannot be, empty where it can."""
        asked = self.request.variants is not None
        wanted: dict[str, str] = {}
        for name in self.opponent.wanted(self.request, _made(self.ours), _made(self.theirs)):
            base = self._unproven(self.theirs, self.opponent.variant or name)
            own = self._unproven(self.ours, name)
            if base and not asked:  # it was no good before either: the speed gate has nothing to say
                self.not_gated.append(f"{name}: the base {base}")
            else:
                wanted[name] = f"the base {base}" if base else own and f"the candidate {own}"
        return wanted

    def _unproven(self, side: Field, name: str) -> str:
        """Why a variant must not be timed; empty when it passed."""
        report = side.verdicts.get(name)
        if report is None or report.verdict == "skipped":
            return f"was not verified: {report.reason if report else 'it is not in the bundle'}"
        return "" if report.verdict == "pass" else f"did not pass verify: {report.code or report.reason}"

    def _invalid(self, name: str, batch: int, why: str) -> GateReport:
        base = self.opponent.label(self.request, name)
        return GateReport(base, name, batch, "invalid", GATE_EXITS["invalid"], why)

    def _pair(self, name: str) -> tuple[Subject, Subject]:
        """Base and candidate; the candidate gets the base's inputs, so that both compute on the same values."""
        words = f"@{self.request.session}" if self.request.session else ""
        ours = self.ours.subjects.subject(_record(self.ours, name))
        theirs = self.theirs.subjects.subject(_record(self.theirs, self.opponent.variant or name))
        own, label = name + words, self.opponent.label(self.request, name)
        label = f"{label} (base)" if label == own else label
        base = replace(theirs, name=label, twin=own)
        self._sides |= {label: self.theirs, own: self.ours}
        return base, replace(ours, name=own, twin=label, feeds=base.feeds)

    def _gate(self, name: str, share: int) -> list[GateReport]:
        """One pair at every batch, in its share of the time."""
        request = self.request
        protocol = replace(request.protocol, limit_s=request.protocol.limit_s / share)
        duel = Duel(protocol, self._larger.open_worker, self.progress, request.rules, self._judge)
        pair = self._pair(name)
        found, reports = duel.fought(*pair, self.ours.subjects.batches, len(self.measured.launches))
        self.measured = self.measured.with_more(found)
        self.subjects += pair
        return list(reports.values())

    def _judge(self, subject: Subject, outputs: Feeds) -> str:
        """Each side is held to its own bundle's reference."""
        return self._sides[subject.name].subjects.judge(subject, outputs)

    @cached_property
    def _larger(self) -> Field:
        """The side whose workers get the higher limits; both sides get the same."""
        return max(self.ours, self.theirs, key=lambda side: side.bundle.largest_file)


def _check_comparable(request: BenchRequest, ours: Bundle, theirs: Bundle) -> None:
    """Both must take the same inputs.

    Raises:
        UsageError: NOT_COMPARABLE.
    """
    if _inputs(ours.manifest.signature) != _inputs(theirs.manifest.signature):
        message, hint = "the two take different inputs", "compare bundles of one model"
        raise UsageError(f"--against {request.against}", message, hint, "NOT_COMPARABLE")


def _inputs(signature: Signature) -> list[Any]:
    """Names, dtypes and fixed dims; what a symbolic dim is called does not matter."""
    return [
        (spec.name, spec.dtype, [dim if isinstance(dim, int) else None for dim in spec.shape])
        for spec in signature.inputs
    ]


def _made(side: Field) -> list[str]:
    return [record.name for record in side.bundle.manifest.variants if record.file is not None]


def _record(side: Field, name: str) -> VariantRecord:
    return side.bundle.manifest.variant(name)
