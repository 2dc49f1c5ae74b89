"""`deploykit bench --url`: a running server, measured next to the same variant in-process."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from deploykit.benchmark import overhead, summary
from deploykit.benchmark.launch import Setting
from deploykit.benchmark.measure import measure
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.series import Measured, Missing
from deploykit.benchmark.server import Ask, Server
from deploykit.benchmark.worker import Worker
from deploykit.bundle import Bundle, VariantRecord
from deploykit.endpoint import ModelFacts, ServerFacts, Wire
from deploykit.endpoint_http import takes_binary
from deploykit.environment import fingerprint
from deploykit.errors import DeploykitError, UsageError, gravest
from deploykit.measurements import BenchReport, Load
from deploykit.pipeline import scenarios
from deploykit.pipeline.identity import identity
from deploykit.pipeline.keeping import keep
from deploykit.pipeline.measuring import BenchRequest, Field, prepared
from deploykit.pipeline.remote import RemoteRequest, awaited, served, told
from deploykit.progress import Progress
from deploykit.publish import holding
from deploykit.recommend.choose import Wish
from deploykit.reference import save_arrays
from deploykit.remote.naming import agreed
from deploykit.remote.session import Connection
from deploykit.session import SessionSettings
from deploykit.signature import Feeds

CLOSED, OPEN = "bench-url", "bench-url-server"
"""Stems of the reports: requests one after another, and at their own times."""

OPEN_CLIENTS = 8
"""Connections for requests at their own times, unless somebody asks for another number."""


def bench_served(
    request: BenchRequest, remote: RemoteRequest, clients: tuple[int, ...], progress: Progress
) -> BenchReport:
    """Measure what a server answers, next to the same variant in-process; writes `reports/bench-url*.json`.

    Args:
        request: how to measure.
        remote: which server.
        clients: numbers of connections, one measurement for each; empty takes 1, for a server's load `OPEN_CLIENTS`.
        progress: is told of every launch.

    Raises:
        DeploykitError: the bundle cannot be used, or the server cannot be asked, also in the middle: then nothing is
            written.
    """
    check(request, clients)
    bundle = Bundle(request.bundle)
    record = served(bundle, remote.variant)
    connection, facts = connected(bundle, remote, progress)
    request = replace(request, variants=(record.name,))
    loaded = request.scenario.kind == "server"
    clients = clients or ((OPEN_CLIENTS,) if loaded else (1,))
    with holding(bundle), prepared(request, progress, forks=False) as field:
        run = _Run(field, record, connection, facts, clients, progress)
        try:
            return run.load() if loaded else run.table()
        except _Ended as ended:
            raise ended.error from None


def check(request: BenchRequest, clients: tuple[int, ...]) -> None:
    """Refuse what does not fit a running server, before it is asked anything.

    Raises:
        UsageError: BAD_SCENARIO, BAD_CLIENTS.
    """
    others = {
        "--goal and limits": request.wish != Wish(),
        "--against": bool(request.against),
        "--tune": request.tune is not None,
        "--profile": request.profile,
        "--compile": request.compiled,
        "--source": request.source is not None,
        "--scenario offline": request.scenario.kind == "offline",
    }
    for name, given in others.items():
        if given:
            raise UsageError(name, "does not go with --url", "leave one of the two out", "BAD_SCENARIO")
    scenarios.check(request)
    if any(one < 1 for one in clients) or (request.scenario.kind == "server" and len(clients) > 1):
        said = ",".join(map(str, clients))
        raise UsageError(f"--clients {said}", "one number goes with a server's load", "--clients 8", "BAD_CLIENTS")


def connected(bundle: Bundle, remote: RemoteRequest, progress: Progress) -> tuple[Connection, ServerFacts]:
    """The way to the model on a server that is ready, as workers go it, and what the server tells of itself.

    Raises:
        UsageError: BAD_URL, PACKAGE_MISSING.
        WorkError: it cannot be reached, or is not ready.
    """
    signature = bundle.manifest.signature
    endpoint = remote.opener(bundle)()
    with contextlib.closing(endpoint):
        awaited(endpoint, remote, progress)
        facts = told(endpoint.server, ServerFacts())
        naming, _ = agreed(signature, told(endpoint.model_facts, ModelFacts("")))
    connection = Connection(
        remote.url,
        remote.model or bundle.manifest.name,
        remote.version,
        _wire(remote, facts),
        remote.timeout_s,
        signature.outputs,
        naming,
        " ".join(filter(None, (remote.url, facts.name, facts.version))),
        remote.headers,
    )
    return connection, facts


def _wire(remote: RemoteRequest, facts: ServerFacts) -> Wire:
    """How tensors will travel: decided once, so that no request begins with the question."""
    if remote.url.startswith("grpc"):
        return "binary"
    if remote.url.startswith("mlflow"):
        return "json"
    return remote.wire if remote.wire != "auto" else "binary" if takes_binary(facts) else "json"


class _Ended(Exception):  # noqa: N818 - what ends a measurement, told by the error inside
    """The server could not be asked any more: nothing else is measured."""

    def __init__(self, error: DeploykitError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class _Client:
    """A worker that asks the server: what goes wrong in it ends the measurement, not only that of one subject."""

    worker: Worker

    @property
    def alive(self) -> bool:
        return self.worker.alive

    def call(self, step: str, **arguments: Any) -> Any:
        try:
            return self.worker.call(step, **arguments)
        except DeploykitError as error:
            raise _Ended(error) from error

    def pause(self) -> None:
        self.worker.pause()

    def resume(self) -> None:
        self.worker.resume()

    def close(self) -> None:
        self.worker.close()


@dataclass
class _Run:
    """One measurement of one server."""

    field: Field
    record: VariantRecord
    connection: Connection
    facts: ServerFacts
    clients: tuple[int, ...]
    progress: Progress

    def __post_init__(self) -> None:
        self.artifact = self.field.folder / "connection.json"
        self.connection.save(self.artifact)
        self.base = self.field.subjects.subject(self.record)
        self.served = [self._subject(one) for one in self.clients]
        passed = self.record.name in {one.name for one in self.field.subjects.passed(self.field.verdicts)}
        self.subjects = [*([self.base] if passed else []), *self.served]

    def _subject(self, clients: int) -> Subject:
        scheme = self.connection.url.partition("://")[0].partition("+")[0]
        many = f", {clients} clients" if clients > 1 else ""
        return replace(
            self.base,
            name=f"{self.record.name} over {scheme}{many}",
            runtime="",
            artifact=self.artifact,
            settings=SessionSettings(self.connection.told),
            file_bytes=None,
            clients=clients,
        )

    def table(self) -> BenchReport:
        """One request after another, from each number of clients; writes `reports/bench-url.json`."""
        protocol, batches = self.field.request.protocol, self.field.subjects.batches
        wanted = [(self.base.name, self.served[0].name, batches[0])] if self.base in self.subjects else []
        enough = None if protocol.quick else summary.narrow(protocol, wanted)
        measured = Measured((), self.wrong)
        if not self.wrong:
            measured = measure(self.subjects, protocol, self._worker, self.progress, self._judge, enough)
        raw = self.field.folder / f"{CLOSED}.safetensors"
        measured.save(raw)
        rows = tuple(overhead.rows(self.subjects, measured))
        found = tuple(overhead.comparisons(self.base, self.served, measured))
        report = self._report(protocol, measured.missing, **summary.sampling(measured))
        return keep(self.field.bundle, CLOSED, replace(report, variants=rows, comparisons=found), raw)

    def load(self) -> BenchReport:
        """Requests at their own times, or the highest rate; writes `reports/bench-url-server.json`."""
        request = self.field.request
        protocol, wanted = scenarios.load_protocol(request), request.scenario
        setting = Setting(protocol, self._worker, self._judge, self.field.folder)
        ask = Ask(wanted.rate, wanted.objective, wanted.limit_s, protocol.launches)
        run = Server(self.subjects, setting, ask, self.field.subjects.batches[0], self.progress, missing=[*self.wrong])
        loads = tuple(replace(one, settings=self._words(one)) for one in (run.nothing() if self.wrong else run.run()))
        raw = self.field.folder / f"{OPEN}.safetensors"
        save_arrays(scenarios.schedules(run.raw), raw)
        mine = [scenarios.VERDICTS[one.verdict] for one in loads if one.clients]
        slo = str(wanted.objective) if wanted.objective else None
        more = {"scenario": wanted.kind, "seconds": wanted.limit_s, "rate": wanted.rate, "slo": slo}
        report = self._report(protocol, run.missing, *mine, **more)
        return keep(self.field.bundle, OPEN, replace(report, loads=loads), raw)

    @cached_property
    def wrong(self) -> tuple[Missing, ...]:
        """Why the server is not timed: it answers the reference case otherwise than the variant's budget allows.

        Raises:
            DeploykitError: it cannot be asked.
        """
        case = self.field.bundle.case(self.field.subjects.check)
        session = self.connection.open()
        with contextlib.closing(session):
            reason = self._judge(self.served[0], session.run(case.inputs))
        return tuple(Missing(one.name, None, 0, "PARITY", reason, 1) for one in self.served if reason)

    def _judge(self, subject: Subject, outputs: Feeds) -> str:
        """The server's answers are held to the budget of the provider that was named for it."""
        return self.field.subjects.judge(replace(subject, settings=self.field.subjects.settings), outputs)

    def _worker(self, subject: Subject) -> Worker:
        worker = self.field.fresh_worker()
        return _Client(worker) if subject.clients else worker

    def _words(self, load: Load) -> str:
        return "" if load.clients else self.base.settings.words

    def _report(self, protocol: Protocol, missing: Sequence[Missing], *codes: int, **more: Any) -> BenchReport:
        """All of the report but its results."""
        manifest, field = self.field.bundle.manifest, self.field
        said: dict[str, Any] = {
            "url": self.connection.url,
            "server": {"name": self.facts.name, "version": self.facts.version, "wire": self.connection.wire},
            "served": self.record.name,
            "clients": list(self.clients),
            "threads": self.base.settings.threads,
            "scope": "host_to_host",
            "model": identity(manifest),
        }
        said |= {"tuned": field.tuned} if field.tuned else {}
        code = gravest([field.verified.exit_code, *(one.exit_code for one in missing), *codes])
        return BenchReport(manifest.name, fingerprint(), {**asdict(protocol), **said, **more}, (), exit_code=code)
