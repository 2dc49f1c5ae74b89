"""Steps: open a session and answer HTTP requests with it until this process is told to stop."""

from __future__ import annotations

import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from deploykit import registry
from deploykit.serve.listener import Listener
from deploykit.serve.metrics import Metrics
from deploykit.serve.model import About, Model
from deploykit.serve.routes import Routes
from deploykit.serve.rules import READY, Rules
from deploykit.session import Session, SessionSettings

SWITCH_S = 0.0005
"""How long a thread may keep the interpreter from others; Python's own 5 ms is a whole request on a small model."""

_opened: list[Session] = []
"""The session of this process, once there is one."""


def warm(modules: list[str]) -> None:
    """Import what `open` will need, while the parent still looks at the bundle; a missing one is left to `open`."""
    for name in modules:
        try:
            import_module(name)
        except ImportError:
            continue


def open(  # noqa: A001 - named by what the parent asks for: embedded:open
    runtime: str, artifact: str, output_names: list[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """Open the artifact; the session is this process's own.

    Args:
        runtime: plugin that opens `artifact`.
        artifact: path of the file.
        output_names: names for outputs of engines whose artifacts do not name theirs.
        settings: fields of a SessionSettings.

    Returns:
        `provider` and `threads`, read back.
    """
    plugin = registry.load("runtimes", runtime)()
    session = plugin.open(Path(artifact), tuple(output_names), SessionSettings(**settings))
    _opened.append(session)
    return {"provider": session.provider, "threads": session.threads}


def serve(
    listening: int,
    about: dict[str, Any],
    rules: dict[str, Any],
    version: str,
    restarts: int,
    drain_s: float,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Answer requests until SIGTERM; then those in flight, for as long as they are allowed.

    Args:
        listening: descriptor of a bound, listening socket.
        about: fields of an `About`.
        rules: fields of `Rules`.
        version: of this package.
        restarts: how often this process had to be replaced.
        drain_s: seconds for the requests in flight.
        note: gets `READY` once, then lines about runs that failed.

    Returns:
        `cut`: connections that were still busy after `drain_s`.
    """
    telling = threading.Lock()

    def tell(text: str) -> None:
        with telling:  # a note is one message on a pipe
            note(text)

    limits = TypeAdapter(Rules).validate_python(rules)
    told = TypeAdapter(About).validate_python(about)
    metrics = Metrics(restarts)
    model = Model(told, _opened[-1], limits.concurrency, limits.queue_s, metrics, tell)
    listener = Listener(socket.socket(fileno=listening), Routes(model, limits, metrics, version), limits, metrics)
    signal.signal(signal.SIGTERM, lambda number, frame: listener.stop())  # noqa: ARG005
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()  # what is here now stays: the collector need not look at it for every request
    tell(READY)
    return {"cut": listener.run(drain_s)}
