"""Heads of requests: whatever comes, it is a head or an answer, and two readers cannot understand it differently."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.serve.head import Head, HttpFault, parse

PIECES = st.sampled_from(
    [b"GET", b"POST", b" ", b"/", b"/v2", b"%2f", b"%ff", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r", b":", b": ",
     b"Host", b"Content-Length", b"5", b"-1", b"Transfer-Encoding", b"chunked", b"\x00", b"\xff", b"\t", b"Connection"]
)  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(st.lists(PIECES | st.binary(max_size=4), max_size=20).map(b"".join))
def test_any_bytes_are_a_head_or_refused(raw):
    with suppress(HttpFault):
        assert isinstance(parse(raw), Head)


def head(*lines: str, first: str = "POST /v2 HTTP/1.1") -> Head:
    return parse("\r\n".join([first, "Host: h", *lines]).encode("latin-1"))


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: 1, 1",),
        ("Content-Length: 1_0",),
        ("Content-Length: \u00b9",),
        ("Content-Length: 0x1",),
        ("Content-Length: ",),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Content-Length: 1", "transfer-encoding: identity"),
        ("Content-Length : 1",),
        (" Content-Length: 1",),
        ("Content-Length: 1\nX: y",),
        ("Content-Length: 1\rX: y",),
        ("Content\x00-Length: 1",),
        ("X: \x00", "Content-Length: 1"),
        (": x", "Content-Length: 1"),
        ("Host: other", "Content-Length: 1"),
    ],
)
def test_nothing_that_a_proxy_could_read_otherwise(lines):
    with pytest.raises(HttpFault) as caught:
        head(*lines)
    assert caught.value.status in {400, 411}
    assert caught.value.closes


def test_what_is_read():
    found = head("content-LENGTH:  12\t", "X-A: b", "X-A: c", "Connection: Keep-Alive, close", "Expect: 100-Continue")
    assert (found.method, found.length, found.keeps, found.waits) == ("POST", 12, False, True)
    assert found.headers["x-a"] == "b, c"


@pytest.mark.parametrize(
    ("first", "lines", "keeps"),
    [
        ("GET / HTTP/1.1", (), True),
        ("GET / HTTP/1.1", ("Connection: close",), False),
        ("GET / HTTP/1.0", (), False),
        ("GET / HTTP/1.0", ("Connection: keep-alive",), True),
    ],
)
def test_how_long_a_connection_is_kept(first, lines, keeps):
    assert head(*lines, first=first).keeps is keeps


def test_paths():
    assert head(first="GET /a%20b?c=/d HTTP/1.1").path == "/a b"
    assert head(first="GET /a%2Fb%2fc HTTP/1.1").path == "/a%2Fb%2Fc"
