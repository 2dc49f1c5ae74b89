"""Programs that torch saved: what they are is told from their bytes; opened only where the user trusts them."""

from __future__ import annotations

from pathlib import Path

from deploykit.errors import RefusedError
from deploykit.formats import recognize
from deploykit.model import SourceSpec

_SOURCE_OF = {"torch-export": "exported", "torchscript": "torchscript", "onnxruntime": "onnx"}
"""Runtime that opens a file to the source that takes it."""


def checked(spec: SourceSpec) -> Path:
    """The file that `spec` names, of the format that its kind takes, trusted by the user.

    Raises:
        UsageError: there is no such file.
        RefusedError: MALFORMED, it is something else; UNTRUSTED_CODE, the user did not say that it is trusted.
    """
    file = Path(spec.target)
    subject = f"{spec.kind}:{spec.target}"
    found = _SOURCE_OF[recognize(file)]
    if found != spec.kind:
        raise RefusedError(subject, f"the file is for another source: {found}", f"write {found}:{spec.target}")
    if not spec.trust_code:
        message = "opening it can run code that it holds"
        raise RefusedError(subject, message, "give --trust-code if you trust its origin", "UNTRUSTED_CODE")
    return file


def unreadable(spec: SourceSpec, error: Exception) -> RefusedError:
    """The error for a file that torch does not open."""
    message = f"torch does not open it: {' '.join(str(error).split())[:200] or type(error).__name__}"
    return RefusedError(f"{spec.kind}:{spec.target}", message, "write it again with this version of torch")
