"""What `--plan` says would be done. Frozen, and JSON by `results.to_json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deploykit.results import SCHEMA

Reuse = Literal["made", "decided when the model is loaded"]
"""Whether the variant of the bundle that is there may be copied: sometimes only the model can tell."""


@dataclass(frozen=True)
class PlannedStep:
    """One variant that would be made.

    Attributes:
        plugin: the exporter or transform, and `base` the variant that it starts from.
        options: all options of the plugin, the defaults among them.
        reuse: see `Reuse`; `reason` says why it is surely made.
        unavailable: why it cannot be made here; None when it can.
    """

    name: str
    plugin: str
    base: str | None
    options: dict[str, Any]
    reuse: Reuse
    reason: str = ""
    unavailable: str | None = None


@dataclass(frozen=True)
class PlanReport:
    """A run or an export before it is done; nothing was loaded and nothing written.

    Attributes:
        source: as on the command line; `source_unavailable` says why it cannot be loaded here.
        checkpoint: the file with the weights.
        inputs: as named; empty where the source says what they are.
        samples: the file with real inputs.
        training: how the seed model would be trained first; None where nothing is trained.
        replaces: a bundle is at `output`, and would be replaced.
        release: what the ONNX variants have to load in.
        budget: changes to the limits of verify.
        measured: what is measured, in order, a line each; empty for an export.
        gates: what has to hold, a line each.
        handoffs: folders that are written when the gates said yes, a line each.
    """

    source: str
    seed: int
    output: str
    replaces: bool
    variants: tuple[PlannedStep, ...]
    inputs: tuple[str, ...] = ()
    checkpoint: str | None = None
    samples: str | None = None
    training: str | None = None
    release: str | None = None
    source_unavailable: str | None = None
    budget: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    handoffs: tuple[str, ...] = ()
    exit_code: int = 0
    schema: int = SCHEMA


@dataclass(frozen=True)
class InitReport:
    """A recipe that was written.

    Attributes:
        path: the file.
        source: as it stands in the recipe.
        inputs, outputs: of the loaded model, as `--input` texts.
    """

    path: str
    source: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: int
    exit_code: int = 0
    schema: int = SCHEMA
