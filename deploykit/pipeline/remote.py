"""`deploykit verify --url`: a running server in the artifact's place, held to the same reference and budgets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from deploykit.bundle import Bundle, VariantRecord
from deploykit.endpoint import TIMEOUT_S, Endpoint, ModelFacts, ServerFacts, Wire, connect
from deploykit.environment import fingerprint
from deploykit.errors import DeploykitError, WorkError
from deploykit.finished import reference_of
from deploykit.parity.judge import Failure, Judge, conclude
from deploykit.pipeline.judging import Answers, Gate
from deploykit.pipeline.shipping import recommended
from deploykit.pipeline.verify import check_limits
from deploykit.progress import Progress
from deploykit.reference import Case
from deploykit.remote import probes
from deploykit.remote.naming import INPUT_CLASS, Naming, agreed, of_answers
from deploykit.remote.replay import Replayed, replay, shared
from deploykit.results import Check, VariantReport, VerifyReport
from deploykit.session import CPU

T = TypeVar("T")

READY_S = 30.0
"""How long the model of a server that answers may take to become ready."""

WAIT_S = 5.0
"""How long nobody may answer at all: enough for a server that was started a moment ago."""

CONCURRENT = "concurrent"
"""Id of the checks on what many clients were answered at once."""


@dataclass(frozen=True)
class RemoteRequest:
    """Which server to ask, and what to hold it to.

    Attributes:
        url: `http://`, `grpc://` or `mlflow+http://` with host and port.
        variant: what is served there, for its budget; None is what `handoff` and `serve` take by default.
        model: name on the server; None is the bundle's.
        version: of the model on the server; empty leaves the choice to it.
        provider: full name of the execution provider that the server uses, for the budget.
        limits: changes to the budgets.
        wire: how tensors travel.
        headers: sent with every request.
        clients: threads that ask at once; 1 leaves that part out.
        timeout_s: wall time for one answer.
        ready_s: wall time until the model of a server that answers is ready.
        wait_s: wall time until anything answers at all.
    """

    bundle: Path
    url: str
    variant: str | None = None
    model: str | None = None
    version: str = ""
    provider: str = CPU
    limits: dict[str, float] = field(default_factory=dict)
    wire: Wire = "auto"
    headers: dict[str, str] = field(default_factory=dict)
    clients: int = 8
    timeout_s: float = TIMEOUT_S
    ready_s: float = READY_S
    wait_s: float = WAIT_S

    def opener(self, bundle: Bundle) -> Callable[[], Endpoint]:
        """Opens a connection, as many as are wanted.

        Raises:
            UsageError: BAD_URL, PACKAGE_MISSING.
        """
        return lambda: connect(
            self.url,
            self.model or bundle.manifest.name,
            version=self.version,
            wire=self.wire,
            timeout_s=self.timeout_s,
            headers=self.headers,
            outputs=bundle.manifest.signature.outputs,
        )


def verify_remote(request: RemoteRequest, progress: Progress) -> VerifyReport:
    """Replay the reference through the server and judge its answers.

    Raises:
        DeploykitError: the bundle cannot be used, or the server cannot be asked at all.
    """
    bundle = Bundle(request.bundle)
    bundle.check()
    check_limits(bundle, request.limits, "fp32", request.provider)
    record = served(bundle, request.variant)
    open_endpoint = request.opener(bundle)
    endpoint = open_endpoint()
    try:
        awaited(endpoint, request, progress)
        gate = Gate(bundle, request.provider, request.limits)
        report = _Asked(request, gate, record, endpoint, open_endpoint, progress).report()
    finally:
        endpoint.close()
    return VerifyReport(
        bundle.manifest.name, report.verdict, report.exit_code, fingerprint(), (report,), None,
        weak_reference=bundle.manifest.reference.float64 is None,
        reference=reference_of(bundle.manifest.source.spec.kind),
    )  # fmt: skip


def served(bundle: Bundle, variant: str | None) -> VariantRecord:
    """The record of the variant that a server is taken to serve.

    Raises:
        UsageError: UNKNOWN_VARIANT.
    """
    if variant is None:
        return recommended(bundle)[0]
    bundle.file_of(variant)
    return bundle.manifest.variant(variant)


def awaited(endpoint: Endpoint, request: RemoteRequest, progress: Progress) -> None:
    """Wait until the model is ready, and say so where that takes longer than one question.

    Raises:
        WorkError: SERVER_UNREACHABLE, NOT_READY; at once what no waiting changes, as `Endpoint.ready`.
    """
    if endpoint.ready(0):
        return
    progress.note(f"waiting for {request.url}")
    ready_s = max(request.ready_s, request.wait_s)
    if endpoint.ready(ready_s, request.wait_s):
        return
    told(endpoint.server, ServerFacts())  # says SERVER_UNREACHABLE where nobody listens
    message = f"{endpoint.model} was not ready within {ready_s:g} s"
    raise WorkError(endpoint.url, message, "see what the server logs, and --model-name", "NOT_READY")


@dataclass
class _Asked:
    """One server's way through the gate."""

    request: RemoteRequest
    gate: Gate
    record: VariantRecord
    endpoint: Endpoint
    open_endpoint: Callable[[], Endpoint]
    progress: Progress

    def report(self) -> VariantReport:
        """The verdict on the server's answers."""
        bundle = self.gate.bundle
        facts = told(self.endpoint.server, ServerFacts())
        naming, extra = agreed(bundle.manifest.signature, told(self.endpoint.model_facts, ModelFacts("")))
        wanted = [one for one in self.gate.records if not one.layout]  # how arrays lie in memory does not travel
        wanted.sort(key=lambda one: one.gate == "outside")  # last: these are wrong requests
        self.progress.stage("verify", len(wanted) + 2)
        with tempfile.TemporaryDirectory(prefix="deploykit-") as name:
            folder = Path(name)
            cases = ((one.id, self.gate.case(one).inputs) for one in wanted)
            found = replay(self.endpoint, naming, cases, folder, self.progress.step)
            errors = {case: Failure(*error) for case, error in found.errors.items()}
            said = " ".join(filter(None, (self.request.url, facts.name, facts.version)))
            judge = self.gate.judged(self.record, Answers(said, folder, found.order, errors, found.seconds))
        judge.checks[:] = map(of_answers, judge.checks)
        extra += [*_skipped(found), *self._at_once(judge, naming)]
        self.progress.step("many clients at once")
        extra += self._wrong_requests(naming)
        self.progress.step("wrong requests")
        return conclude(self.record.name, said, judge, extra)

    def _example(self) -> Case:
        return self.gate.case(self.gate.records[0])

    def _at_once(self, judge: Judge, naming: Naming) -> list[Check]:
        """Rows of the first judged case from many clients: each must get the answer to its own question."""
        case = self._rows()
        if case is None or self.request.clients < 2:
            why = "one client was asked for" if case is not None else "no batch dim that clients could share"
            return [_check(CONCURRENT, "skipped", why)]
        assert case.rows is not None
        seed = case.seed
        found = shared(self.open_endpoint, naming, case.inputs, case.rows, self.request.clients, seed)
        if found.error is not None:
            code, message = found.error
            return [_check(CONCURRENT, "fail", f"from {self.request.clients} clients: {message}", code)]
        before = len(judge.checks)
        judge.add(_cut(case, found.rows), found.outputs)
        added = judge.checks[before:]
        for index, check in enumerate(map(of_answers, added), before):
            if check.verdict == "fail":
                reason = f"{found.requests} requests from {self.request.clients} clients: {check.reason}"
                judge.checks[index] = replace(check, code="CONCURRENT_ANSWERS", reason=reason)
        said = f"{found.rows} rows in {found.requests} requests from {self.request.clients} clients"
        return [_check(CONCURRENT, "pass", said)] if all(one.verdict != "fail" for one in added) else []

    def _rows(self) -> Case | None:
        """The largest judged case with rows; None where the signature has no batch dim."""
        if self.gate.bundle.manifest.signature.batch_dim is None:
            return None
        fitting = [one for one in self.gate.records if one.gate == "full" and one.input_class in {"real", "in range"}]
        best = max(fitting, key=lambda one: one.rows or 0, default=None)
        return None if best is None or not best.rows else self.gate.case(best)

    def _wrong_requests(self, naming: Naming) -> list[Check]:
        try:
            return probes.probe(
                self.endpoint, naming, self.gate.bundle.manifest.signature, self._example().inputs,
                typed=not self.request.url.startswith("mlflow"),
            )  # fmt: skip
        except DeploykitError as error:
            reason = f"a wrong request ends it: {error.code}: {error.message}"
            return [_check("alive", "fail", reason, "WRONG_INPUT_CRASHES")]


def told(ask: Callable[[], T], nothing: T) -> T:
    """What a server tells of itself; `nothing` where it has no such route.

    Raises:
        WorkError: it is gone, or tells nonsense.
    """
    try:
        return ask()
    except WorkError as error:
        if error.code != "REQUEST_REFUSED":
            raise
        return nothing


def _cut(case: Case, rows: int) -> Case:
    """The first rows of a case, to be judged by their values alone: its decisions were counted the first time."""

    def first(arrays: dict) -> dict:  # type: ignore[type-arg]
        return {name: array[:rows] for name, array in arrays.items()}

    near = {name: array[:, :rows] for name, array in case.near.items()}
    return replace(
        case, id=CONCURRENT, input_class="sequence", rows=rows, relation="", labels=None, inputs=first(case.inputs),
        expected=first(case.expected), expected64=first(case.expected64), scores=first(case.scores), near=near,
    )  # fmt: skip


def _skipped(found: Replayed) -> list[Check]:
    return [
        Check(case, INPUT_CLASS, "", "skipped", "", "asked", None, None, f"not asked: {reason}")
        for case, reason in found.skipped.items()
    ]


def _check(id_: str, verdict: str, reason: str, code: str = "") -> Check:
    return Check(id_, INPUT_CLASS, "", verdict, code, "asked", None, None, reason)  # type: ignore[arg-type]
