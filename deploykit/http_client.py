"""One keep-alive HTTP connection to a server: time and size limits, no redirects, foreign errors mapped at one edge."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from deploykit.errors import UsageError, WorkError

MAX_ANSWER = 256 << 20
"""Longest body of an answer in bytes: four times what an embedded server takes."""

SAID_LIMIT = 300
"""Characters of a server's own error text that are passed on."""

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
            self._connection = None

    def _once(self, method: str, path: str, body: bytes, headers: dict[str, str], deadline: float) -> Answer:
        try:
            connection = self._open(deadline)
            sock = connection.sock  # the connection forgets it where the answer is the last one
            fields = {"Content-Length": str(len(body))} if body or method == "POST" else {}
            connection.request(method, self._prefix + path, body or None, {**self._headers, **fields, **headers})
            response = connection.getresponse()
            try:
                content = self._content(sock, response, deadline)
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
        if response.will_close:
            self.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def _open(self, deadline: float) -> http.client.HTTPConnection:
        left = _left(deadline)
        if self._connection is None:
            host = self._place.hostname or ""
            kind = http.client.HTTPSConnection if self._place.scheme.endswith("https") else http.client.HTTPConnection
            self._connection = kind(host, self._place.port, timeout=left)
            self._connection.connect()
        assert self._connection.sock is not None
        self._connection.sock.settimeout(_left(deadline))
        return self._connection

    def _content(self, sock: socket.socket, response: http.client.HTTPResponse, deadline: float) -> bytes:
        expected = response.length  # None: chunked, or until the connection ends
        if expected is not None and expected > self._max:
            raise self._too_large(f"of {expected} bytes")
        parts, total = [], 0
        # read1 comes back with what is there: only so does a server that sends byte by byte meet the deadline
        while total != expected and (part := response.read1(min(_CHUNK, (expected or self._max + 1) - total))):
            parts.append(part)
            total += len(part)
            if total > self._max:
                raise self._too_large("that goes on and on")
            sock.settimeout(_left(deadline))
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
