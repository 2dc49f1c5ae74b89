"""`deploykit.toml`: source, inputs, variants, plugin options, budgets, measuring, gates and handoff in one file.

Reading it runs nothing: it is data, checked key by key before any work starts. A `python:` source named in it runs when
it is used, as on the command line. Relative paths are relative to the folder that the file lies in.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from deploykit import plugin_options, toml_text
from deploykit.errors import DeploykitError, UsageError, escape, from_os_error
from deploykit.model import SourceSpec
from deploykit.recipe_keys import (
    NAMES_NO_FILE,
    Batches,
    Bytes,
    Duration,
    FileName,
    InputText,
    Joined,
    Limits,
    Percent,
    PreprocessText,
    Rate,
    ReferenceText,
    ReleaseText,
    Several,
    SourceText,
    TargetName,
    VariantList,
)

SCHEMA = 1

USUAL_NAME = "deploykit.toml"

MAX_BYTES = 1 << 20
"""A recipe is some dozens of lines."""

MAX_SEED = 2**32 - 1
MAX_VERSION = 2**31 - 1


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Training(_Part):
    """How the seed model is trained; None is the command line's default, here and below."""

    data: Literal["digits", "mnist"] | None = None
    data_root: FileName | None = None
    download: bool | None = None
    epochs: int | None = Field(default=None, ge=1)
    optimizer: Literal["sgd", "adam", "rmsprop"] | None = None
    lr: float | None = Field(default=None, gt=0)


class Verify(_Part):
    """How the gate judges, and what it writes for a continuous integration."""

    self_check: bool | None = None
    inconclusive: Literal["fail", "warn"] | None = None
    baseline: FileName | None = None
    junit: FileName | None = None
    summary: FileName | None = None
    reproducers: FileName | None = None
    annotations: Literal["auto", "github", "none"] | None = None


class Bench(_Part):
    """What is measured and how."""

    batch: Batches | None = None
    threads: int | None = Field(default=None, ge=1, le=1024)
    quick: bool | None = None
    session: Joined | None = None
    compile: bool | None = None
    profile: bool | None = None
    tune: Literal["latency", "throughput", "memory"] | None = None
    scenario: Literal["single-stream", "offline", "server"] | None = None
    rate: float | None = Field(default=None, gt=0)
    slo: str | None = Field(default=None, examples=["p99=5ms"])
    seconds: float | None = Field(default=None, gt=0)


class Gates(_Part):
    """What a recommended variant has to satisfy, and what the speed gate compares with."""

    goal: Literal["latency", "throughput", "memory", "size"] | None = None
    max_accuracy_drop: Percent | None = Field(default=None, examples=["0.5%"])
    latency_p90: Duration | None = Field(default=None, examples=["5ms"])
    latency_median: Duration | None = Field(default=None, examples=["1ms"])
    min_throughput: Rate | None = Field(default=None, examples=["1000/s"])
    memory: Bytes | None = Field(default=None, examples=["500MB"])
    size: Bytes | None = Field(default=None, examples=["10MB"])
    load: Duration | None = Field(default=None, examples=["500ms"])
    against: ReferenceText | None = Field(default=None, examples=["../released"])
    metrics: Joined | None = Field(default=None, examples=["median"])
    margin: Joined | None = Field(default=None, examples=["2%,5%"])
    junit: FileName | None = None


class Handoff(_Part):
    """One folder that a serving stack takes as it is."""

    to: TargetName
    output: FileName
    target: ReleaseText | None = Field(default=None, examples=["triton:24.10"])
    variant: str | None = None
    model_name: str | None = None
    version: int | None = Field(default=None, ge=1, le=MAX_VERSION)
    goal: Literal["latency", "throughput", "memory"] | None = None
    session: Joined | None = None
    allow_unverified: bool | None = None
    preflight: FileName | None = None


class Recipe(_Part):
    """A whole recipe. Paths in it are already those that the caller can open.

    Attributes:
        budget: changes to the limits of verify: `max_r`, or `logits.max_r` for the output `logits` alone.
        options: plugin options by variant.
        on: execution provider for verify, bench and handoff.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    source: SourceText | None = Field(default=None, examples=["torchvision:resnet18"])
    inputs: tuple[InputText, ...] = Field(default=(), examples=[["image:float32[N,3,224,224]"]])
    checkpoint: FileName | None = None
    samples: FileName | None = None
    preprocess: PreprocessText | None = Field(default=None, examples=["imagenet"])
    trust_code: bool | None = None
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    variants: VariantList | None = Field(default=None, examples=["core"])
    keep_float: Joined | None = Field(default=None, examples=["auto"])
    keep_float_target: float | None = Field(default=None, gt=0)
    target: ReleaseText | None = Field(default=None, examples=["ort:1.19"])
    output: FileName | None = None
    on: str | None = Field(default=None, min_length=1)
    options: dict[str, dict[str, Any]] = Field(default={}, examples=[{"onnx": {"opset": 18}}])
    training: Training = Training()
    budget: Limits = {}
    verify: Verify = Verify()
    bench: Bench = Bench()
    gates: Gates = Gates()
    handoff: Several[Handoff] = ()

    @field_validator("options")
    @classmethod
    def _known_options(cls, options: dict[str, dict[str, Any]], info: ValidationInfo) -> dict[str, dict[str, Any]]:
        if "variants" in info.data:  # else they are wrong themselves, which is said first
            plugin_options.check(options, info.data["variants"] or "core")
        return options

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in the file `path`; relative paths in it become relative to that file's folder.

        Raises:
            UsageError: NOT_FOUND; BAD_RECIPE, with the key that is wrong and, for a typo, the close one.
            StorageError: the file cannot be read.
        """
        raw = _bytes_of(path)
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise _bad(str(path), "is no text in UTF-8", "give a TOML file, or write one: deploykit init") from error
        return cls.parse(text, path.parent if path.is_file() else Path(), str(path))  # a pipe lies nowhere

    @classmethod
    def parse(cls, text: str, folder: Path = Path(), name: str = USUAL_NAME) -> Recipe:
        """A recipe from the text of a TOML file; see `of`.

        Raises:
            UsageError: BAD_RECIPE.
        """
        try:
            data = tomllib.loads(text)
        except RecursionError as error:
            raise _bad(name, "is nested too deeply", "deploykit init writes one that is not") from error
        except ValueError as error:  # also a number of thousands of digits
            raise _bad(name, f"is no TOML: {error}", "see https://toml.io for the form") from error
        return cls.of(data, folder, name)

    @classmethod
    def of(cls, data: Mapping[str, Any], folder: Path = Path(), name: str = USUAL_NAME) -> Recipe:
        """A recipe from what a TOML file holds.

        Args:
            data: keys as in the file.
            folder: what relative paths are relative to.
            name: the file's, for errors.

        Raises:
            UsageError: BAD_RECIPE.
        """
        if "schema" not in data:
            raise _bad(name, "no schema is named", f"write schema = {SCHEMA} at its top")
        if data["schema"] != SCHEMA or isinstance(data["schema"], bool | float):
            message = f"{escape(str(data['schema']), 20)} is unknown, this deploykit reads {SCHEMA}"
            raise _bad(f"{name}: schema", message, f"write schema = {SCHEMA}, or use a newer deploykit")
        try:
            leaves = list(_leaves(data, ()))
        except RecursionError as error:
            raise _bad(name, "is nested too deeply", "docs/recipe.md shows the form") from error
        for where, value in leaves:
            if not isinstance(value, str | bool | int | float) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                what = "not a finite number" if isinstance(value, float) else "a date or a time"
                raise _bad(f"{name}: {_path(where)}", what, "give a number, a text, true or false")
        try:
            text = json.dumps(dict(data))
            return cls.model_validate_json(text, context={"folder": folder})
        except ValidationError as error:
            raise _wrong(error, name) from error
        except DeploykitError as error:
            raise _bad(f"{name}: {error.subject}", error.message, error.hint) from error

    @property
    def bundle(self) -> str | None:
        """Where the bundle goes: `output`, else where the command line puts that of the source; None without either."""
        if self.output is not None or self.source is None:
            return self.output
        return str(Path("artifacts") / SourceSpec.parse(self.source).name)

    def to_toml(self) -> str:
        """The recipe as TOML that `read` reads from any folder when its paths are absolute; only what is named."""
        return toml_text.dumps(self.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"schema": SCHEMA})


@dataclass(frozen=True)
class Named:
    """A value that a recipe names: the key's path, and the value as the command line takes it."""

    key: str
    value: Any


_OF_THE_MODEL = (
    "source", "inputs", "checkpoint", "samples", "preprocess", "trust_code", "seed", "variants", "keep_float",
    "keep_float_target", "target", "output",
)  # fmt: skip
"""Keys at the top that describe the export."""

_PARAMETERS = {"target": "release", "compile": "compiled"}
"""Keys whose command line parameter has another name inside."""


def named_for(command: str, recipe: Recipe) -> dict[str, Named]:
    """What the recipe names of a command's parameters, by the parameter's name in the program.

    Args:
        command: `run`, `export`, `verify` or `bench`.
        recipe: see Recipe.
    """
    top = _named(recipe, "", _OF_THE_MODEL)
    bundle = {"bundle": Named("output", recipe.bundle)} if recipe.bundle else {}
    shared = _named(recipe, "", ("on", "trust_code"))
    if command in {"export", "run"}:
        measured = {**_part(recipe, "bench"), **_part(recipe, "gates"), **shared} if command == "run" else {}
        return {**measured, **_part(recipe, "training"), **top}
    if command == "verify":
        return {**bundle, **shared, **_part(recipe, "verify")}
    own = {name: top[name] for name in ("seed",) if name in top}
    if recipe.source is not None and SourceSpec.parse(recipe.source).kind not in NAMES_NO_FILE:
        own["source"] = top["source"]  # the bundle alone cannot build eager of what lies in the user's files
    return {**bundle, **shared, **own, **_part(recipe, "bench"), **_part(recipe, "gates")}


def _part(recipe: Recipe, name: str) -> dict[str, Named]:
    part: BaseModel = getattr(recipe, name)
    return _named(part, f"{name}.", tuple(type(part).model_fields))


def _named(part: BaseModel, prefix: str, keys: tuple[str, ...]) -> dict[str, Named]:
    values = {key: getattr(part, key) for key in keys}
    named = {key: value for key, value in values.items() if value not in (None, ())}
    return {_PARAMETERS.get(key, key): Named(prefix + key, value) for key, value in named.items()}


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    if len(raw) > MAX_BYTES:
        raise _bad(str(path), f"is larger than {MAX_BYTES} bytes", "a recipe is some dozens of lines; check the path")
    return raw


def _leaves(value: Any, where: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value that is no table and no array, with its place."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*where, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, (*where, index))
    else:
        yield where, value


def _unfit(value: Any) -> str | None:
    """What makes a value one that no key takes; None where nothing does."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    return None if isinstance(value, str | bool | int | float) else "a date or a time"


def _path(where: tuple[str | int, ...]) -> str:
    """`bench.threads`, `inputs[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")


def _wrong(error: ValidationError, name: str) -> UsageError:
    """The first thing that is wrong, unknown keys first: a typo often is why something else is missing."""
    every = error.errors(include_url=False, include_input=False)
    first = next((one for one in every if one["type"] == "extra_forbidden"), every[0])
    where = first["loc"]
    if first["type"] == "extra_forbidden":
        return _bad(f"{name}: {_path(where)}", "unknown key", _meant(where))
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = message if first["type"] == "value_error" else f"should be {message}"
    if first["type"] == "missing":
        message = "is missing"
    message, _, hint = message.partition("; ")
    return _bad(f"{name}: {_path(where)}", message, hint or _example(where))


def _bad(subject: str, message: str, hint: str) -> UsageError:
    return UsageError(subject, message, hint, "BAD_RECIPE")


def _meant(where: tuple[str | int, ...]) -> str:
    """What an unknown key may have been meant to be: a close one beside it, or its like in another table."""
    key = str(where[-1])
    known = {table: [_written(model, name) for name in model.model_fields] for table, model in TABLES.items()}
    table = str(where[0]) if len(where) > 1 else ""
    if close := difflib.get_close_matches(key.replace("-", "_"), known[table], n=1):
        return f"did you mean {close[0]}?"
    for other, keys in known.items():
        if key in keys:
            return f"it belongs into [{other}]" if other else "it belongs to the top of the file, before any [table]"
    return f"one of {', '.join(known[table])}"


def _example(where: tuple[str | int, ...]) -> str:
    """How the key could be written."""
    table, key = (str(where[0]), str(where[-1])) if len(where) > 1 else ("", str(where[0]))
    field = TABLES[table].model_fields.get(key) if table in TABLES else Recipe.model_fields.get(table)
    if field is not None and field.examples:
        return f"for example {toml_text.value(field.examples[0])}"
    return "see docs/recipe.md"


def _written(model: type[BaseModel], name: str) -> str:
    return model.model_fields[name].alias or name


TABLES: dict[str, type[BaseModel]] = {
    "": Recipe, "training": Training, "verify": Verify, "bench": Bench, "gates": Gates, "handoff": Handoff,
}  # fmt: skip
"""Table of the file to what it may hold; the empty one is the file's top."""
