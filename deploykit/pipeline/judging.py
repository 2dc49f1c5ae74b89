"""One bundle's reference, and how an artifact is held to it: what verify, its self-check and its search share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from deploykit import registry
from deploykit.bundle import Bundle, CaseRecord, VariantRecord
from deploykit.environment import usable_cores
from deploykit.errors import WorkError
from deploykit.finished import SOURCES
from deploykit.isolation import Pool
from deploykit.parity import compare
from deploykit.parity.budget import Budget, budget_for, outputs_named
from deploykit.parity.judge import Failure, Judge
from deploykit.parity.scale import IN_DISTRIBUTION, Scale
from deploykit.reference import Case, load_arrays
from deploykit.session import CPU, SessionSettings
from deploykit.signature import Feeds
from deploykit.tuned import opened, tuned_for

_DEATHS = {"WORKER_CRASHED", "TIME_LIMIT", "MEMORY_LIMIT"}
"""How a child ends without an answer."""

ANSWER_SECONDS = 600.0
"""Wall time for one variant to answer all cases."""


@dataclass(frozen=True)
class Answers:
    """What one artifact answered; the arrays stay in files until they are asked for.

    Attributes:
        provider: the execution provider that really ran, read back.
        folder: holds `ID.safetensors` for every case that was answered.
        order: output names in the order in which the session gave them, per case.
        errors: what went wrong, per case that was not answered.
        seconds: wall time of opening and answering, in the child.
    """

    provider: str
    folder: Path
    order: dict[str, list[str]]
    errors: dict[str, Failure]
    seconds: float

    def of(self, case: str) -> Feeds | Failure:
        """The outputs for a case in the session's order, or why there are none."""
        if case in self.errors:
            return self.errors[case]
        return compare.ordered(load_arrays(self.folder / f"{case}.safetensors"), self.order[case])


@dataclass
class Gate:
    """The reference of a bundle with the limits asked for.

    Attributes:
        bundle: opened and checked.
        provider: full execution provider name.
        limits: changes to the budgets.
        names: inputs and outputs of variants that have other names than the signature, in its order.
        settings: what sessions are opened with; None takes what was tuned for a variant: that is what is shipped.
    """

    bundle: Bundle
    provider: str = CPU
    limits: dict[str, float] = field(default_factory=dict)
    names: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    settings: SessionSettings | None = None

    @property
    def records(self) -> tuple[CaseRecord, ...]:
        """All cases of the reference, without their arrays."""
        return self.bundle.manifest.reference.cases

    @cached_property
    def scale(self) -> Scale:
        """Sizes that the reference alone gives."""
        return Scale.of(self.bundle.case(record) for record in self.records if record.input_class in IN_DISTRIBUTION)

    def budget(self, record: VariantRecord) -> Budget:
        """The limits for a variant; a file that is its own reference is right to be exact, whatever its precision."""
        found = budget_for(record.precision, self.provider, self.limits)
        own = SOURCES.get(self.bundle.manifest.source.spec.kind) == record.made_by
        return replace(found, not_applied_db=None) if own else found

    def case(self, record: CaseRecord) -> Case:
        """A case with its arrays, outputs in the order of the signature."""
        case = self.bundle.case(record)
        order = [spec.name for spec in self.bundle.manifest.signature.outputs if spec.name in case.expected]
        return replace(case, expected=compare.ordered(case.expected, order))

    def answers(
        self,
        record: VariantRecord,
        artifact: Path,
        pool: Pool,
        folder: Path,
        *,
        cases: tuple[str, ...] | None = None,
        graph_level: str | None = None,
        feed: dict[str, str] | None = None,
    ) -> Answers:
        """Let `artifact` answer cases in a child.

        Args:
            record: says which runtime opens it.
            artifact: the file.
            pool: gives the child.
            folder: receives the answers.
            cases: ids, None for all.
            graph_level: ONNX Runtime's graph optimization level; None is that of the variant's settings.
            feed: inputs that get another input's values.

        Raises:
            DeploykitError: it cannot be opened, or the child died.
        """
        wanted = [case for case in self.records if cases is None or case.id in cases]
        settings = self.settings or opened(
            tuned_for(record.tuned, self.provider), SessionSettings(self.provider), usable_cores()
        )
        settings = settings if graph_level is None else replace(settings, graph_level=graph_level)
        usual = [case for case in wanted if case.gate != "outside"]
        outside = [case for case in wanted if case.gate == "outside"]
        try:
            return self._asked(record, artifact, pool, folder, [*usual, *outside], settings, feed or {})
        except WorkError as error:
            if not (usual and outside) or error.code not in _DEATHS:
                raise
            # an engine may abort on sizes that nobody promised: that must not cost the other answers
            found = self._asked(record, artifact, pool, folder, usual, settings, feed or {})
            failed = {case.id: Failure(error.code, error.message) for case in outside}
            return replace(found, errors={**found.errors, **failed})

    def _asked(
        self,
        record: VariantRecord,
        artifact: Path,
        pool: Pool,
        folder: Path,
        cases: list[CaseRecord],
        settings: SessionSettings,
        feed: dict[str, str],
    ) -> Answers:
        signature = self.bundle.manifest.signature
        own = [spec.name for spec in signature.inputs]
        outputs = [spec.name for spec in signature.outputs]
        given, named = self.names.get(record.name, (own, outputs))
        answer: dict[str, Any] = pool.worker(registry.load("runtimes", record.runtime).stack).call(
            "sessions:answer",
            timeout_s=ANSWER_SECONDS,
            runtime=record.runtime,
            artifact=str(artifact),
            input_names=given,
            output_names=outputs,
            settings=asdict(settings),
            cases={case.id: str(self.bundle.path / case.file) for case in cases},
            feed={name: feed.get(mine, mine) for name, mine in zip(given, own, strict=True)},
            rename=dict(zip(named, outputs, strict=True)),
            layouts={case.id: case.layout for case in cases if case.layout},
            answers=str(folder),
        )
        errors = {name: Failure(error["code"], error["message"]) for name, error in answer["errors"].items()}
        return Answers(answer["provider"], folder, answer["order"], errors, answer["seconds"])

    def judged(self, record: VariantRecord, answers: Answers, *, swallows: str = "") -> Judge:
        """A judge that has seen every case in `answers`; `swallows` names an operator that turns NaN into numbers."""
        changed = outputs_named(self.limits)
        judge = Judge(
            self.scale,
            self.budget(record),
            {name: budget_for(record.precision, self.provider, self.limits, name) for name in changed},
            frozenset(case.relation.partition(":")[2] for case in self.records),
            tuple(dict.fromkeys(c.relation.partition(":")[2] for c in self.records if c.relation.startswith("mask:"))),
            self.bundle.manifest.reference.index_outputs,
            swallows,
        )
        for case, outputs in self.pairs(answers):
            judge.add(case, outputs)
        return judge

    def pairs(self, answers: Answers) -> Iterator[tuple[Case, Feeds | Failure]]:
        """Every answered or failed case with what came of it, in the reference's order."""
        for record in self.records:
            if record.id in answers.order or record.id in answers.errors:
                yield self.case(record), answers.of(record.id)
