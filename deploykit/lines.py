"""Where every value of an exported graph comes from in the model's code: collected at export, read by a search.

The artifacts themselves carry no source locations. `source/lines.json` beside them does, with file names relative to
the project or package and no path of the machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploykit.errors import RefusedError, from_os_error

LINES = "source/lines.json"
"""Where a bundle keeps it; bundles without it are older, and still good."""

SCHEMA = 1


@dataclass(frozen=True)
class Line:
    """What computes one value of the captured program.

    Attributes:
        module: path and class of the module, for example `layer2.up (Upsample)`; empty at the top without a class.
        operator: the ATen operator, for example `upsample_bilinear2d`.
        source: file and line, for example `model.py:88`; empty when unknown.
        code: the text of that line; empty when unknown.
        reads: names of the values it takes from the captured program.
        parameters: names of the parameters and buffers it takes.
    """

    module: str = ""
    operator: str = ""
    source: str = ""
    code: str = ""
    reads: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lines:
    """The lines of a bundle.

    Attributes:
        captured: by name in the captured program.
        values: a value of the ONNX graph to the captured one that it equals: checked by numbers at export, for the
            converter numbers values anew and two graphs may use one name for two things.
        parts: a value inside a converted operator to the captured value that it helps to compute.
    """

    captured: dict[str, Line] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)

    def of(self, value: str) -> Line:
        """The line that computes a value of the ONNX graph; an empty one when unknown."""
        found = self.values.get(value) or self.parts.get(value) or ("" if self.values else value)
        return self.captured.get(found, Line())

    def merged(self, other: Lines) -> Lines:
        """Both; what `other` says wins."""
        return Lines(
            {**self.captured, **other.captured}, {**self.values, **other.values}, {**self.parts, **other.parts}
        )

    def save(self, path: Path) -> None:
        """Write JSON; equal lines give equal bytes."""
        data = {"schema": SCHEMA, **asdict(self)}
        text = json.dumps(data, indent=1, ensure_ascii=True, sort_keys=True, allow_nan=False) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise from_os_error(error, path.name) from error

    @classmethod
    def load(cls, path: Path) -> Lines:
        """Read what `save` wrote; empty when there is no such file.

        Raises:
            RefusedError: the file is not what `save` writes.
        """
        if not path.is_file():
            return cls()
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            captured = {str(name): _line(entry) for name, entry in data["captured"].items()}
            return cls(captured, _names(data["values"]), _names(data["parts"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RefusedError(path.name, f"not a record of lines: {error}", "export the bundle again") from error


def _line(data: dict[str, object]) -> Line:
    module, operator, source, code = (str(data[name]) for name in ("module", "operator", "source", "code"))
    return Line(module, operator, source, code, _items(data["reads"]), _items(data["parameters"]))


def _items(data: object) -> tuple[str, ...]:
    if not isinstance(data, list):
        raise TypeError("a list is expected")
    return tuple(str(item) for item in data)


def _names(data: dict[str, object]) -> dict[str, str]:
    return {str(name): str(other) for name, other in data.items()}


_heard: ContextVar[list[Lines] | None] = ContextVar("deploykit_lines", default=None)


def tell(lines: Lines) -> None:
    """Hand over what an exporter found out; nobody may be listening."""
    heard = _heard.get()
    if heard is not None:
        heard.append(lines)


@contextmanager
def listening() -> Iterator[list[Lines]]:
    """Collect what `tell` is given within the block: exporters answer with facts, and this is none."""
    heard: list[Lines] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
