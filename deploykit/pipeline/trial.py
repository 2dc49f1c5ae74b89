"""One variant's way through the gate: answers, checks of its file, the cause of a failure, and whether it can fail."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice, permutations
from pathlib import Path

from deploykit import registry
from deploykit.bundle import WEIGHTS, VariantRecord
from deploykit.diagnosis import remedy
from deploykit.errors import DeploykitError, WorkError
from deploykit.isolation import Pool
from deploykit.parity.diagnose import GENERIC, Evidence, diagnosed
from deploykit.parity.judge import Judge, conclude
from deploykit.parity.scale import IN_DISTRIBUTION
from deploykit.pipeline import locating, preprocessed, quantized, selfcheck
from deploykit.pipeline.judging import Answers, Gate
from deploykit.progress import Progress
from deploykit.results import EXIT_OF, Check, SelfCheck, VariantReport, VariantVerdict

SWALLOWING = ("LSTM", "GRU", "RNN", "MaxPool", "GlobalMaxPool")
"""ONNX Runtime's kernels of these clamp or compare, and a NaN comes out as a number; ONNX leaves that open."""

MAX_ORDERS = 23
"""Orders of inputs that are tried: all of four alike."""

TOO_LARGE = 1.2
"""A file this many times the size of the model's parameters may hold some of them twice."""


@dataclass
class Trial:
    """Takes variants through the gate, whatever happens to them.

    Attributes:
        gate: the reference and the limits.
        pool: gives the children.
        progress: is told of every variant.
        trusted: whether files that can run code are run.
        reproducers: folder for what reproduces a failure, or None.
        self_check: whether mutants of each variant are tried, too.
        self_checks: what came of that.
    """

    gate: Gate
    pool: Pool
    progress: Progress
    trusted: bool
    reproducers: Path | None
    self_check: bool = False
    self_checks: list[SelfCheck] = field(default_factory=list)

    def of(self, record: VariantRecord, artifact: Path | None) -> VariantReport:
        """The report of one variant; None for an artifact that was not made."""
        if artifact is None:
            verdict: VariantVerdict = "skipped" if record.status == "unavailable" else "error"
            report = _without(record.name, verdict, record.code, f"not made: {record.reason}")
        elif record.made_by != "elsewhere" and _runs_code(record) and not self.trusted:
            reason = "can run code and this machine did not make the bundle; give --trust-code if you trust its origin"
            report = _without(record.name, "refused", "UNTRUSTED_CODE", reason)
        else:
            try:
                report = self._judged(record, artifact)
            except DeploykitError as error:
                report = _gave_up(record.name, error)
        proven = next((check for check in self.self_checks if check.variant == report.name), None)
        mutants = f", {proven.seen} of {proven.tried} mutants seen" if proven else ""
        self.progress.step(f"{report.name}: {report.verdict}{f', {report.code}' if report.code else ''}{mutants}")
        return report

    def _judged(self, record: VariantRecord, artifact: Path) -> VariantReport:
        started = time.perf_counter()
        renamed = self._names(record, artifact) if record.made_by == "elsewhere" else []
        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            answers = self.gate.answers(record, artifact, self.pool, Path(folder))
            judge = self.gate.judged(record, answers)
            if _lost_nan(judge) and (kernel := self._swallowing(record, artifact)):
                judge = self.gate.judged(record, answers, swallows=kernel)
            extra = quantized.examine(self.gate, record, artifact, self.pool, answers)
            extra += [*self._duplicates(record, artifact), *renamed, *preprocessed.checks(self.gate)]
            report = conclude(record.name, answers.provider, judge, extra)
            if report.verdict in {"fail", "error"}:
                return self._explained(record, artifact, report, judge)
            if self.self_check and report.verdict == "pass":
                self._prove(record, artifact, answers, time.perf_counter() - started)
        return report

    def _explained(self, record: VariantRecord, artifact: Path, report: VariantReport, judge: Judge) -> VariantReport:
        """The failed report with its cause and its place, as far as they can be found."""
        if report.code == preprocessed.CODE:  # all that the file itself was asked is right
            return report
        location = locating.locate(
            self.gate, record, artifact, self.pool, report, trusted=self.trusted, reproduce=self.reproducers
        )
        edited = self._edited(record, artifact)
        if edited:
            report = replace(
                report,
                first_divergence=f"{report.first_divergence}; {edited}",
                reason=f"{report.reason}; {edited}",
            )
        report = replace(report, location=location)
        if report.code not in GENERIC:  # its cause has a name: nothing has to be tried
            return report
        evidence = Evidence(
            judge.forms,
            str(record.facts.get("baked", "")),
            judge.swapped,
            "" if judge.swapped else self._swapped_inputs(record, artifact),
            judge.narrowing.through,
            location.stage if location else "",
            edited=bool(edited),
        )
        return diagnosed(report, record.precision, evidence)

    def _edited(self, record: VariantRecord, artifact: Path) -> str:
        """Which weight is not the source's, where the file keeps names and only a part of it differs."""
        weights = self.gate.bundle.path / WEIGHTS
        if record.runtime != "onnxruntime" or record.precision != "fp32" or not weights.is_file():
            return ""
        try:
            found = self.pool.worker("onnxruntime").call(
                "inspecting:weights", artifact=str(artifact), weights=str(weights)
            )
        except DeploykitError:
            return ""  # the failure itself is reported; only the extra hint is missing
        return str(found[0]) if found else ""

    def _prove(self, record: VariantRecord, artifact: Path, answers: Answers, seconds: float) -> None:
        def examine(mutant: Path, given: Answers) -> list[Check]:
            return quantized.examine(self.gate, record, mutant, self.pool, given)

        limit = selfcheck.seconds_for(seconds)
        found = selfcheck.self_check(self.gate, record, artifact, self.pool, answers, examine=examine, seconds=limit)
        self.self_checks.append(found)

    def _swallowing(self, record: VariantRecord, artifact: Path) -> str:
        """The operator of an ONNX file whose kernel turns NaN into numbers, if it has one."""
        if record.runtime != "onnxruntime":
            return ""
        try:
            found = self.pool.worker("onnxruntime").call("inspecting:onnx_summary", artifact=str(artifact))
        except DeploykitError:
            return ""  # only an excuse is missing: the failure stands
        return next((name for name in SWALLOWING if name in found["operators"]), "")

    def _names(self, record: VariantRecord, artifact: Path) -> list[Check]:
        """Take inputs and outputs of a foreign file by position where it has as many under other names, and say so.

        Raises:
            WorkError: INPUT_MISSING, it takes another number of inputs: it is another model's.
        """
        if record.runtime != "onnxruntime":
            return []
        try:
            found = self.pool.worker("onnxruntime").call("inspecting:onnx_names", artifact=str(artifact))
        except DeploykitError:
            return []  # opening it will say more
        signature = self.gate.bundle.manifest.signature
        inputs, outputs = ([spec.name for spec in specs] for specs in (signature.inputs, signature.outputs))
        if len(found["inputs"]) != len(inputs):
            message = f"the file takes {', '.join(found['inputs']) or 'nothing'}, the bundle {', '.join(inputs)}"
            raise WorkError(record.name, message, remedy("INPUT_MISSING"), "INPUT_MISSING")
        taken = [
            theirs if set(theirs) != set(own) and len(theirs) == len(own) else own
            for theirs, own in ((found["inputs"], inputs), (found["outputs"], outputs))
        ]
        if taken == [inputs, outputs]:
            return []
        self.gate.names[record.name] = (taken[0], taken[1])
        pairs = [f"{own} from {theirs}" for theirs, own in zip(taken[1], outputs, strict=True) if theirs != own]
        pairs += [f"{own} to {theirs}" for theirs, own in zip(taken[0], inputs, strict=True) if theirs != own]
        reason = f"names are not the signature's and were taken by position: {', '.join(pairs)}"
        return [Check("names", "file", "", "warn", "NAMES_BY_POSITION", "renamed", float(len(pairs)), 0.0, reason)]

    def _duplicates(self, record: VariantRecord, artifact: Path) -> list[Check]:
        """A warning where shared weights are stored several times; only looked for where the file is too large."""
        bytes_of_weights = 4 * self.gate.bundle.manifest.source.parameters
        size = sum(path.stat().st_size for path in artifact.parent.glob(f"{artifact.name}*"))
        if record.runtime != "onnxruntime" or record.precision != "fp32" or size < TOO_LARGE * bytes_of_weights:
            return []
        try:
            found = self.pool.worker("onnxruntime").call("inspecting:duplicates", artifact=str(artifact))
        except DeploykitError:
            return []  # the file opens and answers: this would only have been a remark about its size
        if not found["count"]:
            return []
        reason = f"{found['count']} tensors are stored twice, {found['first']} first: {found['bytes']:,} bytes too many"
        metric = "duplicated_bytes"
        return [Check("weights", "file", "", "warn", "WEIGHTS_DUPLICATED", metric, found["bytes"], 0.0, reason)]

    def _swapped_inputs(self, record: VariantRecord, artifact: Path) -> str:
        """How inputs must change places to make the variant right, in words; empty where no way is found."""
        judged = [case for case in self.gate.records if case.input_class in IN_DISTRIBUTION]
        for feed in _orders(self.gate) if judged else ():
            with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
                try:
                    answers = self.gate.answers(
                        record, artifact, self.pool, Path(folder), cases=(judged[0].id,), feed=feed
                    )
                except DeploykitError:
                    return ""
                if conclude(record.name, "", self.gate.judged(record, answers)).verdict in {"pass", "inconclusive"}:
                    return ", ".join(f"{name} gets {other}" for name, other in feed.items() if name != other)
        return ""


def _orders(gate: Gate) -> Iterator[dict[str, str]]:
    """Other ways to feed inputs that could be taken for each other, at most `MAX_ORDERS`."""
    groups: dict[tuple[str, int], list[str]] = {}
    for spec in gate.bundle.manifest.signature.inputs:
        groups.setdefault((spec.dtype, len(spec.shape)), []).append(spec.name)
    found = (
        dict(zip(names, order, strict=True))
        for names in groups.values()
        for order in permutations(names)
        if list(order) != names
    )
    return islice(found, MAX_ORDERS)


def _lost_nan(judge: Judge) -> bool:
    return any(check.verdict == "fail" and check.code == "NAN_PATTERN" for check in judge.checks)


def _runs_code(record: VariantRecord) -> bool:
    return bool(registry.load("runtimes", record.runtime).runs_code)


def _without(name: str, verdict: VariantVerdict, code: str, reason: str) -> VariantReport:
    return VariantReport(name, verdict, None, (), code, reason, None, EXIT_OF[verdict])


def _gave_up(name: str, error: DeploykitError) -> VariantReport:
    """A provider that is not there is the gate saying no; everything else could not be done."""
    if error.code == "PROVIDER_FALLBACK":
        return VariantReport(name, "fail", None, (), error.code, error.message, None, 1)
    verdict: VariantVerdict = "refused" if error.exit_code == 5 else "error"
    return VariantReport(name, verdict, None, (), error.code, f"{error.message}; {error.hint}", None, error.exit_code)
