"""Accepts connections, a thread for each, and ends in an orderly way.

A thread per connection needs no hand-over between reading, computing and answering, which is what a request costs most
on a small model; the session gives up the interpreter's lock while it computes.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from contextlib import suppress

from deploykit.serve.allowance import Allowance
from deploykit.serve.connection import Connection
from deploykit.serve.metrics import Metrics
from deploykit.serve.routes import Routes
from deploykit.serve.rules import Rules

STACK_BYTES = 1 << 20
"""Of a connection's thread: the default of 8 MiB, times all connections, would count as memory that is used."""

_SAID = b'{"error": "too many connections are open", "code": "BUSY"}'
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n%b" % (len(_SAID), _SAID)
)


class Listener:
    """Serves one socket.

    Args:
        listening: bound and listening.
        routes: what answers.
        rules: limits.
        metrics: what is counted.
    """

    def __init__(self, listening: socket.socket, routes: Routes, rules: Rules, metrics: Metrics) -> None:
        self._socket, self._routes, self._rules, self._metrics = listening, routes, rules, metrics
        self._allowance = Allowance(rules.working_bytes)
        self._open: dict[Connection, threading.Thread] = {}
        self._lock = threading.Lock()
        self._wake, self._waker = os.pipe()

    def stop(self) -> None:
        """Make `run` end soon; may be called from a signal handler."""
        os.write(self._waker, b"x")

    def run(self, drain_s: float) -> int:
        """Accept until `stop`, then let the requests in flight end.

        Returns:
            Connections that were still busy after `drain_s` seconds.
        """
        threading.stack_size(STACK_BYTES)
        self._socket.setblocking(False)  # a client that went away meanwhile must not block the others
        while not self._stopped():
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError:  # no descriptors left: wait for some to be free again
                time.sleep(0.05)
                continue
            self._welcome(sock)
        self._socket.close()
        return self._drained(time.monotonic() + drain_s)

    def _stopped(self) -> bool:
        """Wait for a connection, or for `stop`."""
        watched: list[int] = [self._socket.fileno(), self._wake]
        return self._wake in select.select(watched, [], [])[0]

    def _welcome(self, sock: socket.socket) -> None:
        if len(self._open) >= self._rules.connections:
            self._turn_away(sock)
            return
        connection = Connection(sock, self._routes, self._rules, self._metrics, self._allowance)
        thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
        with self._lock:
            self._open[connection] = thread
        self._metrics.connected(1)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            self._forget(connection)
            self._turn_away(sock)

    def _serve(self, connection: Connection) -> None:
        try:
            connection.serve()
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._open.pop(connection, None)
        self._metrics.connected(-1)

    def _turn_away(self, sock: socket.socket) -> None:
        self._metrics.turned_away()
        with suppress(OSError):
            sock.setblocking(False)
            sock.send(_BUSY)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(65536)  # what came in already: a close with unread bytes is a reset
        sock.close()

    def _drained(self, deadline: float) -> int:
        with self._lock:
            left = dict(self._open)
        for connection in left:
            connection.stop()
        for thread in left.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in left.values())
