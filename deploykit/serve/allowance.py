"""Memory that larger requests share: each takes its part before it is read, and waits where too little is left."""

from __future__ import annotations

import threading

from deploykit.serve.head import HttpFault


class Allowance:
    """So many bytes for all requests together.

    Args:
        total: bytes; one request never takes more, it then has all of it to itself.
    """

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._changed = threading.Condition()

    def take(self, count: int, timeout_s: float) -> None:
        """Take a part, waiting for others to give theirs back.

        Raises:
            HttpFault: 503, they did not in time.
        """
        if not count:
            return
        count = min(count, self._total)
        with self._changed:
            if not self._changed.wait_for(lambda: self._left >= count, timeout_s):
                raise HttpFault(503, "too many large requests at a time", "BUSY", extra=(("Retry-After", "1"),))
            self._left -= count

    def give_back(self, count: int) -> None:
        """Give back what `take` took for the same `count`."""
        if count:
            with self._changed:
                self._left += min(count, self._total)
                self._changed.notify_all()
