"""A runtime that is slower on purpose: what `harness.py` injects, through the ordinary plugin interface.

The artifact is a JSON file: `{"artifact": path of an ONNX file, "extra_ns": busy-wait after every call,
"every": only every n-th call waits (1: all), "extra_first_ns": what calls of the first "first_ns" wait instead}`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from deploykit import registry
from deploykit.session import Phases, Session, SessionSettings
from deploykit.signature import Feeds

NAME = "slowed"


@dataclass(frozen=True)
class Runtime:
    """ONNX Runtime with a busy-wait around it."""

    stack: ClassVar[str] = "onnxruntime"
    runs_code: ClassVar[bool] = False

    def unavailable(self) -> str | None:
        """Always there."""
        return None

    def providers(self) -> tuple[str, ...]:
        """Those of ONNX Runtime."""
        return tuple(registry.load("runtimes", "onnxruntime")().providers())

    def open(self, artifact: Path, output_names: tuple[str, ...], settings: SessionSettings) -> Session:
        """Open the ONNX file that the JSON file names."""
        plan = json.loads(artifact.read_text())
        inner = registry.load("runtimes", "onnxruntime")().open(Path(plan["artifact"]), output_names, settings)
        return SlowedSession(inner, plan)


class SlowedSession:
    """A session that waits after calls; see the module."""

    def __init__(self, inner: Any, plan: dict[str, Any]) -> None:
        self._inner, self._plan = inner, plan
        self.provider, self.threads = inner.provider, inner.threads
        self._number = count(1)
        self._start: int | None = None

    def run(self, feeds: Feeds) -> Feeds:
        """The outputs, at once."""
        answer: Feeds = self._inner.run(feeds)
        return answer

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """One call and its wait."""
        inner, clock, number = self._inner.prepare(feeds), time.perf_counter_ns, self._number
        extra, every = int(self._plan.get("extra_ns", 0)), int(self._plan.get("every", 1))
        first_ns, extra_first = int(self._plan.get("first_ns", 0)), int(self._plan.get("extra_first_ns", 0))

        def call() -> object:
            answer = inner()
            now = clock()
            if self._start is None:
                self._start = now
            early = now - self._start < first_ns
            wait = extra_first if early else extra if next(number) % every == 0 else 0
            while clock() - now < wait:
                pass
            return answer

        return call

    def phases(self, feeds: Feeds) -> Phases | None:
        """Those of the session inside."""
        phases: Phases | None = self._inner.phases(feeds)
        return phases
