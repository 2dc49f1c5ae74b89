"""The face of a handoff target: what is handed over in, the files of a folder out. Pure: nothing is read or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias

from deploykit.bundle import VariantRecord
from deploykit.session import CPU, SessionSettings
from deploykit.signature import Signature

Content: TypeAlias = "str | bytes | Path"
"""What becomes a file: a text, bytes, or a file that is copied."""

Tree: TypeAlias = "dict[str, Content]"
"""Relative POSIX path to content."""

Speaks = Literal["oip", "mlflow", ""]
"""How `check.py` talks to what was started: the Open Inference Protocol, MLflow's scoring protocol, or not at all."""


@dataclass(frozen=True)
class Version:
    """One version of the model, as the server is to see it.

    Attributes:
        number: from 1.
        variant: the bundle's record; `runtime` says which engine opens it, `facts` hold `opset` and `ir_version`.
        files: name beside the artifact to file; the artifact is the one named as in `variant.file`.
        settings: what sessions are opened with.
        batch: samples in a call for which the settings were tuned; None where nothing was.
    """

    number: int
    variant: VariantRecord
    files: Mapping[str, Path]
    settings: SessionSettings = field(default_factory=SessionSettings)
    batch: int | None = None

    @property
    def artifact(self) -> str:
        """Name of the file that the engine opens."""
        return str(self.variant.file).rpartition("/")[2]


@dataclass(frozen=True)
class Given:
    """What is handed over.

    Attributes:
        model: name of the model on the server.
        signature: of every version.
        versions: ascending by number, at least one; the last one is what clients get who name none.
        release: release of Triton, `24.10`; None where nobody named one, or only an engine.
        provider: full execution provider name that the settings are for.
    """

    model: str
    signature: Signature
    versions: tuple[Version, ...]
    release: str | None = None
    provider: str = CPU

    @property
    def latest(self) -> Version:
        """The version with the highest number."""
        return self.versions[-1]


@dataclass(frozen=True)
class Commands:
    """What a person types in the folder, in bash; `PORT` in the environment changes the port where there is one.

    Attributes:
        install: makes what the server needs, once; each line is one command.
        start: starts the server in the foreground; empty where the model is not served but run.
        url: where it answers then, `http://127.0.0.1:${PORT:-8000}`; empty without a server.
        check: proves the answers; empty takes `python check.py --url URL`.
        notes: paragraphs below the commands: what is to be known, and what this folder does not prove.
    """

    install: tuple[str, ...]
    start: str
    url: str = ""
    check: str = ""
    notes: tuple[str, ...] = ()


class TargetPlugin(Protocol):
    """One serving stack.

    Attributes:
        runtimes: engines whose artifacts the stack can serve, best first (`onnxruntime`, `torchscript`).
        speaks: the protocol of what `start` starts.
        stack: name of the pinned requirements that are shipped (`handoff/requirements/<stack>.txt`); empty for none.
        summary: one line for the table of targets: what takes the folder.
        proof: one line: what was really asked here, and what was not.

    A target may have `leaves`, too, see `leaves`.
    """

    runtimes: ClassVar[tuple[str, ...]]
    speaks: ClassVar[Speaks]
    stack: ClassVar[str]
    summary: ClassVar[str]
    proof: ClassVar[str]

    def check(self, given: Given) -> None:
        """Refuse what the stack would load and serve wrongly, or not load.

        Raises:
            RefusedError: TARGET_CANNOT_SERVE, with what to do instead.
        """

    def files(self, given: Given) -> Tree:
        """The stack's own files; the artifact of every version is among them, each exactly once.

        The reference, the manifest, the requirements and the README are not: every folder gets those.
        """

    def commands(self, given: Given) -> Commands:
        """How the folder is used."""


def leaves(target: TargetPlugin) -> tuple[str, ...]:
    """Paths in the folder that the commands of its README make: no person's own, and made again by the same commands.

    A target says so in a class variable of this name; one without it leaves nothing.
    """
    found: tuple[str, ...] = getattr(target, "leaves", ())
    return found
