"""`deploykit serve`: one child holds the session and answers; this process prepares it, watches it and replaces it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import FrameType

from deploykit.bundle import Bundle
from deploykit.errors import DeploykitError, WorkError
from deploykit.isolation import Limits, Process, Worker, started
from deploykit.pipeline import offering
from deploykit.pipeline.offering import Chosen, ServeRequest
from deploykit.progress import Progress
from deploykit.results import to_data
from deploykit.serve.rules import READY

FOREVER_S = 1e8
"""Three years: nobody waits for the end of a server."""

RESTARTS, RESTARTS_S = 3, 60.0
"""More crashes than this within so many seconds are the model's own: the next process would die of them, too."""

_ENGINE = {"onnxruntime": ["onnxruntime"]}
"""Runtime to modules that can be imported before it is known that the bundle is sound."""


@dataclass(frozen=True)
class Serving:
    """A server that answers.

    Attributes:
        settings: what differs from the session's defaults, as `--session` reads it.
        pid: of the process that SIGTERM ends in an orderly way.
        choice: why it is this variant.
    """

    url: str
    model: str
    variant: str
    provider: str
    settings: str
    concurrency: int
    pid: int
    port: int
    choice: str


def serve(request: ServeRequest, progress: Progress, announce: Callable[[Serving], None]) -> int:
    """Serve a variant until SIGTERM or SIGINT.

    Args:
        request: what, where and how.
        progress: hears of what goes wrong meanwhile.
        announce: called once, when requests are answered.

    Returns:
        0: it was stopped and every request in flight was answered; 4: some were cut.

    Raises:
        DeploykitError: it cannot be served, or its process died too often (WORKER_CRASHED).
    """
    bundle = Bundle(request.bundle)
    chosen = offering.choose(bundle, request)
    with offering.listening(request) as sock:
        return _Supervisor(bundle, chosen, request, sock, progress, announce).run()


class _Supervisor:
    """Keeps a child answering on a socket."""

    def __init__(
        self,
        bundle: Bundle,
        chosen: Chosen,
        request: ServeRequest,
        sock: socket.socket,
        progress: Progress,
        announce: Callable[[Serving], None],
    ) -> None:
        self._bundle, self._chosen, self._request, self._socket = bundle, chosen, request, sock
        self._progress, self._announce = progress, announce
        self._provider = ""
        self._answers = self._announced = self._stopping = False
        self._worker: Worker | None = None
        self._crashes: deque[float] = deque(maxlen=RESTARTS + 1)
        self._restarts = 0

    def run(self) -> int:
        """Serve until a signal; signals are what they were afterwards."""
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while True:
                try:
                    return self._one_child()
                except WorkError as error:
                    self._crashed(error)
                except _Stopped:
                    return 0
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _one_child(self) -> int:
        limits = Limits.for_model(self._bundle.largest_file)
        room = replace(
            limits, memory_bytes=limits.memory_bytes + self._chosen.rules.working_bytes, cpu_s=int(FOREVER_S)
        )
        with Worker(start=_Inheriting(room, self._socket.fileno())) as worker:
            self._worker = worker
            try:
                self._open(worker)
                answer = worker.call("embedded:serve", timeout_s=FOREVER_S, note=self._heard, **self._arguments())
            finally:
                self._answers = False
        if answer["cut"]:
            seconds = f"{self._request.drain_s:g} s"
            self._progress.note(f"requests in flight that were not answered within {seconds}: {answer['cut']}")
        return 4 if answer["cut"] else 0

    def _open(self, worker: Worker) -> None:
        """Open the session; the child imports its engine while the files are proven here."""
        record = self._chosen.record
        if not self._announced:
            warm = threading.Thread(target=_warm, args=(worker, _ENGINE.get(record.runtime, [])), daemon=True)
            warm.start()
            try:
                self._bundle.check()
            finally:
                warm.join()
        names = [spec.name for spec in self._bundle.manifest.signature.outputs]
        told = worker.call(
            "embedded:open", runtime=record.runtime, artifact=str(self._chosen.artifact), output_names=names,
            settings=asdict(self._chosen.settings),
        )  # fmt: skip
        self._provider = told["provider"]

    def _arguments(self) -> dict[str, object]:
        record, signature = self._chosen.record, self._bundle.manifest.signature
        about = {"name": self._chosen.model, "variant": record.name, "runtime": record.runtime, "signature": signature}
        return {
            "listening": self._socket.fileno(),
            "about": to_data(about),
            "rules": to_data(self._chosen.rules),
            "version": self._request.version,
            "restarts": self._restarts,
            "drain_s": self._request.drain_s,
        }

    def _heard(self, note: str) -> None:
        if note != READY:
            self._progress.note(note)
            return
        self._answers = True
        if self._announced:
            self._progress.note(f"answers again on {offering.url_of(self._socket)}")
            return
        self._announced = True
        record, rules = self._chosen.record, self._chosen.rules
        self._announce(
            Serving(
                offering.url_of(self._socket), self._chosen.model, record.name, self._provider,
                self._chosen.settings.words, rules.concurrency, os.getpid(), self._socket.getsockname()[1],
                self._chosen.choice,
            )
        )  # fmt: skip

    def _crashed(self, error: WorkError) -> None:
        """Say it, and let another take its place, unless that happens all the time.

        Raises:
            WorkError: the same one.
        """
        if error.code != "WORKER_CRASHED" or not self._announced or self._stopping:
            raise error
        now = time.monotonic()
        self._crashes.append(now)
        self._restarts += 1
        if len(self._crashes) > RESTARTS and now - self._crashes[0] <= RESTARTS_S:
            said = f"died {len(self._crashes)} times within {RESTARTS_S:g} s, last: {error.message}"
            again = WorkError(self._chosen.record.name, said, "see deploykit verify, and --debug", error.code)
            again.detail = error.detail
            raise again from error
        self._progress.note(f"the process behind the server died ({error.message}); starting another")

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """The first signal lets the requests in flight end, the second ends at once."""
        del frame
        if self._stopping:
            signal.signal(number, signal.SIG_IGN)  # a third one would interrupt the clean-up
            raise KeyboardInterrupt
        self._stopping = True
        if not self._announced:
            raise KeyboardInterrupt
        if not self._answers or self._worker is None:
            raise _Stopped
        os.kill(self._worker.pid, signal.SIGTERM)
        self._socket.close()  # with the child's, that was the last: the system refuses new connections


class _Stopped(BaseException):
    """It was stopped while nothing was being answered."""


@dataclass(frozen=True)
class _Inheriting:
    """Starts a new interpreter that inherits the listening socket."""

    limits: Limits
    listening: int

    def __call__(self, to_read: int, to_write: int, log: int) -> Process:
        return started("deploykit.child", (to_read, to_write), (), self.limits, log, {}, (self.listening,))


def _warm(worker: Worker, modules: list[str]) -> None:
    try:
        worker.call("embedded:warm", modules=modules)
    except DeploykitError:
        return  # the next step will say it
