"""What a known model is: how to build it, what to make of it, and what the gate must say about each part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn


@dataclass(frozen=True)
class Expected:
    """What verify must say about one variant.

    Attributes:
        verdict: `pass`, `fail`, `error`, `inconclusive`, …
        codes: the report's code is one of these; empty for none.
        says: a regular expression that the reason matches.
        warns: codes that must be among the checks that did not fail.
    """

    verdict: str = "pass"
    codes: tuple[str, ...] = ("",)
    says: str = ""
    warns: tuple[str, ...] = ()


PASS = Expected()


def fails(*codes: str, says: str = "") -> Expected:
    """The gate says no, for one of these reasons."""
    return Expected("fail", codes, says)


def unmade(*codes: str, says: str = "") -> Expected:
    """The variant could not be made or run at all: exit 4, with the reason."""
    return Expected("error", codes, says)


def warns(*codes: str) -> Expected:
    """It passes, and says what to look at."""
    return Expected(warns=codes)


@dataclass(frozen=True)
class Made:
    """A live model with what it is exported from.

    Attributes:
        module: in the mode in which it is exported.
        inputs: example inputs as `deploykit.export` takes them; None where `described` says all.
        described: `NAME:DTYPE[dims]` texts.
        samples: real inputs by name, `labels` among them where there are any.
    """

    module: nn.Module
    inputs: Any = None
    described: tuple[str, ...] = ()
    samples: dict[str, np.ndarray[Any, Any]] | None = None


Build = Callable[[], Made]


@dataclass(frozen=True)
class Known:
    """A model that is exported and verified.

    Attributes:
        id: number and name.
        build: makes it, under a fixed seed.
        expect: by variant; the variants named here are made.
        refused: code of the error with which the export as a whole ends; empty when it goes through.
        says: a regular expression that this error matches.
        options: plugin options by variant.
        gap: why the product does not meet the expectation yet; the test is a strict xfail then.
        slow: left to `make test-slow`.
    """

    id: str
    build: Build
    expect: dict[str, Expected] = field(default_factory=lambda: {"onnx": PASS})
    refused: str = ""
    says: str = ""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    gap: str = ""
    slow: bool = False


Edit = Callable[[onnx.ModelProto], None]
Write = Callable[[Made, Path], None]


@dataclass(frozen=True)
class Foreign:
    """An artifact that somebody else made of a known model, judged with `artifact=`.

    Attributes:
        id: number and name.
        build: the model; its bundle is made once for all artifacts with the same `build`.
        edit: what is done to deploykit's own sound ONNX file; or
        write: writes the artifact from the live model.
        expect: the verdict on the artifact.
        precision: the budget that it is held to.
        base: the variant that the bundle holds and `edit` starts from.
    """

    id: str
    build: Build
    expect: Expected
    edit: Edit | None = None
    write: Write | None = None
    precision: str = "fp32"
    base: str = "onnx"
    gap: str = ""
    slow: bool = False


def built(build: Build) -> Made:
    """The model under a fixed seed, which the caller's random numbers do not feel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


class Wrapped(nn.Module):
    """A function of one input `x` as a module."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def of(function: Callable[[torch.Tensor], Any], *shape: int, inputs: torch.Tensor | None = None) -> Build:
    """A builder of a model without weights, for `float32[2, *shape]` or the given inputs."""

    def build() -> Made:
        return Made(Wrapped(function).eval(), torch.randn(2, *shape) if inputs is None else inputs)

    return build
