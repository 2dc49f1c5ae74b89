"""What the values of a recipe may be, one annotated type per kind; pydantic reports what does not fit with its key."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, StringConstraints, ValidationInfo

from deploykit import plan, preprocessing, registry, releases
from deploykit.errors import DeploykitError
from deploykit.model import SourceSpec
from deploykit.signature import MAX_DIM, parse_input
from deploykit.units import byte_count, nanoseconds

NAMES_NO_FILE = {"mlp", "torchvision", "timm"}
"""Kinds of source whose target is a name of a library's, whatever lies in the folder."""

T = TypeVar("T")


def _checked(read: Callable[[str], Any]) -> Callable[[str], str]:
    """A validator that keeps the text where `read` takes it; what a deploykit error says becomes pydantic's."""

    def check(text: str) -> str:
        try:
            read(text)
        except DeploykitError as error:
            raise ValueError(f"{error.message}; {error.hint}") from error
        return text

    return check


def beside(folder: Path, text: str) -> str:
    """A file named in a recipe that lies in `folder`; `~` is the user's home, as a shell has it.

    Raises:
        ValueError: there is no such user, or no file can be called that.
    """
    if "\0" in text:
        raise ValueError("holds a null character, which no file name does")
    try:
        return str(folder / Path(text).expanduser())
    except RuntimeError as error:
        raise ValueError(f"no home is known of {Path(text).parts[0]}; write ./ before a name that begins so") from error


def _folder(info: ValidationInfo) -> Path:
    return Path(info.context["folder"]) if info.context else Path()


def _file(text: str, info: ValidationInfo) -> str:
    return beside(_folder(info), text)


def _source(text: str, info: ValidationInfo) -> str:
    """`python:models.py:build` with the file beside the recipe; so is every target that names something there."""
    spec = SourceSpec.parse(text)
    registry.load("sources", spec.kind)
    if spec.kind in NAMES_NO_FILE or not spec.target:
        return text
    file, rest = spec.parted
    if file.endswith(".py") or (spec.kind != "python" and (_folder(info) / file).exists()):
        return f"{spec.kind}:{beside(_folder(info), file)}{rest}"
    return text


def _sound_source(text: str, info: ValidationInfo) -> str:
    try:
        return _source(text, info)
    except DeploykitError as error:
        raise ValueError(f"{error.message}; {error.hint}") from error


def _reference(text: str, info: ValidationInfo) -> str:
    """A bundle beside the recipe where one of that name is there, else a variant's name; either with @settings."""
    name, at, settings = text.partition("@")
    found = beside(_folder(info), name)
    return f"{found}{at}{settings}" if name and Path(found).exists() else text


def _joined(value: Any) -> Any:
    """A list of names as the command line takes it: separated by commas."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) and item for item in value):
        return ",".join(value)
    if isinstance(value, list | tuple):
        raise ValueError("not a list of names")  # noqa: TRY004 - pydantic takes ValueError only
    return value


def _batches(value: Any) -> Any:
    """A size, a list of sizes, or the text of the command line."""
    if isinstance(value, str) and all(part.strip().isdecimal() for part in value.split(",")):
        value = [int(part) for part in value.split(",")]
    items = value if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(item, int) and not isinstance(item, bool) and 0 < item <= MAX_DIM for item in items)
    if not items or not whole:
        raise ValueError(f"not a batch size from 1 to {MAX_DIM}, or a list of these; for example [1, 8]")
    return ",".join(map(str, items))


def _limits(value: Any) -> Any:
    """`{"max_r": 6, "logits": {"max_r": 8}}` as `{"max_r": 6, "logits.max_r": 8}`."""
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= {f"{key}.{name}": limit for name, limit in item.items()} if isinstance(item, dict) else {key: item}
    return found


def _matches(pattern: str, message: str, check: Callable[[str], bool] = bool) -> Callable[[str], str]:
    def match(text: str) -> str:
        found = re.fullmatch(pattern, text.strip(), re.ASCII)
        if found is None or not check(found[1]):
            raise ValueError(message)
        return text

    return match


def _measured(read: Callable[[str], Any]) -> Callable[[str], str]:
    def check(text: str) -> str:
        read(text)  # says in its ValueError what is wrong
        return text

    return check


def _target(text: str) -> object:
    return registry.load("handoff", text)


def _one_or_more(value: Any) -> Any:
    """`[handoff]` alone stands for a list of one."""
    if isinstance(value, dict):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_Text = Annotated[str, StringConstraints(min_length=1)]

FileName: TypeAlias = Annotated[_Text, AfterValidator(_file)]
SourceText: TypeAlias = Annotated[_Text, AfterValidator(_sound_source)]
ReferenceText: TypeAlias = Annotated[_Text, AfterValidator(_reference)]
InputText: TypeAlias = Annotated[str, AfterValidator(_checked(parse_input))]
ReleaseText: TypeAlias = Annotated[str, AfterValidator(_checked(releases.parse))]
PreprocessText: TypeAlias = Annotated[_Text, AfterValidator(_checked(preprocessing.parse))]
TargetName: TypeAlias = Annotated[str, AfterValidator(_checked(_target))]
Joined: TypeAlias = Annotated[_Text, BeforeValidator(_joined)]
VariantList: TypeAlias = Annotated[_Text, AfterValidator(_checked(plan.select)), BeforeValidator(_joined)]
Batches: TypeAlias = Annotated[str, BeforeValidator(_batches)]
Limits: TypeAlias = Annotated[dict[str, float], BeforeValidator(_limits)]
Duration: TypeAlias = Annotated[str, AfterValidator(_measured(nanoseconds))]
Bytes: TypeAlias = Annotated[str, AfterValidator(_measured(byte_count))]
Percent: TypeAlias = Annotated[
    str,
    AfterValidator(
        _matches(r"([0-9]+(?:\.[0-9]+)?)\s*%", "no percentage between 0 and 100", lambda n: 0 < float(n) < 100)
    ),
]
Rate: TypeAlias = Annotated[
    str,
    AfterValidator(_matches(r"([0-9]+(?:\.[0-9]+)?)\s*(?:/\s*s)?", "no positive rate", lambda n: 0 < float(n) < 1e300)),
]
Several: TypeAlias = Annotated[tuple[T, ...], BeforeValidator(_one_or_more)]
