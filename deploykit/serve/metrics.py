"""Counters of the embedded server, in the text format that Prometheus reads.

Source of the format: Prometheus' "Exposition formats", version 0.0.4.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends in seconds: Prometheus' own, and three decades below for models that answer in microseconds."""


class Metrics:
    """What happened so far. All of it is counted under one lock, which is held for less than a microsecond.

    Args:
        restarts: how often the process behind the server was started again.
    """

    def __init__(self, restarts: int = 0) -> None:
        self._lock = threading.Lock()
        self._restarts, self._started = restarts, time.time()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = self._session_seconds = 0.0
        self._runs = self._received = self._sent = self._flying = self._connections = self._turned_away = 0

    def began(self) -> None:
        """A request is being worked on."""
        with self._lock:
            self._flying += 1

    def ended(self, route: str, status: int, seconds: float, received: int, sent: int) -> None:
        """It was answered.

        Args:
            route: one of a few fixed words: what a client sends is no label.
            status: of HTTP.
            seconds: from its first byte to the last of the answer.
            received: bytes of its body.
            sent: bytes of the answer's.
        """
        with self._lock:
            self._flying -= 1
            self._requests[route, status] += 1
            self._received += received
            self._sent += sent
            if route == "infer":
                self._buckets[bisect_left(BUCKETS, seconds)] += 1
                self._seconds += seconds

    def ran(self, seconds: float) -> None:
        """The session computed for so long."""
        with self._lock:
            self._runs += 1
            self._session_seconds += seconds

    def connected(self, change: int) -> None:
        """One connection more, or one less."""
        with self._lock:
            self._connections += change

    def turned_away(self) -> None:
        """A connection was closed since there were too many."""
        with self._lock:
            self._turned_away += 1

    def render(self) -> bytes:
        """The page at /metrics."""
        with self._lock:
            requests, buckets = dict(self._requests), list(self._buckets)
            plain = [
                ("requests_in_flight", "gauge", "Requests that are being answered.", self._flying),
                ("connections", "gauge", "Open connections.", self._connections),
                ("connections_refused_total", "counter", "Connections over the limit.", self._turned_away),
                ("received_bytes_total", "counter", "Bytes of bodies that came in.", self._received),
                ("sent_bytes_total", "counter", "Bytes of bodies that went out.", self._sent),
                ("session_runs_total", "counter", "Runs of the session.", self._runs),
                ("session_seconds_total", "counter", "Seconds in the session.", self._session_seconds),
                ("restarts_total", "counter", "Restarts after a crash.", self._restarts),
                ("start_time_seconds", "gauge", "When the process started, Unix time.", round(self._started, 3)),
            ]
            total = self._seconds
        lines = _header("requests_total", "counter", "Requests by route and status.")
        lines += [
            f'deploykit_requests_total{{route="{route}",code="{status}"}} {count}'
            for (route, status), count in sorted(requests.items())
        ]
        lines += _histogram(buckets, total)
        for name, kind, said, value in plain:
            lines += [*_header(name, kind, said), f"deploykit_{name} {value}"]
        return ("\n".join(lines) + "\n").encode()


def _histogram(buckets: list[int], total: float) -> list[str]:
    lines, count = _header("request_seconds", "histogram", "Seconds from the first byte to the last, inference."), 0
    for end, found in zip((*(str(one) for one in BUCKETS), "+Inf"), buckets, strict=True):
        count += found
        lines.append(f'deploykit_request_seconds_bucket{{le="{end}"}} {count}')
    return [*lines, f"deploykit_request_seconds_sum {total}", f"deploykit_request_seconds_count {count}"]


def _header(name: str, kind: str, said: str) -> list[str]:
    return [f"# HELP deploykit_{name} {said}", f"# TYPE deploykit_{name} {kind}"]
