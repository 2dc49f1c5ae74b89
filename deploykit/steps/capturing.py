"""Step: load the model, check it, and record the reference. Runs before any exporter has seen the module."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deploykit import inputs
from deploykit.bundle import CaseRecord, ReferenceRecord
from deploykit.campaign import plan
from deploykit.campaign.images import Images
from deploykit.capture import health, hygiene, images, outputs, ranges, record, state
from deploykit.errors import UsageError
from deploykit.finished import Finished
from deploykit.model import LoadedModel
from deploykit.parity.scale import classifier_output
from deploykit.quiet import quiet
from deploykit.reference import Case, save_arrays, save_case
from deploykit.results import to_data
from deploykit.signature import Feeds
from deploykit.sources._weights import save_weights
from deploykit.steps import live


def capture(
    source: dict[str, Any] | None,
    samples: str | None,
    stage: str,
    scratch: str,
    seed: int,
    asked: str,
    without: dict[str, str],
) -> dict[str, Any]:
    """Write `source/weights.safetensors` and `reference/` into `stage`, calibration batches into `scratch`.

    Args:
        source: fields of a SourceSpec; None takes the live model that this process adopted.
        samples: path of an `.npz` with real inputs, or None.
        stage: folder of the bundle in the making.
        scratch: folder for files that other steps need and the bundle does not.
        seed: of the campaign.
        asked: path of a file that names the question being answered, while it is one that eager may refuse.
        without: cases that are not asked, by id, and why: they killed the process before this one.

    Returns:
        `signature`, `reference`, `digest`, `parameters`, `model_bytes`, `notes`, `odd` (those of the notes
        that the user should read), `calibration` (file names).
    """
    model = live.load(source) if source is not None else live.current()
    health.check(model)
    model = _proven(model)
    model = replace(model, signature=outputs.with_outputs(model))
    given = inputs.Samples.load(Path(samples)) if samples else None
    if given is None and model.drawn:
        model = ranges.widened(model)
    live.adopt(model)
    odd = hygiene.findings(model)
    photos = _photos(model)
    given = _prepared(photos, given)
    reference, notes = _reference(model, given, Path(stage), seed, photos, without, Path(asked))
    folder = Path(stage) / "source"
    folder.mkdir()
    save_weights(model.module, folder / "weights.safetensors")
    parameters = list(model.module.parameters())
    tensors = [*parameters, *model.module.buffers()]
    return {
        "signature": to_data(model.signature),
        "reference": reference.model_dump(mode="json"),
        "digest": model.module.digest if isinstance(model.module, Finished) else state.digest(model.module),
        "parameters": sum(tensor.numel() for tensor in parameters),
        "model_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "notes": {**model.notes, **odd, **notes},
        "odd": odd,
        "calibration": _calibration(model, given, Path(scratch), seed, photos),
        "preprocessing": to_data(model.preprocessing) if model.preprocessing else None,
    }


def _proven(model: LoadedModel) -> LoadedModel:
    """The model with a note on its preprocessing: proven before anything rests on it."""
    steps = model.preprocessing
    if steps is None:
        return model
    channels = model.signature.inputs[[spec.name for spec in model.signature.inputs].index(steps.input)].shape
    count = channels[1] if steps.mode == "recorded" else channels[steps.channel_axis]
    where = "in the module" if steps.mode == "fused" else "not in the module, to be done before it"
    notes = {"preprocessing": f"{where}: {steps}", "preprocessing proof": images.proof(steps, int(count))}
    return replace(model, notes={**model.notes, **notes})


def _photos(model: LoadedModel) -> Images | None:
    """The input that images go into, where the user says how they are preprocessed."""
    steps = model.preprocessing
    return Images(steps, partial(images.prepare, steps)) if steps is not None else None


def _prepared(photos: Images | None, given: inputs.Samples | None) -> inputs.Samples | None:
    """Samples as the model takes them: those of recorded preprocessing may be raw images."""
    if photos is None or given is None or not photos.recorded:
        return given
    name = photos.preprocessing.input

    def done(feeds: Feeds) -> Feeds:
        raw = feeds.get(name)
        if raw is None or raw.dtype != "uint8" or raw.ndim != 4:
            return feeds
        return {**feeds, name: np.concatenate([photos.prepare(raw[i : i + 1]) for i in range(len(raw))])}

    return replace(given, real=done(given.real), calibration=done(given.calibration))


def _reference(
    model: LoadedModel,
    given: inputs.Samples | None,
    stage: Path,
    seed: int,
    photos: Images | None,
    without: dict[str, str],
    asked: Path,
) -> tuple[ReferenceRecord, dict[str, str]]:
    """The record of the reference, and notes on what eager does not answer or should not do.

    The question that eager may refuse stands in the file `asked` while it is answered: native code may die of it.
    """
    folder = stage / "reference"
    folder.mkdir()
    records = []
    with quiet():  # a module may warn of an empty batch or an infinite input: those are asked on purpose
        # what answers is written independently of what is exported, where preprocessing makes two of one model
        recorder = record.Recorder(replace(model, module=model.reference or model.module))
        limits = ranges.limits(model)
        for question in plan.campaign(model.signature, model.example, given, seed, limits, photos):
            if question.id in without:
                continue
            if question.optional or question.gate == "outside":
                asked.write_text(question.id, encoding="utf-8")
            case = recorder.answer(question)
            asked.unlink(missing_ok=True)
            if case is None:
                continue
            _check_labels(case)
            file = f"reference/{case.id}.safetensors"
            save_case(case, stage / file)
            records.append(CaseRecord(file=file, **{name: getattr(case, name) for name in _RECORDED}))
    notes = {f"skipped {name}": f"eager refuses it: {reason}" for name, reason in recorder.skipped.items()}
    notes |= {f"skipped {name}": f"eager dies of it: {reason}" for name, reason in without.items()}
    if recorder.random is not None:
        notes["random"] = f"{recorder.random} draws random numbers, without effect on the answers tried"
    if isinstance(model.module, Finished) and recorder.float64 is None:
        notes["float64"] = f"none: {model.module.weak or 'the reference implementation refuses this graph'}"
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
    photos = _photos(model)
    return _calibration(model, _prepared(photos, given), Path(scratch), seed, photos)


def _calibration(
    model: LoadedModel, given: inputs.Samples | None, scratch: Path, seed: int, photos: Images | None
) -> list[str]:
    files = []
    for index, batch in enumerate(plan.calibration(model.signature, model.example, given, seed, photos)):
        path = scratch / f"calibration-{index}.safetensors"
        save_arrays(batch, path)
        files.append(str(path))
    return files
