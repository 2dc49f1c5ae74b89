"""One pair of subjects, measured together and judged; what does not decide is tried once more on fresh launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deploykit.benchmark import gate
from deploykit.benchmark.covariates import Senses
from deploykit.benchmark.launch import Judge
from deploykit.benchmark.measure import measure
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.series import Measured
from deploykit.benchmark.worker import OpenWorker
from deploykit.measurements import GateReport
from deploykit.progress import Progress


@dataclass(frozen=True)
class Duel:
    """How pairs are measured and judged.

    Attributes:
        protocol: of one measurement; a retry has the same.
        open_worker: starts the child process of a subject.
        progress: is told of every launch.
        rules: what was declared.
        judge: compares answers with the reference; None trusts them.
        senses: the clock and what is read beside the readings; None takes this machine's.
    """

    protocol: Protocol
    open_worker: OpenWorker
    progress: Progress
    rules: gate.Rules
    judge: Judge | None = None
    senses: Senses | None = None

    def fought(
        self, base: Subject, candidate: Subject, batches: Sequence[int], first: int = 0
    ) -> tuple[Measured, dict[int, GateReport]]:
        """Everything measured, and the answer for each batch.

        Args:
            base: names `candidate` as its twin, and the other way round.
            candidate: what may have become slower.
            batches: sizes to judge.
            first: number of the first launch, where others were made before.
        """
        pair = (base, candidate)
        found = self._measured(pair, batches, Measured(()), first)
        reports = {batch: gate.judge(found, *pair, batch, self.rules) for batch in batches}
        undecided = [batch for batch, report in reports.items() if report.verdict == "inconclusive"]
        if undecided:
            self.progress.note(f"{candidate.name}: inconclusive, once more on fresh launches")
            found = found.with_more(self._measured(pair, undecided, found, first))
            for batch in undecided:
                reports[batch] = replace(gate.judge(found, *pair, batch, self.rules), retried=True)
        return found, reports

    def _measured(
        self, pair: tuple[Subject, Subject], batches: Sequence[int], before: Measured, first: int
    ) -> Measured:
        """More launches of a pair, numbered on from those that were made."""
        return measure(
            [replace(one, feeds={batch: one.feeds[batch] for batch in batches}) for one in pair],
            self.protocol,
            self.open_worker,
            self.progress,
            self.judge,
            gate.enough(self.protocol, *pair, tuple(batches), self.rules, before),
            self.senses,
            first + len(before.launches),
        )
