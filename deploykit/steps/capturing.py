"""Step: load the model, check it, and record the reference. Runs before any exporter has seen the module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from deploykit import inputs
from deploykit.bundle import CaseRecord, ReferenceRecord
from deploykit.campaign import plan
from deploykit.capture import health, outputs, ranges, record, state
from deploykit.errors import UsageError
from deploykit.model import LoadedModel
from deploykit.parity.scale import classifier_output
from deploykit.quiet import quiet
from deploykit.reference import Case, save_arrays, save_case
from deploykit.results import to_data
from deploykit.sources._weights import save_weights
from deploykit.steps import live


def capture(source: dict[str, Any] | None, samples: str | None, stage: str, scratch: str, seed: int) -> dict[str, Any]:
    """Write `source/weights.safetensors` and `reference/` into `stage`, calibration batches into `scratch`.

    Args:
        source: fields of a SourceSpec; None takes the live model that this process adopted.
        samples: path of an `.npz` with real inputs, or None.
        stage: folder of the bundle in the making.
        scratch: folder for files that other steps need and the bundle does not.
        seed: of the campaign.

    Returns:
        `signature`, `reference`, `digest`, `parameters`, `model_bytes`, `notes`, `calibration` (file names).
    """
    model = live.load(source) if source is not None else live.current()
    health.check(model)
    model = replace(model, signature=outputs.with_outputs(model))
    given = inputs.Samples.load(Path(samples)) if samples else None
    if given is None and source is not None and source["inputs"]:
        model = ranges.widened(model)
    live.adopt(model)
    reference, notes = _reference(model, given, Path(stage), seed)
    folder = Path(stage) / "source"
    folder.mkdir()
    save_weights(model.module, folder / "weights.safetensors")
    parameters = list(model.module.parameters())
    tensors = [*parameters, *model.module.buffers()]
    return {
        "signature": to_data(model.signature),
        "reference": reference.model_dump(mode="json"),
        "digest": state.digest(model.module),
        "parameters": sum(tensor.numel() for tensor in parameters),
        "model_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "notes": {**model.notes, **notes},
        "calibration": _calibration(model, given, Path(scratch), seed),
    }


def _reference(
    model: LoadedModel, given: inputs.Samples | None, stage: Path, seed: int
) -> tuple[ReferenceRecord, dict[str, str]]:
    """The record of the reference, and notes on what eager does not answer or should not do."""
    folder = stage / "reference"
    folder.mkdir()
    records = []
    with quiet():  # a module may warn of an empty batch or an infinite input: those are asked on purpose
        recorder = record.Recorder(model)
        limits = ranges.limits(model)
        for question in plan.campaign(model.signature, model.example, given, seed, limits):
            case = recorder.answer(question)
            if case is None:
                continue
            _check_labels(case)
            file = f"reference/{case.id}.safetensors"
            save_case(case, stage / file)
            records.append(CaseRecord(file=file, **{name: getattr(case, name) for name in _RECORDED}))
    notes = {f"skipped {name}": f"eager refuses it: {reason}" for name, reason in recorder.skipped.items()}
    if recorder.random is not None:
        notes["random"] = f"{recorder.random} draws random numbers, without effect on the answers tried"
    reference = ReferenceRecord(
        float64=recorder.float64,
        samples=given.origin if given else "drawn",
        cases=tuple(records),
        largest=recorder.largest,
        smallest=recorder.smallest,
        index_outputs=recorder.index_outputs,
    )
    return reference, notes


def _check_labels(case: Case) -> None:
    """Labels are classes of the output that decides; where none does, they would be ignored in silence."""
    if case.labels is None:
        return
    output = classifier_output(case)
    if output is None:
        hint = "return one [rows, classes] tensor, or give samples without labels"
        raise UsageError("labels", "the model has no single output that decides", hint, "BAD_SAMPLES")
    classes, highest = case.expected[output].shape[1], int(case.labels.max(initial=0))
    if highest >= classes:
        hint = "number the classes from 0"
        raise UsageError("labels", f"class {highest} is named and {output} has {classes}", hint, "BAD_SAMPLES")


_RECORDED = ("id", "input_class", "gate", "rows", "seed", "noise", "layout", "relation", "score_noise")


def calibration(
    source: dict[str, Any], weights: str, signature: dict[str, Any], samples: str | None, scratch: str, seed: int
) -> list[str]:
    """Write the calibration batches that `capture` would into `scratch`, for a bundle that is there; gives the files.

    Args:
        source: fields of a SourceSpec.
        weights: the bundle's.
        signature: the bundle's.
        samples: path of the `.npz` that the bundle was exported with, or None.
        scratch: existing folder.
        seed: of the bundle's campaign.
    """
    model = live.ensure(source, weights, signature)
    given = inputs.Samples.load(Path(samples)) if samples else None
    return _calibration(model, given, Path(scratch), seed)


def _calibration(model: LoadedModel, given: inputs.Samples | None, scratch: Path, seed: int) -> list[str]:
    files = []
    for index, batch in enumerate(plan.calibration(model.signature, model.example, given, seed)):
        path = scratch / f"calibration-{index}.safetensors"
        save_arrays(batch, path)
        files.append(str(path))
    return files
