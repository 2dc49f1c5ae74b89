"""Workers that are forks of one process that had imported the engine: the parent's side of `template.py`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from deploykit import registry
from deploykit.isolation import Limits, Worker, started
from deploykit.template import MAX_REQUEST

READY_SECONDS = 120.0
"""Wall time for an import; an engine that takes longer is imported by processes of their own, as if it had failed."""

FORK_SECONDS = 30.0
"""Wall time for a fork to tell its process id, or for its exit status to be told."""

POSSIBLE = sys.platform == "linux" and hasattr(os, "fork") and hasattr(socket, "send_fds")
"""Elsewhere a child does not die with its parent, and its threads cannot be counted."""


class UnfitError(Exception):
    """A template cannot be forked, with the reason; the worker then is a process of its own."""


@dataclass
class Fork:
    """A process that a template forked, and has to reap: it is the template's child."""

    pid: int
    template: Template
    status: int | None = None

    def wait(self) -> int:
        """Exit status; a fork whose template is gone was killed with it."""
        if self.status is None:
            try:
                self.status = int(self.template.asked({"wait": self.pid})["status"])
            except UnfitError:
                self.status = -signal.SIGKILL
        return self.status


class Template:
    """A process that imports an engine, from now on and beside everything else.

    Args:
        imports: names of modules.
        limits: of the process and its forks.
        environment: variables on top of this process's.
    """

    def __init__(self, imports: tuple[str, ...], limits: Limits, environment: dict[str, str] | None = None) -> None:
        self._reason: str | None = None
        self._ready = False
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with tempfile.TemporaryFile() as log:  # nobody reads it: whoever fails here fails again, in the open
                self._process = started(
                    "deploykit.template", (far.fileno(),), (",".join(imports),), limits, log.fileno(), environment or {}
                )
        except BaseException:
            self._socket.close()
            raise
        finally:
            far.close()

    @property
    def pid(self) -> int:
        """Process id of the template."""
        return self._process.pid

    def unfit(self) -> str:
        """Wait for the end of the import; why it cannot be forked, empty when it can."""
        if not self._ready and self._reason is None:
            try:
                told = self._answer(READY_SECONDS)
                self._ready = "import_ms" in told
                if not self._ready:
                    self._gone(str(told["unfit"]))
            except UnfitError:
                pass
        return self._reason or ""

    def worker(self) -> Worker:
        """A new fork, confined like any child.

        Raises:
            UnfitError: there can be none.
        """
        if reason := self.unfit():
            raise UnfitError(reason)
        return Worker(start=self._fork)

    def asked(self, request: dict[str, Any], fds: Iterable[int] = ()) -> dict[str, Any]:
        """Send a request, with descriptors, and give the answer.

        Raises:
            UnfitError: the template is gone.
        """
        if self._reason is not None:
            raise UnfitError(self._reason)
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], list(fds))
        except OSError as error:
            raise self._gone(f"it died ({error.strerror})") from error
        return self._answer(FORK_SECONDS)

    def close(self) -> None:
        """Kill and reap it; its forks die with it. Safe to call twice."""
        if self._reason is None:
            self._gone("it was closed")

    def _fork(self, to_read: int, to_write: int, log: int) -> Fork:
        answer = self.asked({}, (to_read, to_write, log))
        if "refused" in answer:
            raise UnfitError(answer["refused"])
        return Fork(answer["pid"], self)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        try:
            if not select.select([self._socket], [], [], timeout_s)[0]:
                raise self._gone(f"it gave no answer within {timeout_s:g} s")
            body = self._socket.recv(MAX_REQUEST)
        except OSError:
            body = b""
        except KeyboardInterrupt:  # the answer would be taken for that to the next request
            self._gone("it was interrupted")
            raise
        if not body:
            raise self._gone("it died")
        answer: dict[str, Any] = json.loads(body)
        return answer

    def _gone(self, reason: str) -> UnfitError:
        self._reason = reason
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._socket.close()
        return UnfitError(reason)


class Templates:
    """The templates of some runtimes, all started at once; runtimes with the same imports share one.

    Args:
        runtimes: names of plugins; workers of others, and of those that say nothing of their imports, are processes of
            their own.
        limits: of templates and workers.

    Attributes:
        refused: runtimes whose workers were processes of their own all the same, with the reason.
    """

    def __init__(self, runtimes: Iterable[str], limits: Limits) -> None:
        self._limits = limits
        self._templates: dict[str, Template] = {}
        self.refused: dict[str, str] = {}
        made: dict[tuple[str, ...], Template] = {}
        try:
            for name in runtimes:
                imports = getattr(registry.load("runtimes", name), "imports", ())
                if not (POSSIBLE and imports):
                    self.refused[name] = "its plugin names no imports" if POSSIBLE else f"not on {sys.platform}"
                elif imports in made:
                    self._templates[name] = made[imports]
                else:
                    self._templates[name] = made[imports] = Template(imports, limits)
        except BaseException:
            self.close()
            raise

    def settle(self, runtimes: Iterable[str]) -> None:
        """Wait for the imports of `runtimes`, and end the other templates: nothing may run beside a block."""
        wanted = set(runtimes)
        used = {id(template) for name, template in self._templates.items() if name in wanted}
        for name, template in self._templates.items():
            if id(template) not in used:
                template.close()
            elif name in wanted and (reason := template.unfit()):
                self.refused[name] = reason
        self.refused = {name: reason for name, reason in self.refused.items() if name in wanted}

    def said(self) -> dict[str, Any]:
        """For the report: `forked`, some workers were forks; `not_forked`, the runtimes of the others and why."""
        usable = any(not template.unfit() for template in self._templates.values())
        return {"forked": usable, "not_forked": self.refused}

    def worker(self, runtime: str) -> Worker:
        """A fork where that is possible, else a fresh process."""
        template = self._templates.get(runtime)
        if template is not None:
            try:
                return template.worker()
            except UnfitError as error:
                self.refused.setdefault(runtime, str(error))
        return Worker(self._limits)

    def close(self) -> None:
        """Kill the templates and whatever they forked."""
        for template in self._templates.values():
            template.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
