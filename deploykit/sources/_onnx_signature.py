"""What an ONNX graph says of its inputs and outputs, with `--input` where it leaves something open."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploykit import nested
from deploykit.errors import UsageError
from deploykit.onnx_graph import Graph, type_name
from deploykit.signature import DTYPES, TensorSpec, parse_input

if TYPE_CHECKING:
    from onnx import ValueInfoProto

_NOBODY = {"", "-1", "?", "*", "None"}
"""Texts that exporters write where a dim has no name."""

_NAMES = {"float": "float32", "double": "float64"}
"""ONNX's names of element types where numpy has others."""

_ZIPMAP = "scikit-learn's converter leaves it out with options={'zipmap': False}"


@dataclass
class _Dims:
    """Names for symbolic dims: each of the graph's texts gets one, and `--input` may replace it by a name or number."""

    names: dict[str, str] = field(default_factory=dict)
    said: dict[str, int | str] = field(default_factory=dict)
    invented: dict[str, str] = field(default_factory=dict)

    def named(self, text: str) -> str:
        """A name for one of the graph's texts: the same for the same text."""
        if text not in self.names:
            plain = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
            plain = plain if plain[:1].isalpha() else f"dim_{plain}"
            self.names[text] = self._free(plain)
        return self.names[text]

    def anonymous(self, wanted: str, key: str) -> str:
        """A name for a dim without one; `key` is the same for dims that are taken to be the same."""
        if key not in self.invented:
            self.invented[key] = self._free(wanted)
        return self.invented[key]

    def _free(self, name: str) -> str:
        taken = {*self.names.values(), *self.invented.values()}
        while name in taken:
            name += "_"
        return name


def described(graph: Graph, texts: tuple[str, ...]) -> tuple[tuple[TensorSpec, ...], str]:
    """The inputs in the graph's order, without those that are initializers; and which dims had no name, in words.

    Args:
        graph: of a checked file.
        texts: `--input` texts, each for an input of the graph; what they leave out the graph says.

    Raises:
        UsageError: BAD_INPUT, an input is no tensor of numbers, or a text contradicts the graph; INPUT_NAMES, a text
            names no input; NO_INPUTS, neither says how many dims an input has.
    """
    wanted = set(graph.inputs)
    values = [value for value in graph.model.graph.input if value.name in wanted]
    if not values:
        raise UsageError("inputs", "the graph takes none", "give a model that computes something", "NO_INPUTS")
    given = _given([value.name for value in values], texts)
    dims = _Dims()
    shapes = {value.name: _shape(value, dims, values) for value in values}
    for name, spec in given.items():
        _check(name, spec, values, shapes[name])
        for own, said in zip(shapes[name] or (), spec.shape, strict=False):
            if isinstance(own, str) and dims.said.setdefault(own, said) != said:
                message = f"{own} is one dim in the graph, and two in --input"
                raise UsageError(f"input {name}", message, "give it the same name or size everywhere", "BAD_INPUT")
    specs = []
    for value in values:
        shape = shapes[value.name]
        if shape is None and value.name not in given:
            hint = f"add --input {value.name}:{_dtype(value)}[dims]"
            raise UsageError(f"input {value.name}", "the graph does not say how many dims it has", hint, "NO_INPUTS")
        whole = given[value.name].shape if shape is None else shape
        final = tuple(dims.said.get(dim, dim) if isinstance(dim, str) else dim for dim in whole)
        specs.append(TensorSpec(value.name, _dtype(value), final))
    return tuple(specs), _told(dims)


def output_names(graph: Graph) -> tuple[str, ...]:
    """The outputs as the graph calls them.

    Raises:
        UsageError: BAD_OUTPUT, one is no tensor of numbers, or there is none.
    """
    values = list(graph.model.graph.output)
    if not values:
        raise UsageError("outputs", "the graph gives none", "export the model with outputs", "BAD_OUTPUT")
    for value in values:
        kind = _kind(value)
        if kind not in DTYPES:
            hint = _ZIPMAP if "map" in kind else "export the model so that it gives tensors of numbers"
            raise UsageError(f"output {value.name}", f"is {_a(kind)}", hint, "BAD_OUTPUT")
    return tuple(value.name for value in values)


def _given(names: list[str], texts: tuple[str, ...]) -> dict[str, TensorSpec]:
    """`--input` by the graph's name; a name that a text cannot have (`input:0`) is written with `_`."""
    found: dict[str, TensorSpec] = {}
    plain: Mapping[str, str] = {nested.joined([name]): name for name in names} | {name: name for name in names}
    for spec in map(parse_input, texts):
        if spec.name not in plain or plain[spec.name] in found:
            message = f"no input is called {spec.name}" if spec.name not in plain else f"{spec.name} is given twice"
            raise UsageError("--input", f"{message}; there are {', '.join(names)}", "name each once", "INPUT_NAMES")
        found[plain[spec.name]] = spec
    return found


def _shape(value: ValueInfoProto, dims: _Dims, values: list[Any]) -> tuple[int | str, ...] | None:
    """Numbers and names; None where the graph does not say how many dims there are."""
    _dtype(value)
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    found: list[int | str] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.dim_value > 0:
            found.append(int(dim.dim_value))
        elif dim.dim_param in _NOBODY:  # also 0 and -1, which exporters write for "any"
            found.append(_anonymous(value, axis, dims, values))
        else:
            found.append(dims.named(dim.dim_param))
    return tuple(found)


def _anonymous(value: ValueInfoProto, axis: int, dims: _Dims, values: list[Any]) -> str:
    """A name: a leading dim shares the one that leads other inputs, else `N` with all that have none."""
    if axis == 0:
        leading = _leading(values)
        return dims.named(leading) if leading else dims.anonymous("N", "")
    plain = nested.joined([value.name])
    alone = f"{plain if plain[:1].isalpha() else 'dim'}_{axis}"
    return dims.anonymous(alone, alone)


def _leading(values: list[Any]) -> str:
    """The one name that leads inputs, which an anonymous leading dim then shares; empty where there is none."""
    shapes = (value.type.tensor_type.shape.dim for value in values)
    named = {dims[0].dim_param for dims in shapes if dims and dims[0].dim_param not in _NOBODY}
    return named.pop() if len(named) == 1 else ""


def _check(name: str, spec: TensorSpec, values: list[Any], shape: tuple[int | str, ...] | None) -> None:
    """Raise UsageError where a text contradicts the graph: it can fix what is open, and open nothing."""
    value = next(one for one in values if one.name == name)
    own = TensorSpec(name, _dtype(value), shape or spec.shape)
    fits = spec.dtype == own.dtype and len(spec.shape) == len(own.shape)
    if not fits or any(isinstance(d, int) and d != s for d, s in zip(own.shape, spec.shape, strict=False)):
        message = f"the graph says {own}, --input says {spec.dtype}[{','.join(map(str, spec.shape))}]"
        raise UsageError(f"input {name}", message, "fix or name what the graph leaves open", "BAD_INPUT")


def _dtype(value: ValueInfoProto) -> str:
    kind = _kind(value)
    if kind not in DTYPES:
        hint = "prepare texts before the model" if "string" in kind else "export the model so that it takes tensors"
        raise UsageError(f"input {value.name}", f"is {_a(kind)}, not a tensor of numbers", hint, "BAD_INPUT")
    return kind


def _kind(value: ValueInfoProto) -> str:
    """Numpy's name of the dtype, or in words what it is instead."""
    which = value.type.WhichOneof("value")
    if which != "tensor_type":
        inner = value.type.sequence_type.elem_type.WhichOneof("value") if which == "sequence_type" else ""
        text = {"sequence_type": "sequence", "map_type": "map", "optional_type": "optional value"}
        return f"sequence of {_PLURAL.get(inner or '', 'values')}" if inner else text.get(which or "", "untyped value")
    name = type_name(value.type.tensor_type.elem_type)
    name = _NAMES.get(name, name)
    return name if name in DTYPES else f"tensor of {name} elements"


_PLURAL = {"map_type": "maps", "tensor_type": "tensors"}


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _told(dims: _Dims) -> str:
    """Which dims got a name here."""
    names = [str(dims.said.get(name, name)) for name in dims.invented.values()]
    return f"without a name in the file: {', '.join(names)}" if names else ""
