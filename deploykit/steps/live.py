"""The live model of this process: loaded once, used by every step that needs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from deploykit import preprocessed
from deploykit.errors import InternalError
from deploykit.finished import Finished
from deploykit.model import LoadedModel, SourceSpec
from deploykit.results import from_data
from deploykit.signature import Signature

_current: LoadedModel | None = None


def adopt(model: LoadedModel) -> None:
    """Make `model` the live one."""
    global _current  # noqa: PLW0603 - one live model per process is the design
    _current = model


def release() -> None:
    """Forget the live model; a caller's module must not stay alive in here."""
    global _current  # noqa: PLW0603 - see adopt
    _current = None


def current() -> LoadedModel:
    """The live model.

    Raises:
        InternalError: no step has loaded or adopted one.
    """
    if _current is None:
        raise InternalError("model", "no model is loaded in this process", "please report this")
    return _current


def load(source: dict[str, Any]) -> LoadedModel:
    """Load what the user named and make it the live model."""
    spec: SourceSpec = from_data(SourceSpec, source)
    model = preprocessed.load(spec)
    adopt(model)
    return model


def ensure(source: dict[str, Any] | None, weights: str, signature: dict[str, Any]) -> LoadedModel:
    """The live model; in a process that replaced a dead one, loaded again with the recorded weights and signature."""
    if _current is None:
        if source is None:
            raise InternalError("model", "the live module is gone", "please report this")
        from deploykit.sources._weights import load_weights

        model = load(source)
        if not isinstance(model.module, Finished):  # a file holds its own
            load_weights(model.module, Path(weights))
    adopt(replace(current(), signature=from_data(Signature, signature)))
    return current()
