"""A sweep's matrix: models × settings in one TOML file, each cell a recipe. Reading it runs nothing.

`[defaults]`, each `[[model]]` and each `[[setting]]` hold keys of a recipe (`recipe.py`); a cell is the three of them
on top of each other, tables merged, the setting last. Beside these keys there are `name`, `files` (what a `python:`
file reads or imports beside itself) and the table `task` (what a cell may use). `[[include]]` keeps the cells that it
names, `[[exclude]]` takes some away; both take patterns as the shell's, `resnet*`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from deploykit import strict_json
from deploykit.errors import UsageError, from_os_error
from deploykit.model import SourceSpec
from deploykit.recipe import MAX_BYTES, SCHEMA, Recipe

MAX_CELLS = 10_000
"""More than this is a slip of the pen: at a minute each they take a week."""

_NOT_HERE = {
    "output": "a sweep names its bundles itself",
    "handoff": "hand over what was chosen afterwards: deploykit handoff BUNDLE",
    "verify.baseline": "a file that all cells would share",
    "verify.junit": "a file that all cells would write",
    "verify.summary": "a file that all cells would write",
    "verify.reproducers": "a folder that all cells would write",
    "gates.junit": "a file that all cells would write",
    "gates.against": "a sweep compares with eager; deploykit bench --against compares two bundles",
    "bench.tune": "tune what was chosen afterwards: deploykit bench BUNDLE --tune",
    "bench.scenario": "a sweep measures latency; deploykit bench BUNDLE --scenario measures load",
    "bench.rate": "belongs to bench.scenario",
    "bench.slo": "belongs to bench.scenario",
    "bench.seconds": "belongs to bench.scenario",
}
"""Keys of a recipe that say nothing of a cell, and why."""

Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f/]+$", max_length=60)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Task(_Part):
    """What a cell may use, and what an engine reserves for it.

    Attributes:
        cpus: cores; also the threads of export and verify, on which rounding depends.
        gpus: a part of one is allowed.
        memory_gb: memory of each child process, as DEPLOYKIT_MEMORY_GB says; None goes by the model's size.
        timeout_s: wall time of each half of a cell: export with verify, and bench.
        retries: how often a half is started again when its machine was lost.
    """

    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    gpus: Annotated[float, Field(ge=0, le=64)] = 0.0
    memory_gb: Annotated[float, Field(gt=0, le=65536)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=30 * 86400)] = 3600.0
    retries: Annotated[int, Field(ge=0, le=100)] = 3


class _Entry(_Part):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    name: Name | None = None
    files: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    task: dict[str, Any] = {}

    @property
    def recipe(self) -> dict[str, Any]:
        """What belongs to the recipe."""
        return dict(self.model_extra or {})


class _Rule(_Part):
    model: str = "*"
    setting: str = "*"

    def fits(self, model: str, setting: str) -> bool:
        return fnmatchcase(model, self.model) and fnmatchcase(setting, self.setting)


class _Matrix(_Part):
    schema_: Literal[1] = Field(alias="schema")
    defaults: _Entry = _Entry()
    model: tuple[_Entry, ...] = ()
    setting: tuple[_Entry, ...] = (_Entry(name="default"),)
    include: tuple[_Rule, ...] = ()
    exclude: tuple[_Rule, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One model at one setting.

    Attributes:
        recipe: its paths are absolute.
        files: what travels with a `python:` file, absolute; each of them is there.
    """

    model: str
    setting: str
    recipe: Recipe
    task: Task
    files: tuple[Path, ...] = ()

    @property
    def label(self) -> str:
        """For people: `resnet18 × one thread`."""
        return f"{self.model} × {self.setting}"


def read(path: Path) -> tuple[Cell, ...]:
    """The cells of the matrix in the file `path`, models first; relative paths are relative to its folder.

    Raises:
        UsageError: NOT_FOUND; BAD_MATRIX, with the key that is wrong; BAD_RECIPE, with the cell.
        StorageError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    if len(raw) > MAX_BYTES:
        raise _bad(str(path), f"is larger than {MAX_BYTES} bytes", "check the path")
    try:
        data = tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise _bad(str(path), "is no text in UTF-8", "give a TOML file; docs/sweep.md shows one") from error
    except (ValueError, RecursionError) as error:
        raise _bad(str(path), f"is no TOML: {error}", "see https://toml.io for the form") from error
    return cells(data, home(path), str(path))


def home(path: Path) -> Path:
    """The folder of a matrix; however it is named, its files have the same names from there."""
    return Path(os.path.abspath(path)).parent  # noqa: PTH100 - Path.absolute keeps `..`


def cells(data: Mapping[str, Any], folder: Path, name: str) -> tuple[Cell, ...]:
    """The cells of what a matrix file called `name` in `folder` holds.

    Raises:
        UsageError: BAD_MATRIX, BAD_RECIPE.
    """
    if data.get("schema") != SCHEMA or isinstance(data["schema"], bool | float):
        raise _bad(f"{name}: schema", "is missing or unknown", f"write schema = {SCHEMA} at its top")
    try:
        matrix = _Matrix.model_validate(_tuples(dict(data)))
    except RecursionError as error:
        raise _bad(name, "is nested too deeply", "docs/sweep.md shows the form") from error
    except ValidationError as error:
        raise _bad(name, strict_json.first_fault(error), _meant(error)) from error
    if not matrix.model:
        raise _bad(name, "names no model", 'add [[model]] with source = "..."')
    if not matrix.setting:
        raise _bad(f"{name}: setting", "is empty", "leave it out, or add [[setting]]")
    models = _named(name, "model", [(_model_name(name, index, matrix), m) for index, m in enumerate(matrix.model)])
    plain = [(s.name or f"setting-{index}", s) for index, s in enumerate(matrix.setting, 1)]
    settings = _named(name, "setting", plain)
    _check_rules(name, matrix, list(models), list(settings))
    kept = [(m, s) for m in models for s in settings if _kept(matrix, m, s)]
    if not kept:
        raise _bad(name, "no cell is left after include and exclude", "take one of them away")
    if len(kept) > MAX_CELLS:
        raise _bad(name, f"has {len(kept)} cells", f"{MAX_CELLS} at most; split it")
    return tuple(_cell(name, folder, matrix.defaults, (m, models[m]), (s, settings[s])) for m, s in kept)


def _cell(name: str, folder: Path, defaults: _Entry, model: tuple[str, _Entry], setting: tuple[str, _Entry]) -> Cell:
    layers = (defaults, model[1], setting[1])
    merged: dict[str, Any] = {}
    task: dict[str, Any] = {}
    for layer in layers:
        merged, task = _over(merged, layer.recipe), _over(task, layer.task)
    where = f"{name} ({model[0]} × {setting[0]})"
    _check_keys(where, merged)
    try:
        limits = Task.model_validate(task)
    except ValidationError as error:
        raise _bad(
            f"{where}: task", strict_json.first_fault(error), f"one of {', '.join(Task.model_fields)}"
        ) from error
    recipe = Recipe.of({"schema": SCHEMA, **_lists(merged)}, folder, where)
    if recipe.source is None:
        raise _bad(where, "names no source", 'write source = "..." in its [[model]]')
    files = _files(where, folder, [pattern for layer in layers for pattern in layer.files])
    return Cell(model[0], setting[0], recipe, limits, files)


def _check_keys(where: str, merged: Mapping[str, Any]) -> None:
    for path, why in _NOT_HERE.items():
        table, _, key = path.rpartition(".")
        part = merged.get(table, {}) if table else merged
        if isinstance(part, Mapping) and key in part:
            raise _bad(f"{where}: {path}", "has no place in a matrix", why)


def _files(where: str, folder: Path, patterns: Sequence[str]) -> tuple[Path, ...]:
    """What the patterns name, each below the matrix's folder: the place of a file beside the others has to travel."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        try:
            hits = sorted(path for path in folder.glob(pattern) if path.is_file())
        except (ValueError, NotImplementedError, OSError) as error:  # an empty or absolute pattern
            raise _bad(f"{where}: files", f"{pattern}: {error}", "name files below the matrix's folder") from error
        inside = [path for path in hits if path.resolve().is_relative_to(folder.resolve())]
        if not inside:
            hint = "name files below the matrix's folder, for example layers/*.py"
            raise _bad(f"{where}: files", f"nothing is called {pattern}", hint)
        found |= dict.fromkeys(inside)
    return tuple(found)


def _model_name(name: str, index: int, matrix: _Matrix) -> str:
    entry = matrix.model[index]
    source = entry.recipe.get("source", matrix.defaults.recipe.get("source"))
    if entry.name:
        return entry.name
    if not isinstance(source, str) or not source.partition(":")[0]:
        hint = 'write source = "torchvision:resnet18"'
        raise _bad(f"{name}: model[{index}].source", "is missing, or names nothing", hint)
    return SourceSpec.parse(source).name[:60]


def _named(name: str, kind: str, entries: list[tuple[str, _Entry]]) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    for called, entry in entries:
        if called in found:
            raise _bad(f"{name}: {kind}", f"two are called {called}", f"give each [[{kind}]] a name of its own")
        found[called] = entry
    return found


def _check_rules(name: str, matrix: _Matrix, models: list[str], settings: list[str]) -> None:
    """A rule that fits nothing is a typo."""
    for kind, rules in (("include", matrix.include), ("exclude", matrix.exclude)):
        for index, rule in enumerate(rules):
            for key, pattern, known in (("model", rule.model, models), ("setting", rule.setting, settings)):
                if not any(fnmatchcase(one, pattern) for one in known):
                    close = difflib.get_close_matches(pattern, known, n=1)
                    hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(known)}"
                    raise _bad(f"{name}: {kind}[{index}].{key}", f"{pattern} fits none", hint)


def _kept(matrix: _Matrix, model: str, setting: str) -> bool:
    included = not matrix.include or any(rule.fits(model, setting) for rule in matrix.include)
    return included and not any(rule.fits(model, setting) for rule in matrix.exclude)


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`; tables are merged, all else is replaced."""
    found = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = _over(found[key], value) if both else value
    return found


def _tuples(value: Any) -> Any:
    """Strict validation takes a list for no tuple; in TOML there are only lists."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return list(map(_lists, value)) if isinstance(value, tuple) else value


def _meant(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    known = [field.alias or name for name, field in _Matrix.model_fields.items()]
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        close = difflib.get_close_matches(str(first["loc"][0]), known, n=1)
        return f"did you mean {close[0]}?" if close else f"one of {', '.join(known)}"
    return "see docs/sweep.md"


def _bad(subject: str, message: str, hint: str) -> UsageError:
    return UsageError(subject, message, hint, "BAD_MATRIX")
