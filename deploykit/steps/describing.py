"""Step: load a model and say what goes in and what comes out; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deploykit.capture import health, outputs
from deploykit.errors import DeploykitError
from deploykit.model import LoadedModel
from deploykit.signature import Dim, TensorSpec
from deploykit.steps import live


def describe(source: dict[str, Any]) -> dict[str, Any]:
    """Load, check as an export would, and ask eager once for its outputs.

    Args:
        source: fields of a SourceSpec.

    Returns:
        `inputs` as `--input` texts, `outputs` in the same form, `parameters`, and `given`: whether the source takes
        these texts and then is the same model with the same inputs, so that they can stand in a recipe.

    Raises:
        DeploykitError: the model cannot be loaded, or is not fit to be exported.
    """
    model = live.load(source)
    health.check(model)
    signature = outputs.with_outputs(model)
    dims = {dim.name: dim for dim in signature.dims}
    texts = _texts(signature.inputs, dims)
    return {
        "inputs": texts,
        "outputs": [str(spec) for spec in signature.outputs],
        "parameters": sum(tensor.numel() for tensor in model.module.parameters()),
        "given": bool(source["inputs"]) or _same(model, {**source, "inputs": tuple(texts)}),
    }


def _texts(specs: tuple[TensorSpec, ...], dims: Mapping[str, Dim]) -> list[str]:
    """Each input as a text; a dim's range stands where the dim first appears."""
    said: set[str] = set()
    texts = []
    for spec in specs:
        shape = []
        for dim in spec.shape:
            known = dims.get(dim) if isinstance(dim, str) and dim not in said else None
            said.add(str(dim))
            shape.append(_ranged(known) if known is not None and known.stated else dim)
        texts.append(str(replace(spec, shape=tuple(shape))))
    return texts


def _ranged(dim: Dim) -> str:
    return f"{dim.name}={dim.min}..{dim.max}" + (f"/{dim.step}" if dim.step > 1 else "")


def _same(model: LoadedModel, source: dict[str, Any]) -> bool:
    """Whether the source, asked with texts, gives the signature and the example that it gave without."""
    try:
        other = live.load(source)
    except DeploykitError:
        return False
    alike = other.signature == model.signature and list(other.example) == list(model.example)
    return alike and all((other.example[name] == array).all() for name, array in model.example.items())
