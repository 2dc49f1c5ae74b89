"""One connection of the embedded server: requests are read, answered and counted, one after another."""

from __future__ import annotations

import socket
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from deploykit.serve import head as heads
from deploykit.serve.allowance import Allowance
from deploykit.serve.head import Head, HttpFault
from deploykit.serve.metrics import Metrics
from deploykit.serve.routes import Reply, Routes, failed
from deploykit.serve.rules import BINARY_WEIGHT, JSON_WEIGHT, SMALL, Rules
from deploykit.wire import JSON_LENGTH

_CHUNK = 256 << 10
_LINGER_S = 1.0
"""How long what a refused client still sends is thrown away, so that it reads the answer before a reset reaches it."""

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass
class _Turn:
    """What is known so far of the request that is being answered."""

    route: str = "other"
    received: int = 0
    keeps: bool = False
    bodiless: bool = False


class GoneError(Exception):
    """The client went away, or never came back."""


class Connection:
    """One client.

    Args:
        sock: connected.
        routes: what answers.
        rules: limits of sizes and times.
        metrics: what is counted.
        allowance: memory for larger requests.

    Attributes:
        idle: it waits for a request; it can be shut down without harm.
        last: the request that is being answered is the last one.
    """

    def __init__(
        self, sock: socket.socket, routes: Routes, rules: Rules, metrics: Metrics, allowance: Allowance
    ) -> None:
        self._socket, self._routes, self._rules = sock, routes, rules
        self._metrics, self._allowance = metrics, allowance
        self._pending = b""  # came in and belongs to what follows
        self.idle, self.last = True, False

    def serve(self) -> None:
        """Answer requests until the client or the server has enough."""
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not self.last and self._turn():
                pass
        except (GoneError, OSError):
            pass
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Answer no request but the one that is being answered."""
        self.last = True
        if self.idle:
            with suppress(OSError):  # the client was faster
                self._socket.shutdown(socket.SHUT_RD)

    def _turn(self) -> bool:
        """Answer one request; whether another may follow."""
        self.idle = True
        if not self._pending:
            self._receive(time.monotonic() + self._rules.idle_s)
        self.idle = False
        began, turn, status, sent = time.perf_counter(), _Turn(), 0, 0
        self._metrics.began()
        try:
            try:
                reply = self._answer(turn)
            except HttpFault as fault:
                reply = failed(fault)
                turn.keeps = turn.keeps and not fault.closes
            except (GoneError, OSError):
                raise
            except Exception:  # noqa: BLE001 - a bug that one request meets is not the end of the others
                traceback.print_exc()
                reply, turn.keeps = failed(HttpFault(500, "this server has a bug", "INTERNAL")), False
            turn.keeps = turn.keeps and not self.last
            status, sent = reply.status, 0 if turn.bodiless else len(reply.body)
            self._send(reply, turn)
        finally:
            self._metrics.ended(turn.route, status, time.perf_counter() - began, turn.received, sent)
        if not turn.keeps and status >= 400:
            self._linger()
        return turn.keeps

    def _answer(self, turn: _Turn) -> Reply:
        head = heads.parse(self._head())
        turn.bodiless = head.method == "HEAD"
        turn.keeps = head.keeps and not head.length  # a body that is not read would be taken for the next request
        route = self._routes.find(head)
        turn.route = route.name
        weight = _weight(head)
        self._allowance.take(weight, self._rules.queue_s)
        try:
            body = self._body(head)
            turn.received, turn.keeps = len(body), head.keeps
            return route.answer(head, body)
        except MemoryError as error:
            raise HttpFault(503, "there is no memory for this request now", "BUSY", closes=True) from error
        finally:
            self._allowance.give_back(weight)

    def _head(self) -> bytes:
        deadline = time.monotonic() + self._rules.head_s
        while (end := self._pending.find(b"\r\n\r\n")) < 0:
            if len(self._pending) > self._rules.max_head:
                raise HttpFault(431, f"the headers may have {self._rules.max_head} bytes", "TOO_LARGE", closes=True)
            try:
                self._receive(deadline)
            except TimeoutError as error:
                raise HttpFault(408, "the headers did not come in time", "TOO_SLOW", closes=True) from error
        raw, self._pending = self._pending[:end], self._pending[end + 4 :]
        if end > self._rules.max_head:
            raise HttpFault(431, f"the headers may have {self._rules.max_head} bytes", "TOO_LARGE", closes=True)
        return raw

    def _body(self, head: Head) -> bytearray:
        body = bytearray(self._pending[: head.length])
        self._pending = self._pending[head.length :]
        if head.waits and len(body) < head.length:
            self._socket.sendall(_CONTINUE)
        deadline = time.monotonic() + self._rules.body_s
        try:
            while (missing := head.length - len(body)) > 0:
                self._socket.settimeout(_left(deadline))
                part = self._socket.recv(min(missing, _CHUNK))
                if not part:
                    raise GoneError
                body += part
        except TimeoutError as error:
            raise HttpFault(408, "the body did not come in time", "TOO_SLOW", closes=True) from error
        return body

    def _receive(self, deadline: float) -> None:
        """Wait for more bytes.

        Raises:
            TimeoutError: none came in time.
            GoneError: none will come.
        """
        self._socket.settimeout(_left(deadline))
        part = self._socket.recv(_CHUNK)
        if not part:
            raise GoneError
        self._pending += part

    def _send(self, reply: Reply, turn: _Turn) -> None:
        lines = [f"HTTP/1.1 {reply.status} {_REASONS[reply.status]}", f"Date: {_date(int(time.time()))}"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        lines += [f"Content-Length: {len(reply.body)}", "X-Content-Type-Options: nosniff"]
        lines.append("Connection: keep-alive\r\n\r\n" if turn.keeps else "Connection: close\r\n\r\n")
        whole = "\r\n".join(lines).encode("latin-1")
        self._socket.settimeout(self._rules.body_s)
        self._socket.sendall(whole if turn.bodiless else whole + reply.body)

    def _linger(self) -> None:
        deadline = time.monotonic() + _LINGER_S
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while True:
                self._socket.settimeout(_left(deadline))
                if not self._socket.recv(_CHUNK):
                    return
        except OSError:
            return


def _weight(head: Head) -> int:
    """Memory to reckon with for a request; 0 for a small one."""
    if head.length <= SMALL:
        return 0
    told = head.headers.get(JSON_LENGTH.lower(), "")
    as_json = min(int(told), head.length) if told.isascii() and told.isdecimal() and len(told) < 20 else head.length
    return as_json * JSON_WEIGHT + (head.length - as_json) * BINARY_WEIGHT


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
