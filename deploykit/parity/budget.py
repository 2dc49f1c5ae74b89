"""How much a variant may differ from eager, by kind, and why: the policy, as data.

`R` = RMSE(candidate, float64) / max(eager's own noise, 2⁻²⁴·rms(float64)) says how much worse than eager fp32 a variant
is and needs no tuning per model: healthy fp32 artifacts measure 0.9 to 2. Reduced precision is held to a centred SQNR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from deploykit.errors import UsageError
from deploykit.session import CPU

ULP32 = 2.0**-24
"""Half a unit in the last place of float32: no fp32 evaluation is expected to be closer than this."""


@dataclass(frozen=True)
class Budget:
    """The limits for one kind of variant.

    Attributes:
        max_r, warn_r: on R; None where R does not apply.
        small_factor: `max_r` and `warn_r` times this on small cases (`scale.SMALL`).
        min_sqnr_db, warn_sqnr_db: centred SQNR; None where it does not apply.
        not_applied_db: above this a variant is suspiciously exact: the precision change did not happen.
        max_half_ratio: RMSE over the RMSE of eager itself in half precision.
        values_everywhere: whether values count outside the distribution too (constants), or only the pattern.
        strict_pattern: whether NaN and Inf must come out as in eager; else a difference is a warning.
        max_mates: how far a sample's answer may move with the rest of its batch, in parts of the output's spread.
        max_flips: share of indices that reduced precision may reorder.
        max_disagreement: share of decisions that may differ where there are no labels, at 95 % confidence; None where
            every flip must be a tie within the allowed error instead, which needs no statistics.
        max_drop: largest accepted loss of top-1 accuracy, as a fraction, at 95 % confidence.
        min_ratio: smallest accepted accuracy relative to eager's.
        reason: where the limits come from.
    """

    reason: str
    max_r: float | None = None
    warn_r: float | None = None
    min_sqnr_db: float | None = None
    warn_sqnr_db: float | None = None
    not_applied_db: float | None = None
    max_half_ratio: float | None = None
    small_factor: float = 2.0
    values_everywhere: bool = True
    strict_pattern: bool = True
    max_mates: float = 0.05
    max_flips: float = 0.1
    max_disagreement: float | None = None
    max_drop: float = 0.005
    min_ratio: float = 0.999
    loosened: tuple[str, ...] = ()


FP32 = Budget("times eager's own fp32 noise; healthy exports measure 0.9 to 2", max_r=4.0, warn_r=2.5)
FP32_CUDA = replace(
    FP32, reason="times eager's own fp32 noise; CUDA, TF32 off, sums in other orders", max_r=10.0, warn_r=6.0
)
FP16 = Budget(
    "11-bit significand",
    min_sqnr_db=45.0,
    warn_sqnr_db=55.0,
    not_applied_db=110.0,
    max_half_ratio=3.0,
)
BF16 = Budget("8-bit significand", min_sqnr_db=28.0, warn_sqnr_db=34.0, not_applied_db=90.0)
INT8_DYNAMIC = Budget(
    "8-bit weights and per-batch activations",
    min_sqnr_db=20.0,
    warn_sqnr_db=28.0,
    not_applied_db=90.0,
    values_everywhere=False,
    strict_pattern=False,
    max_disagreement=0.01,
    min_ratio=0.99,
)
INT8_STATIC = replace(
    INT8_DYNAMIC, reason="8-bit weights and calibrated activations", min_sqnr_db=15.0, warn_sqnr_db=20.0
)
INT4 = replace(
    INT8_DYNAMIC,
    reason="4-bit weights",
    min_sqnr_db=10.0,
    warn_sqnr_db=16.0,
    not_applied_db=80.0,
    max_disagreement=0.02,
)

BY_PRECISION = {
    "fp32": FP32,
    "fp16": FP16,
    "bf16": BF16,
    "int8-dynamic": INT8_DYNAMIC,
    "int8-static": INT8_STATIC,
    "int4": INT4,
}


def budget_for(precision: str, provider: str, changes: dict[str, float] | None = None, output: str = "") -> Budget:
    """The limits for a precision on a provider, with the user's changes, each of which is reported when it loosens.

    Args:
        precision: `fp32`, `int8-static`, …
        provider: full execution provider name.
        changes: `{"max_r": 6.0}` for every output, `{"logits.max_r": 6.0}` for one.
        output: the output whose own changes count as well.

    Raises:
        UsageError: the precision has no budget, or a change names no limit.
    """
    if precision not in BY_PRECISION:
        known = ", ".join(BY_PRECISION)
        raise UsageError(precision, "no budget for this precision", f"one of {known}", "NO_BUDGET")
    base = FP32_CUDA if precision == "fp32" and provider != CPU else BY_PRECISION[precision]
    wanted = {}
    for key, value in sorted((changes or {}).items(), key=lambda item: "." in item[0]):
        owner, _, name = key.rpartition(".")
        _check_change(key, name, value)
        if owner in {"", output}:
            wanted[name] = value
    return _changed(base, wanted)


def outputs_named(changes: dict[str, float]) -> set[str]:
    """Outputs that have changes of their own."""
    return {key.rpartition(".")[0] for key in changes if "." in key}


def _check_change(key: str, name: str, value: float) -> None:
    known = [f.name for f in fields(Budget) if f.name.startswith(("max_", "min_", "warn_"))]
    if name not in known:
        raise UsageError(f"--set budget.{key}", "there is no such limit", f"one of {', '.join(known)}", "UNKNOWN_LIMIT")
    if not math.isfinite(value):  # every comparison with NaN would hold
        raise UsageError(f"budget.{key}", f"{value} is no limit", "give a finite number", "BAD_LIMIT")
    if value <= 0.0 and name in {"max_r", "warn_r", "max_half_ratio", "max_mates"}:
        raise UsageError(f"budget.{key}", f"nothing stays within {value:g}", "give a number above 0", "BAD_LIMIT")


def _changed(base: Budget, changes: dict[str, float]) -> Budget:
    for name, value in changes.items():
        before: Any = getattr(base, name)
        if before is None:  # this kind of variant is not held to that limit
            continue
        looser = value < before if name.startswith("min_") or name.endswith("_db") else value > before
        note = (f"{name} {before:g} → {value:g}",) if looser else ()
        base = replace(base, **{name: value, "loosened": (*base.loosened, *note)})  # type: ignore[arg-type]
    return replace(base, reason=f"{base.reason} (loosened: {', '.join(base.loosened)})") if base.loosened else base
