"""Why an exporter cannot: what torch says in a page, told as the line of the model, what is there, and what to do.

It imports torch at the top: exporters import it inside their methods only.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from deploykit.diagnosis import remedy
from deploykit.errors import DeploykitError, WorkError
from deploykit.exporters._lines import relative
from deploykit.lines import Lines

_OWN = str(Path(__file__).parents[1])
_NO_FORM = re.compile(r"No ONNX function found for <OpOverload\(op='(?P<op>[^']+)'")
_NO_FAKE = re.compile(r"no fake impl registered for <\w+\((?P<op>[^)]+)\)>")
_ADVICE = re.compile(r"^(The error above occurred|For more|If you|- If|- Create|Caused by|Next steps)")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300
"""Characters of a foreign message worth keeping."""


@contextmanager
def explained(lines: Lines | None = None) -> Iterator[None]:
    """Turn what torch raises inside into a WorkError that names the model's line.

    Args:
        lines: of the captured program that is being converted: an operator says which one is meant.

    Raises:
        WorkError: DATA_DEPENDENT, UNSUPPORTED_OP, or EXPORT_ERROR.
    """
    try:
        yield
    except DeploykitError:
        raise
    except Exception as error:
        text = _COLORS.sub("", str(error))
        where, code = user_line(error)
        if isinstance(error, GuardOnDataDependentSymNode) or "data-dependent" in text:
            what = f"forward decides in Python by values of its tensors: {code}" if code else first(text)
            raise WorkError(where or "model", what, remedy("DATA_DEPENDENT"), "DATA_DEPENDENT") from error
        if found := _NO_FORM.search(text):
            raise _no_form(found["op"], lines or Lines()) from error
        if found := _NO_FAKE.search(text):
            hint = f"register_fake for {found['op']} says what shape it gives"
            raise WorkError(where or found["op"], "has no fake implementation", hint, "UNSUPPORTED_OP") from error
        message = f"{type(error).__name__}: {first(text)}" + (f" (at {code})" if code else "")
        raise WorkError(where or "model", message, remedy("EXPORT_ERROR"), "EXPORT_ERROR") from error


def user_line(error: BaseException) -> tuple[str, str]:
    """`net.py:12` and the text of the innermost frame that is neither torch's nor ours; two empty texts without one."""
    torchs = str(Path(torch.__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((torchs, _OWN, "<")) and Path(frame.filename).is_file():
            return f"{relative(frame.filename)}:{frame.lineno}", (frame.line or "").strip()
    return "", ""


def first(text: str) -> str:
    """The first line of a message that says something, cut where it goes on and on."""
    lines = [line.strip() for line in text.splitlines()]
    said = next((line for line in lines if line and not _ADVICE.match(line)), "no message")
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"


def _no_form(name: str, lines: Lines) -> WorkError:
    """The error for an operator that the converter does not know, at the line that calls it."""
    operator = name.replace(".", "::", 1)
    base = name.rpartition(".")[2].lstrip("_")
    places = {line.source for line in lines.captured.values() if line.operator.lstrip("_") == base and line.source}
    where = places.pop() if len(places) == 1 else operator
    return WorkError(where, f"the operator {operator} has no ONNX form", remedy("UNSUPPORTED_OP"), "UNSUPPORTED_OP")
