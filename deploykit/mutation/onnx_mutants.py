"""Mutants of ONNX files. Only what changes is touched; external data is copied once and shared."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import external_data_helper

from deploykit.errors import UsageError, from_os_error
from deploykit.mutation import faults, onnx_rewrites
from deploykit.mutation.faults import Made, Site
from deploykit.mutation.onnx_weights import BYTES, FLOATS, Graph, Weight

_FLOAT_ORDER = (
    faults.SCALED, faults.FLIPPED, faults.ACTIVATION, faults.UNBIASED, faults.DIM, faults.EPSILON, faults.SWAPPED,
    faults.ZEROED, faults.ROUNDED, faults.CONSTANT, faults.OUTPUTS, faults.TRANSPOSED,
)  # fmt: skip
_INT8_ORDER = (
    faults.STEPS, faults.SWAPPED, faults.WIDER_SCALE, faults.UNBIASED, faults.ACTIVATION, faults.DIM,
    faults.ZERO_POINT, faults.FLIPPED, faults.EPSILON, faults.ZEROED, faults.SCALED, faults.TRANSPOSED,
    faults.OUTPUTS, faults.CONSTANT,
)  # fmt: skip


def order(precision: str) -> tuple[str, ...]:
    """The faults that make sense at `precision`, the most telling first."""
    if precision.startswith("int"):
        return _INT8_ORDER
    return tuple(fault for fault in _FLOAT_ORDER if precision == "fp32" or fault != faults.ROUNDED)


def opened(artifact: Path) -> Graph:
    """The graph of the file, external data left where it is."""
    return Graph.load(artifact, external=False)


def places(graph: Graph, fault: str) -> list[str]:
    """Where `fault` can go, early layers first."""
    if fault in onnx_rewrites.PLACES:
        return onnx_rewrites.PLACES[fault](graph)
    chosen = [weight for weight in graph.weights if _takes(graph, weight, fault)]
    if fault == faults.WIDER_SCALE:
        return list(dict.fromkeys(weight.scale for weight in chosen))
    if fault == faults.SWAPPED:
        return [weight.name for weight in chosen[-1:]]
    return [weight.name for weight in chosen]


def _takes(graph: Graph, weight: Weight, fault: str) -> bool:
    tensor = graph.tensors[weight.name]
    is_float, is_bytes = tensor.data_type in FLOATS, tensor.data_type in BYTES
    if fault in {faults.SCALED, faults.ROUNDED}:
        return is_float and (fault == faults.SCALED or tensor.data_type == onnx.TensorProto.FLOAT)
    if fault == faults.STEPS:
        return is_bytes
    if fault == faults.WIDER_SCALE:
        return weight.scale in graph.tensors
    if fault == faults.TRANSPOSED:
        return faults.is_square(tuple(tensor.dims))
    return tensor.dims[weight.axis] > 1 or fault == faults.FLIPPED


def probe(graph: Graph, precision: str) -> str:
    """The float tensor of a middle layer by whose scaling the smallest visible change is sought; empty without one."""
    names = places(graph, faults.WIDER_SCALE) if precision.startswith("int") else []
    names = names or places(graph, faults.SCALED)
    return names[len(names) // 2] if names else ""


def mutate(artifact: Path, folder: Path, site: Site) -> Made:
    """Write the mutant that `site` describes to `folder`; external data is copied there the first time.

    Raises:
        UsageError: the artifact has no such place.
        StorageError: the copy cannot be written.
    """
    graph = opened(artifact)
    change = _apply(graph, site)
    path = folder / artifact.name
    try:
        for name in _beside(graph.model):
            if not (folder / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.parent / name, folder / name)
        with path.open("wb") as stream:
            stream.write(graph.model.SerializeToString())
    except OSError as error:
        raise from_os_error(error, path.name) from error
    return Made(site.fault, label(graph, site.place), path, change)


def label(graph: Graph, place: str) -> str:
    """`place` as people know it: a weight that an exporter folded and numbered is called after its layer's bias."""
    weight = next((weight for weight in graph.weights if place in {weight.name, weight.value, weight.scale}), None)
    layer, is_known, _ = weight.bias.rpartition(".bias") if weight else ("", "", "")
    if weight is None or "." in weight.name or not is_known:
        return place
    return {weight.name: f"{layer}.weight", weight.scale: f"{layer}.weight's scale"}.get(place, layer)


def _apply(graph: Graph, site: Site) -> float | None:
    rewrite: Callable[[Graph, Site], None] | None = onnx_rewrites.REWRITES.get(site.fault)
    try:
        if rewrite is not None:
            rewrite(graph, site)
            return None
        axis = next((weight.axis for weight in graph.weights if weight.name == site.place), 0)
        before = graph.array(site.place)
        after = faults.changed(before, site, axis)
    except (KeyError, StopIteration) as error:
        hint = "ask for the sites of this artifact"
        raise UsageError(site.place, f"no place for the fault {site.fault}", hint, "NO_SITE") from error
    graph.put(site.place, after)
    if site.fault == faults.SWAPPED:
        _swap_bias(graph, site, before.shape[axis])
    return faults.relative_change(before, after)


def _swap_bias(graph: Graph, site: Site, count: int) -> None:
    """The bias goes with its classes, else the mutant would be milder or harsher than two labels mixed up."""
    weight = next(weight for weight in graph.weights if weight.name == site.place)
    if weight.bias:
        pair = faults.classes(count, site.seed)
        graph.put(weight.bias, faults.swap_channels(graph.array(weight.bias), 0, *pair))


def _beside(model: onnx.ModelProto) -> set[str]:
    """Files that hold external data, relative to the model; none outside its folder."""
    found = set()
    for tensor in [*model.graph.initializer, *(a.t for n in model.graph.node for a in n.attribute if a.HasField("t"))]:
        if external_data_helper.uses_external_data(tensor):
            location = external_data_helper.ExternalDataInfo(tensor).location
            if not Path(location).is_absolute() and ".." not in Path(location).parts:
                found.add(location)
    return found
