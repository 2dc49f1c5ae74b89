"""The cases of a reference through a server, one after another and from many clients at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from deploykit.endpoint import Endpoint
from deploykit.errors import DeploykitError
from deploykit.reference import save_arrays
from deploykit.remote.naming import Naming
from deploykit.signature import Feeds

GONE = {"SERVER_UNREACHABLE"}
"""Errors that end it before the first answer; later they are what became of a case."""

SLOW = 3
"""So many answers in a row that took too long, and the rest is not waited for."""

MOST_ROWS = 256
"""Rows that the clients share."""

REQUEST_ROWS = (1, 2, 3, 1, 5, 1, 8)
"""Rows of one request from a client, by turns: a server that batches puts them together in ever other ways."""


@dataclass
class Replayed:
    """What came of the cases.

    Attributes:
        order: names of the outputs as they came, per case that was answered; the arrays are in `ID.safetensors`.
        errors: code and message per case that was not.
        skipped: cases that this wire cannot carry, and why.
        seconds: wall time.
    """

    order: dict[str, list[str]] = field(default_factory=dict)
    errors: dict[str, tuple[str, str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def replay(
    endpoint: Endpoint,
    naming: Naming,
    cases: Iterable[tuple[str, Feeds]],
    folder: Path,
    step: Callable[[str], None],
) -> Replayed:
    """Ask every case once.

    Args:
        endpoint: the model on its server.
        naming: of its tensors.
        cases: ids with their inputs.
        folder: receives the answers.
        step: is told of every case.

    Raises:
        WorkError: nobody answers, or too slowly time after time.
    """
    found = Replayed()
    began, slow = time.perf_counter(), 0
    for name, feeds in cases:
        try:
            outputs = naming.received(endpoint.infer(naming.sent(feeds)))
        except DeploykitError as error:
            slow = slow + 1 if error.code == "TIME_LIMIT" else 0
            if slow == SLOW or (error.code in GONE and not found.order):
                raise
            if error.code == "NOT_IN_JSON":
                found.skipped[name] = error.message
            else:
                found.errors[name] = (error.code, error.message)
            step(f"{name}: {error.code}")
            continue
        slow = 0
        save_arrays(outputs, folder / f"{name}.safetensors")
        found.order[name] = list(outputs)
        step(name)
    found.seconds = time.perf_counter() - began
    return found


@dataclass(frozen=True)
class Shared:
    """Rows of one case, answered to many clients at once.

    Attributes:
        inputs: the rows that were asked, in their own order.
        outputs: the answers, each row in the place of its question.
        rows: how many.
        requests: how many requests carried them.
        error: code and message of the first request that was not answered; then there are no `outputs`.
    """

    inputs: Feeds
    outputs: Feeds
    rows: int
    requests: int
    error: tuple[str, str] | None = None


def shared(
    open_endpoint: Callable[[], Endpoint], naming: Naming, inputs: Feeds, rows: int, clients: int, seed: int = 0
) -> Shared:
    """Let `clients` threads ask the rows of one case in small requests, in a seeded order.

    Args:
        open_endpoint: gives a connection of its own to each client.
        naming: of the tensors.
        inputs: every array has `rows` in its first axis.
        rows: how many there are; at most `MOST_ROWS` are asked.
        clients: threads.
        seed: of the order.
    """
    count = min(rows, MOST_ROWS)
    pieces = list(_pieces(np.random.default_rng(seed).permutation(count)))
    answers: list[tuple[np.ndarray, Feeds]] = []
    errors: list[tuple[str, str]] = []
    queue, lock = iter(pieces), Lock()

    def client() -> None:
        endpoint = open_endpoint()
        try:
            while not errors:
                with lock:
                    piece = next(queue, None)
                if piece is None:
                    return
                feeds = {name: array[piece] for name, array in inputs.items()}
                answers.append((piece, naming.received(endpoint.infer(naming.sent(feeds)))))
        except DeploykitError as error:
            errors.append((error.code, error.message))
        finally:
            endpoint.close()

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    asked = {name: array[:count] for name, array in inputs.items()}
    if errors:
        return Shared(asked, {}, count, len(pieces), errors[0])
    try:
        return Shared(asked, _joined(answers, count), count, len(pieces))
    except (KeyError, IndexError, ValueError) as error:
        return Shared(
            asked, {}, count, len(pieces), ("SHAPE_MISMATCH", f"an answer has other rows than asked: {error}")
        )


def _pieces(order: np.ndarray) -> Iterator[np.ndarray]:
    begin, turn = 0, 0
    while begin < len(order):
        size = REQUEST_ROWS[turn % len(REQUEST_ROWS)]
        yield order[begin : begin + size]
        begin, turn = begin + size, turn + 1


def _joined(answers: list[tuple[np.ndarray, Feeds]], count: int) -> Feeds:
    """The answers in the order of the rows.

    Raises:
        ValueError: an answer has another number of rows, another form or another dtype than the others.
    """
    names = list(answers[0][1])
    joined = {}
    for name in names:
        parts = [outputs[name] for _, outputs in answers]
        first = parts[0]
        for (piece, _), part in zip(answers, parts, strict=True):
            if part.shape != (len(piece), *first.shape[1:]) or part.dtype != first.dtype:
                raise ValueError(f"{name} came as {part.dtype.name}{list(part.shape)} for {len(piece)} rows")
        whole = np.empty((count, *first.shape[1:]), first.dtype)
        for (piece, _), part in zip(answers, parts, strict=True):
            whole[piece] = part
        joined[name] = whole
    return joined
