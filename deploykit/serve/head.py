"""The head of an HTTP request: the request line and the headers, taken strictly (RFC 9112).

What two readers could understand differently (a header twice, a folded line, a length that is no plain number) is
refused, so that a proxy in front cannot be made to see other requests than this server does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/(\d)\.(\d)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t\x80-\xff]*)")
_SINGLE = {"content-length", "host", "transfer-encoding", "authorization", "origin", "inference-header-content-length"}


class HttpFault(Exception):  # noqa: N818 - an answer, not a failure of ours
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        said: for the client; no paths, nothing of the machine.
        code: of the error, for machines.
        closes: whether the connection cannot go on.
        extra: headers.
    """

    def __init__(
        self, status: int, said: str, code: str = "", *, closes: bool = False, extra: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(said)
        self.status, self.said, self.code, self.closes, self.extra = status, said, code, closes, extra


@dataclass(frozen=True)
class Head:
    """What a request begins with.

    Attributes:
        path: decoded, without a query; a slash that was encoded is the letters it was encoded with.
        headers: names in lower case.
        length: of the body in bytes.
        keeps: whether the connection stays open afterwards.
        waits: whether the client waits for `100 Continue` before it sends the body.
    """

    method: str
    path: str
    headers: dict[str, str]
    length: int
    keeps: bool
    waits: bool


def parse(raw: bytes) -> Head:
    """Everything before the empty line.

    Raises:
        HttpFault: 400, 411, 501, 505.
    """
    first, *lines = raw.split(b"\r\n")
    found = _LINE.fullmatch(first)
    if found is None:
        raise HttpFault(400, "this is no HTTP request", "BAD_HTTP", closes=True)
    if found[3] != b"1" or found[4] not in {b"0", b"1"}:
        raise HttpFault(505, "this server speaks HTTP/1.1 and HTTP/1.0", "BAD_HTTP", closes=True)
    headers: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise HttpFault(400, "a header is malformed", "BAD_HTTP", closes=True)
        name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1").rstrip(" \t")
        if name in headers and name in _SINGLE:
            raise HttpFault(400, f"the header {name} is there twice", "BAD_HTTP", closes=True)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    newer = found[4] == b"1"
    if newer and "host" not in headers:
        raise HttpFault(400, "the header host is missing", "BAD_HTTP", closes=True)
    method, length = found[1].decode("ascii"), _length(found[1], headers)
    wishes = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    keeps = "close" not in wishes and (newer or "keep-alive" in wishes)
    waits = newer and headers.get("expect", "").lower() == "100-continue"
    path = found[2].decode("ascii").partition("?")[0]
    return Head(method, _decoded(path), headers, length, keeps, waits)


def _length(method: bytes, headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise HttpFault(411, "send the body with a Content-Length", "LENGTH_REQUIRED", closes=True)
    text = headers.get("content-length")
    if text is None:
        if method == b"POST":
            raise HttpFault(411, "send the body with a Content-Length", "LENGTH_REQUIRED", closes=True)
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise HttpFault(400, "Content-Length is no number", "BAD_HTTP", closes=True)
    return int(text)


def _decoded(path: str) -> str:
    """An encoded slash must not make two segments of one."""
    return "%2F".join(unquote(part, errors="replace") for part in re.split("%2[Ff]", path))
