"""One keep-alive HTTP connection to a server: time and size limits, no redirects, foreign errors mapped at one edge."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from deploykit.errors import UsageError, WorkError

MAX_ANSWER = 256 << 20
"""Longest body of an answer in bytes: four times what an embedded server takes."""

SAID_LIMIT = 300
"""Characters of a server's own error text that are passed on."""

MAX_HEAD = 256 << 10
"""Longest head of an answer in bytes, with all `100 Continue` before it; servers write a few KiB."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Answer:
    """What came back; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> str:
        """The server's own words about an error, cut to `SAID_LIMIT` characters."""
        text = self.body[:65536].decode("utf-8", "replace")
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(text)
            for key in ("error", "detail", "message", "error_code"):
                if isinstance(found, dict) and key in found:
                    text = found[key] if isinstance(found[key], str) else json.dumps(found[key])
                    break
        text = " ".join(text.split())
        return text if len(text) <= SAID_LIMIT else text[: SAID_LIMIT - 1] + "…"


def place_of(url: str, schemes: tuple[str, ...]) -> SplitResult:
    """`url` taken apart.

    Raises:
        UsageError: BAD_URL.
    """
    hint = f"write {schemes[0]}://HOST:PORT"
    try:
        place = urlsplit(url)
        port = place.port
    except ValueError as error:
        raise UsageError(url, f"is no URL: {error}", hint, "BAD_URL") from error
    if place.scheme not in schemes or not place.hostname:
        raise UsageError(url, f"is no URL that begins with one of {', '.join(schemes)}", hint, "BAD_URL")
    if place.username is not None or place.query or place.fragment or port == 0:
        message = "a URL of a server has a scheme, a host, a port and perhaps a path, nothing else"
        raise UsageError(place._replace(netloc=place.netloc.rpartition("@")[2]).geturl(), message, hint, "BAD_URL")
    return place


class HttpClient:
    """Requests over one connection that is kept; for one thread at a time.

    Args:
        place: scheme `http` or `https`, host, port; a path is put before every request's own.
        timeout_s: wall time for an answer, and for connecting.
        headers: sent with every request.
        max_answer: bytes.
    """

    def __init__(
        self,
        place: SplitResult,
        timeout_s: float,
        headers: dict[str, str] | None = None,
        max_answer: int = MAX_ANSWER,
    ) -> None:
        self.url = place.geturl().rstrip("/")
        self._place, self._timeout_s, self._max = place, timeout_s, max_answer
        self._headers = {"Accept": "*/*", **(headers or {})}
        self._prefix = place.path.rstrip("/")
        self._connection: http.client.HTTPConnection | None = None
        self._timed: _TimedSocket | None = None

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask, and wait for the whole answer, whatever its status.

        A request over a connection that the server had closed meanwhile is sent once more over a new one.

        Raises:
            WorkError: SERVER_UNREACHABLE, TIME_LIMIT, BAD_ANSWER.
        """
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        kept = self._connection is not None
        try:
            return self._once(method, path, body, headers or {}, deadline)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            if not kept:
                raise self._unreachable(error) from error
        try:
            return self._once(method, path, body, headers or {}, deadline)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            raise self._unreachable(error) from error

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = self._timed = None

    def _once(self, method: str, path: str, body: bytes, headers: dict[str, str], deadline: float) -> Answer:
        try:
            connection, timed = self._open(deadline)
            fields = {"Content-Length": str(len(body))} if body or method == "POST" else {}
            connection.request(method, self._prefix + path, body or None, {**self._headers, **fields, **headers})
            timed.head_left = MAX_HEAD
            response = connection.getresponse()
            timed.head_left = None
            try:
                content = self._content(response)
            finally:
                response.close()  # not the connection, which is free for the next request now
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            raise
        except TimeoutError as error:
            self.close()
            hint = "see what the server does, or allow more time"
            raise WorkError(self.url, "gave no whole answer in time", hint, "TIME_LIMIT") from error
        except http.client.HTTPException as error:
            self.close()
            message = f"this is no answer of an HTTP server: {type(error).__name__} {error}"
            raise WorkError(self.url, message, "check host and port", "BAD_ANSWER") from error
        except OSError as error:
            self.close()
            raise self._unreachable(error) from error
        if response.will_close or response.status < 200:  # after an answer that is none yet, another one follows
            self.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def _open(self, deadline: float) -> tuple[http.client.HTTPConnection, _TimedSocket]:
        if self._connection is None or self._timed is None:
            host = self._place.hostname or ""
            kind = http.client.HTTPSConnection if self._place.scheme.endswith("https") else http.client.HTTPConnection
            self._connection = kind(host, self._place.port, timeout=_left(deadline))
            self._connection.connect()
            self._timed = _TimedSocket(self._connection.sock)
            self._connection.sock = self._timed
        self._timed.deadline = deadline
        return self._connection, self._timed

    def _content(self, response: http.client.HTTPResponse) -> bytes:
        expected = response.length  # None: chunked, or until the connection ends
        if expected is not None and expected > self._max:
            raise self._too_large(f"of {expected} bytes")
        parts, total = [], 0
        while total != expected and (part := response.read1(min(_CHUNK, (expected or self._max + 1) - total))):
            parts.append(part)
            total += len(part)
            if total > self._max:
                raise self._too_large("that goes on and on")
        if expected is not None and total < expected:
            self.close()
            message = f"the answer ends {expected - total} bytes early"
            raise WorkError(self.url, message, "see what the server logs", "BAD_ANSWER")
        return b"".join(parts)

    def _too_large(self, what: str) -> WorkError:
        self.close()
        return WorkError(self.url, f"an answer {what}, more than {self._max}", "ask for less at a time", "BAD_ANSWER")

    def _unreachable(self, error: Exception) -> WorkError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return WorkError(self.url, f"cannot be reached: {reason}", "is the server running?", "SERVER_UNREACHABLE")


class _TimedSocket:
    """What `http.client` needs of a socket, held to one deadline: a socket's own time limit begins anew with each byte.

    Attributes:
        deadline: of `time.monotonic`, for everything that is sent and received.
        head_left: bytes that may still come before the head is read whole; None where it is.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.deadline = 0.0
        self.head_left: int | None = None

    def sendall(self, data: Any) -> None:
        """Send all of it."""
        view = memoryview(data).cast("B")
        while view:
            self._sock.settimeout(_left(self.deadline))
            view = view[self._sock.send(view[:_CHUNK]) :]

    def receive(self, raw: socket.SocketIO, buffer: Any) -> int:
        """Read what is there into `buffer`.

        Raises:
            TimeoutError: the deadline is over.
            HTTPException: the head does not end.
        """
        self._sock.settimeout(_left(self.deadline))
        count = raw.readinto(buffer) or 0
        if self.head_left is not None:
            self.head_left -= count
            if self.head_left < 0:
                raise http.client.HTTPException(f"a head of more than {MAX_HEAD} bytes")
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        """A reader for an answer; the socket stays open until it is closed, too."""
        assert mode == "rb"
        return io.BufferedReader(_TimedReader(self, self._sock.makefile("rb", buffering=0)))

    def close(self) -> None:
        """Close it as soon as no reader is left."""
        self._sock.close()


class _TimedReader(io.RawIOBase):
    """The receiving side of a `_TimedSocket`."""

    def __init__(self, timed: _TimedSocket, raw: socket.SocketIO) -> None:
        self._timed, self._raw = timed, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._timed.receive(self._raw, buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def checked(answer: Answer, url: str) -> Answer:
    """The same answer where it is a success.

    Raises:
        WorkError: SERVER_ERROR (5xx), REQUEST_REFUSED (4xx), BAD_ANSWER (anything else).
    """
    if 200 <= answer.status < 300:
        return answer
    if 300 <= answer.status < 400:
        message = f"answers {answer.status} and points to {answer.headers.get('location', 'nowhere')[:100]}"
        raise WorkError(url, message, "redirects are not followed: give the final URL", "BAD_ANSWER")
    message = f"answers {answer.status}: {answer.said or 'without a reason'}"
    if answer.status >= 500:
        raise WorkError(url, message, "see what the server logs", "SERVER_ERROR")
    if answer.status >= 400:
        raise WorkError(url, message, "the server says what it takes", "REQUEST_REFUSED")
    raise WorkError(url, message, "check host and port", "BAD_ANSWER")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
