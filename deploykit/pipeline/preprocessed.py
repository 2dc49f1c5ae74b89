"""Recorded preprocessing, held to what the model was judged with: from raw images, with numpy alone."""

from __future__ import annotations

import numpy as np

from deploykit.pipeline.judging import Gate
from deploykit.preprocessing import Preprocessing
from deploykit.preprocessing_arrays import prepared
from deploykit.reference import Case
from deploykit.results import Check

LEVELS = 0.01
"""Levels of 255 that float evaluations of one definition may be apart; a wrong step is off by whole ones."""

CODE = "PREPROCESS_MISMATCH"


def checks(gate: Gate) -> list[Check]:
    """A check per case that holds raw images: the steps in the manifest make of them what the model was asked with."""
    steps = gate.bundle.manifest.preprocessing
    if steps is None or steps.mode != "recorded":
        return []
    found = [_check(steps, case) for case in map(gate.case, gate.records) if case.raw]
    if found:
        return found
    reason = "no case holds raw images: the recorded steps are not proven"
    return [Check("preprocess", "images", steps.input, "fail", CODE, "levels", None, LEVELS, reason)]


def _check(steps: Preprocessing, case: Case) -> Check:
    asked, name = case.inputs.get(steps.input), f"preprocess-{case.id}"
    made = prepared(steps, case.raw[steps.input]) if steps.input in case.raw else None
    if asked is None or made is None or made.shape != asked.shape:
        shown = "nothing" if made is None else list(made.shape)
        reason = (
            f"the recorded steps give {shown}, the model was asked with {None if asked is None else list(asked.shape)}"
        )
        return Check(name, "images", steps.input, "fail", CODE, "levels", None, LEVELS, reason)
    std = np.asarray(steps.std).reshape(1, -1, 1, 1)
    far = float((np.abs(made.astype(np.float64) - asked) * std / steps.scale).max(initial=0.0))
    if far <= LEVELS:
        reason = "levels of 255 between the recorded steps and what the model was judged with"
        return Check(name, "images", steps.input, "pass", "", "levels", far, LEVELS, reason)
    reason = f"the recorded steps are {far:.3g} levels of 255 away from what the model was judged with"
    return Check(name, "images", steps.input, "fail", CODE, "levels", far, LEVELS, reason)
