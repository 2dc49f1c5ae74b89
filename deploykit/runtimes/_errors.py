"""What an engine says when it fails, as one of deploykit's errors: one clean line, no paths of its C++ sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from deploykit.errors import WorkError, from_os_error

_SOURCE = re.compile(r"\S*/\S+\.(?:cc|cpp|cu|h|hpp):\d+:?\s*(?:onnxruntime::)?(?:[\w:~<>]+\([^)]*\)(?: const)?)?\s*")
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : (\w+) : ")
_LOAD_FROM = re.compile(r"Load model from \S+ failed:\s*")
_SCRIPT_TRACE = "Traceback of TorchScript"
_ADVICE = re.compile(r" This is an internal miniz error\..*")
_BESIDE = re.compile(r"external data.*(?:does not exist|no such file|cannot open)", re.IGNORECASE | re.DOTALL)
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/:\"']+/)+(?=[^\s/:\"']+)")


def clean(text: str) -> str:
    """`text` on one line: without source locations, and with files by their name only."""
    if _SCRIPT_TRACE in text:
        # what failed stands below the traceback through TorchScript's own code
        text = text.strip().splitlines()[-1]
    text = _PREFIX.sub(r"\1: ", " ".join(text.split()))
    for noise in (_LOAD_FROM, _SOURCE, _FOLDERS, _ADVICE):
        text = noise.sub("", text)
    return text.strip()


def subject_of(artifact: Path) -> str:
    """`onnx-fp16/model.onnx`: enough to know the variant, and no path of this machine."""
    return f"{artifact.parent.name}/{artifact.name}" if artifact.parent.name else artifact.name


def check_there(artifact: Path) -> None:
    """Raise UsageError NOT_FOUND unless `artifact` is a file."""
    if not artifact.is_file():
        raise from_os_error(FileNotFoundError(), str(artifact))


def load_error(artifact: Path, error: BaseException) -> WorkError:
    """The file is there and the engine will not open it: ARTIFACT_INCOMPLETE where data beside it is missing."""
    message = f"cannot be opened: {clean(str(error)) or type(error).__name__}"
    if _BESIDE.search(str(error)):
        hint = "copy the file it names beside the model"
        return WorkError(subject_of(artifact), message, hint, "ARTIFACT_INCOMPLETE")
    return WorkError(subject_of(artifact), message, "make it again with deploykit export", "LOAD_ERROR")


def run_error(artifact: Path, error: BaseException) -> WorkError:
    """The session is open and the call failed."""
    message = clean(str(error)) or type(error).__name__
    return WorkError(subject_of(artifact), message, "check names, dtypes and shapes of the inputs", "RUN_ERROR")


def graph_error(artifact: Path, reason: str) -> WorkError:
    """The calls cannot be recorded as a device graph."""
    return WorkError(
        subject_of(artifact), f"cannot run as a device graph: {reason}", "leave out device_graph=on", "DEVICE_GRAPH"
    )


def fallback(artifact: Path, asked: str, got: str, reason: str, hint: str) -> WorkError:
    """The wanted provider would not have run it."""
    why = f" ({reason})" if reason else ""
    return WorkError(
        subject_of(artifact), f"asked for {asked}, would have run on {got}{why}", hint, "PROVIDER_FALLBACK"
    )


def names_for(artifact: Path, given: Sequence[str], found: int) -> tuple[str, ...]:
    """`given`, when it names `found` outputs.

    Raises:
        WorkError: RUN_ERROR, the artifact has another number of outputs.
    """
    if len(given) != found:
        raise run_error(artifact, ValueError(f"gives {found} outputs, the signature has {len(given)}"))
    return tuple(given)
