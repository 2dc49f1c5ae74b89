"""The face of a runtime: an artifact in, a session out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

from deploykit.session import Session, SessionSettings


class RuntimePlugin(Protocol):
    """One engine.

    Attributes:
        stack: runtimes with the same stack share a child process (`torch`, `onnxruntime`).
        runs_code: opening an artifact can run code that is in it.
    """

    stack: ClassVar[str]
    runs_code: ClassVar[bool]

    def unavailable(self) -> str | None:
        """Why this engine cannot be used here, in one line; None when it can."""

    def providers(self) -> tuple[str, ...]:
        """Full names of the execution providers that this engine can really use on this machine."""

    def open(self, artifact: Path, output_names: tuple[str, ...], settings: SessionSettings) -> Session:
        """Open `artifact` on the wanted provider.

        `output_names` name the outputs of engines whose artifacts do not name theirs; a session of an engine that
        does name them uses the artifact's own.

        Raises:
            WorkError: PROVIDER_FALLBACK when the wanted provider cannot run it; LOAD_ERROR when it cannot be opened.
        """


class ProfilingRuntime(RuntimePlugin, Protocol):
    """An engine that can tell where the time of a call goes; not every one has to."""

    def profile(
        self,
        artifact: Path,
        output_names: tuple[str, ...],
        settings: SessionSettings,
        trace: Path,
        plan: Callable[[Session], Callable[[], object]],
    ) -> None:
        """Open `artifact`, let `plan` warm up, make the calls that it gives under the engine's own profiler.

        The Chrome trace goes to `trace`; it may hold what happened before those calls, too.

        Raises:
            WorkError: as `open`.
        """


class ForkedRuntime(RuntimePlugin, Protocol):
    """An engine whose import can be made once for several processes; not every one has to.

    Attributes:
        imports: modules that `open` imports; one that this version of the engine lacks is left to `open`. Importing
            them opens nothing. Engines with the same list share a process, and a list holds nothing that one of them
            would not import by itself.
    """

    imports: ClassVar[tuple[str, ...]]
