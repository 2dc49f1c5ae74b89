"""What people do without deploykit: `python zoo_plain.py SOURCE BUNDLE FILE.onnx ANSWER.json [INPUT…]`.

`torch.onnx.export(dynamo=True)` with the dims that the signature promises, one run in onnxruntime, `numpy.allclose`
with the example's answer. Where there is a bundle, the file is asked its other cases, too, by the same measure.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch.utils import _pytree as pytree

from deploykit import nested, registry
from deploykit.bundle import Bundle
from deploykit.model import LoadedModel, SourceSpec
from deploykit.reference import load_arrays, part
from deploykit.signature import Feeds, Signature

RTOL, ATOL = 1e-3, 1e-5
"""Of PyTorch's tutorial "Exporting a Model from PyTorch to ONNX and Running it using ONNX Runtime"."""


def answers(module: torch.nn.Module, feeds: Feeds) -> list[np.ndarray]:
    """Eager's outputs in order."""
    with torch.no_grad():
        value = module(*(torch.from_numpy(array.copy()) for array in feeds.values()))
    nested.register_dataclasses(value)
    return [leaf.numpy() for leaf in pytree.tree_leaves(value) if leaf is not None]


def exported(module: torch.nn.Module, signature: Signature, feeds: Feeds, file: Path) -> None:
    """The call as the documentation has it; a dim by name is symbolic if torch can keep it so."""
    dims = tuple({a: d for a, d in enumerate(spec.shape) if isinstance(d, str)} or None for spec in signature.inputs)
    tensors = tuple(torch.from_numpy(array.copy()) for array in feeds.values())
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    torch.onnx.export(
        module,
        tensors,
        file,
        dynamo=True,
        input_names=[spec.name for spec in signature.inputs],
        dynamic_shapes=(dims,) if kinds == [inspect.Parameter.VAR_POSITIONAL] else dims,
        verbose=False,
    )


def run(session: onnxruntime.InferenceSession, feeds: Feeds) -> list[np.ndarray]:
    """The file's outputs; an input that it lost is not fed."""
    known = {value.name for value in session.get_inputs()}
    return list(session.run(None, {name: array for name, array in feeds.items() if name in known}))


def close(expected: list[np.ndarray], actual: list[np.ndarray]) -> bool:
    """`numpy.allclose` output by output."""
    return len(expected) == len(actual) and all(
        want.shape == got.shape and np.allclose(want, got, rtol=RTOL, atol=ATOL, equal_nan=True)
        for want, got in zip(expected, actual, strict=True)
    )


def others(session: onnxruntime.InferenceSession, bundle: Bundle) -> dict[str, list[str]]:
    """Of the reference's cases that count in full, those answered far off (`far`) and those not answered (`raised`)."""
    found: dict[str, list[str]] = {"far": [], "raised": []}
    for case in bundle.manifest.reference.cases:
        if case.gate != "full":
            continue
        arrays = load_arrays(bundle.path / case.file)
        expected = part(arrays, "expected")
        inputs = part(arrays, "inputs")
        feeds = {spec.name: inputs[spec.name] for spec in bundle.manifest.signature.inputs}
        try:
            actual = run(session, feeds)
        except Exception:  # noqa: BLE001 - whatever the engine raises: it does not answer
            found["raised"].append(case.id)
            continue
        if not close([expected[spec.name] for spec in bundle.manifest.signature.outputs], actual):
            found["far"].append(case.id)
    return found


def asked(source: str, inputs: tuple[str, ...], folder: Path, file: Path) -> dict[str, Any]:
    """`check`: green, red, or which step failed; with `far` and `raised` where there is a bundle."""
    spec = SourceSpec.parse(source, inputs=inputs)
    model: LoadedModel = registry.load("sources", spec.kind)().load(spec)
    bundle = Bundle(folder) if folder.is_dir() else None
    feeds = model.example
    if bundle is not None:  # the user's own example has indices that span the vocabulary
        first = next(case for case in bundle.manifest.reference.cases if case.id == "example")
        stored = part(load_arrays(folder / first.file), "inputs")
        feeds = {name: stored[name] for name in feeds}
    step = "eager"
    try:
        expected = answers(model.module, feeds)
        step = "export"
        exported(model.module, model.signature, feeds, file)
        step = "run"
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        green = close(expected, run(session, feeds))
    except Exception as error:  # noqa: BLE001 - every way to fail is a row
        said = str(error).strip().splitlines() or [""]
        return {"check": f"{step} failed", "reason": f"{type(error).__name__}: {said[0]}"[:300]}
    return {"check": "green" if green else "red", **(others(session, bundle) if bundle else {})}


def main() -> None:
    """One answer, written when it is whole."""
    source, bundle, file, said, *inputs = sys.argv[1:]
    answer = asked(source, tuple(inputs), Path(bundle), Path(file))
    Path(said).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
