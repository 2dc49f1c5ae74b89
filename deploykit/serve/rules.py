"""What the embedded server takes from a client, and for how long it waits for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """Limits of one server.

    Attributes:
        max_head: bytes of the request line and the headers; browsers stay below 8 KiB.
        max_body: bytes; what claims to be longer is refused before it is read.
        head_s: seconds from the first byte of a request to the end of its headers.
        body_s: seconds for the whole body, and for the client to take the whole answer.
        idle_s: seconds that a connection may wait for its next request.
        queue_s: seconds that a request waits for its turn before it is sent away.
        connections: open ones at a time; each has a thread.
        working_bytes: memory that the larger requests may take together, reckoned at `JSON_WEIGHT` and `BINARY_WEIGHT`.
        concurrency: runs of the session at a time.
        hosts: names that a request may be for, lower case; empty takes every name.
        token: what `Authorization: Bearer` has to carry; empty asks for none.
    """

    max_head: int = 16 << 10
    max_body: int = 64 << 20
    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 60.0
    queue_s: float = 30.0
    connections: int = 256
    working_bytes: int = 2 << 30
    concurrency: int = 1
    hosts: tuple[str, ...] = ()
    token: str = ""


READY = "ready"
"""What the process that serves says once, when it answers."""

JSON_WEIGHT = 24
"""Bytes of Python objects for one byte of JSON at worst: `{},` is 3 bytes, an empty dict and its place in a list 72."""

BINARY_WEIGHT = 2
"""The body, and a copy of it where a tensor does not lie aligned."""

SMALL = 64 << 10
"""Bodies up to this many bytes are not reckoned: all connections together cannot take 400 MB with them."""
