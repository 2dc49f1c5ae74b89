"""The inputs of a user's module: names from its `forward`, dtypes and shapes from `--input` or from example inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploykit.errors import UsageError
from deploykit.model import LoadedModel
from deploykit.signature import DTYPES, Feeds, Signature, TensorSpec, parse_dims, parse_input, spec_of
from deploykit.sources._example import BATCH, dims_of, draw, example_sizes, resized

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (*_BY_PLACE, inspect.Parameter.KEYWORD_ONLY)


def describe(
    module: nn.Module, examples: Any, texts: tuple[str, ...], seed: int, kwargs: Mapping[str, Any] | None = None
) -> LoadedModel:
    """`module` as everything behind the sources calls it, with its signature and one set of feeds.

    Args:
        module: the user's module.
        examples: a tensor; a tuple or list of forward's arguments in order; a dict of them by parameter name, or the
            one dict that forward takes; or None. Arguments are tensors, plain values, and any nesting of them.
        texts: `--input` texts. Without examples they name forward's parameters, with examples the tensors in these.
        seed: of the values drawn where there is no example.
        kwargs: arguments by keyword beside those in `examples`.

    Raises:
        UsageError: the names do not fit forward, an example is no tensor, or nothing says what the inputs are.
    """
    described = {spec.name: spec for spec in map(parse_input, texts)}
    if len(described) != len(texts):
        raise UsageError("--input", "one name is given twice", "name each input once", "INPUT_NAMES")
    stated = parse_dims(texts)
    if examples is None and not kwargs:
        args, named = _drawn(module, described, seed, stated)
    else:
        args, named = _given(module, examples, dict(kwargs or {}))
    made, tensors, notes = _callable(module, args, named)
    feeds = {name: array_of(name, tensor) for name, tensor in tensors.items()}
    inputs = _specs(feeds, described)
    signature = Signature(inputs, dims=dims_of(inputs, stated))
    if examples is None and not kwargs:
        return LoadedModel(made, signature, feeds, notes, drawn=True)
    sizes = _sizes(signature, feeds)
    if any(array.ndim and array.shape[0] == 1 and sizes.get(str(signature.batch_dim)) for array in feeds.values()):
        rows = sizes[str(signature.batch_dim)]
        notes["example"] = f"its one row was repeated to {rows}: exporters fix a batch of 1"
    feeds = {spec.name: resized(feeds[spec.name], spec.concrete(sizes)) for spec in inputs}
    return LoadedModel(made, signature, feeds, notes)


def _drawn(
    module: nn.Module, described: dict[str, TensorSpec], seed: int, stated: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Values for the parameters that `--input` names."""
    import torch

    parameters = [p for p in inspect.signature(module.forward).parameters.values() if p.kind in _NAMED]
    names = [p.name for p in parameters]
    needed = [p.name for p in parameters if p.default is p.empty]
    if not described:
        hint = f"add --input NAME:DTYPE[dims] for NAME in {', '.join(needed or names) or 'the inputs'}"
        raise UsageError("inputs", "nothing says what the inputs are", hint, "NO_INPUTS")
    if not set(needed) <= set(described) <= set(names):
        message = f"forward takes {', '.join(names) or 'no input by name'}; given were {', '.join(described)}"
        hint = (
            f"name {', '.join(needed) or 'one of them'}, each once"
            if names
            else "give example inputs beside the module"
        )
        raise UsageError("inputs", message, hint, "INPUT_NAMES")
    drawn = draw((described[name] for name in names if name in described), seed, stated)
    values = {name: torch.from_numpy(array) for name, array in drawn.items()}
    by_place = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in values]
    return tuple(values.pop(name) for name in by_place), values


def _given(module: nn.Module, examples: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example's arguments, by place and by name."""
    from torch import Tensor

    parameters = inspect.signature(module.forward).parameters
    if isinstance(examples, Mapping):
        fits = all(key in parameters and parameters[key].kind in _NAMED for key in examples)
        if fits or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return (), {**examples, **kwargs}
        places = [p for p in parameters.values() if p.kind in _BY_PLACE]
        needed = [p for p in places if p.default is p.empty]
        if len(needed) != 1 or needed[0].annotation in {Tensor, "Tensor", "torch.Tensor"}:
            message = f"forward takes {', '.join(parameters)}; given were {', '.join(map(str, examples))}"
            raise UsageError("inputs", message, "name forward's parameters, each once", "INPUT_NAMES")
        return (examples,), kwargs
    if examples is None:
        return (), kwargs
    if isinstance(examples, Tensor):
        return (examples,), kwargs
    if isinstance(examples, tuple | list):
        return tuple(examples), kwargs
    hint = "return a tensor, a tuple of forward's arguments, or a dict of them by parameter name"
    raise UsageError("inputs", f"the example inputs are a {type(examples).__name__}", hint, "BAD_EXAMPLE")


def _callable(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """`module`, or a form of it, that takes the tensors inside the arguments by position; those by name; and notes."""
    from torch import Tensor

    from deploykit.sources._flat import flattened, taken_apart

    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        message = f"forward takes {takes}: {error}"
        raise UsageError("inputs", message, "give each of forward's arguments once", "INPUT_NAMES") from error
    args, kwargs = bound.args, bound.kwargs
    names = _names_of(signature, len(args))
    if not kwargs and all(isinstance(value, Tensor) for value in args):
        return module, dict(zip(names, args, strict=True)), {}
    arguments, tensors = taken_apart(names, args, kwargs)
    said = ", ".join(f"{name}={value}" for name, value in arguments.told.items())
    notes = {"constants": f"part of the model: {said}"} if said else {}
    return flattened(module, arguments), dict(zip(arguments.names, tensors, strict=True)), notes


def _names_of(signature: inspect.Signature, count: int) -> list[str]:
    """A name for each of `count` arguments by place: `inputs_0`, `inputs_1` for those of `*inputs`."""
    names = [p.name for p in signature.parameters.values() if p.kind in _BY_PLACE][:count]
    rest = [p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL]
    return [*names, *(f"{rest[0]}_{i}" for i in range(count - len(names)))]


def _specs(feeds: Feeds, described: dict[str, TensorSpec]) -> tuple[TensorSpec, ...]:
    """What `--input` says of a tensor, else what the example shows, its leading dim symbolic where all share it."""
    unknown = [name for name in described if name not in feeds]
    if unknown:
        message = f"no tensor is called {unknown[0]}; there are {', '.join(feeds)}"
        raise UsageError("inputs", message, "name each input as it is called here", "INPUT_NAMES")
    shared = {array.shape[0] if array.ndim else None for array in feeds.values()}
    named = [spec.shape[0] if spec.shape else None for spec in described.values()]
    leading = "N" if not described else next((dim for dim in named if isinstance(dim, str)), None)
    symbolic = {0: leading} if leading and len(shared) == 1 and None not in shared else {}
    return tuple(described.get(name) or spec_of(name, array, symbolic) for name, array in feeds.items())


def _sizes(signature: Signature, feeds: Feeds) -> dict[str, int]:
    """A size for each symbolic dim: two rows, and the example's other sizes where the stated range holds them."""
    leading = {spec.shape[0] for spec in signature.inputs if spec.shape}
    sizes, seen = example_sizes(signature.inputs, signature.dims), dict[str, int]()
    ranges = {dim.name: dim for dim in signature.dims}
    for spec in signature.inputs:
        _check(spec, feeds[spec.name])
        for name, size in zip(spec.shape, feeds[spec.name].shape, strict=True):
            if isinstance(name, str) and name not in leading and size > 1:
                if seen.setdefault(name, size) != size:
                    message = f"{name} is {size} in this example, and {seen[name]} in another input's"
                    raise UsageError(
                        f"input {spec.name}", message, "give each dim one size, or two names", "BAD_EXAMPLE"
                    )
                sizes[name] = ranges[name].nearest(size)
    return sizes


def _check(spec: TensorSpec, array: NDArray[Any]) -> None:
    """Raise UsageError where `--input` and the example say different things."""
    wrong = array.dtype.name != spec.dtype or array.ndim != len(spec.shape)
    if wrong or any(isinstance(dim, int) and dim != size for dim, size in zip(spec.shape, array.shape, strict=False)):
        message = f"the example is {array.dtype.name}{list(array.shape)}, --input says {spec}"
        raise UsageError(f"input {spec.name}", message, "describe the example, or change it", "BAD_EXAMPLE")


def array_of(name: str, value: Tensor) -> NDArray[Any]:
    """An example's tensor as numpy takes it.

    Raises:
        UsageError: BAD_EXAMPLE, numpy has no such dtype, or there is nothing in it.
    """
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        hint = "give a float32 example and convert inside forward"
        raise UsageError(f"input {name}", f"{dtype} is no dtype that numpy can hold", hint, "BAD_EXAMPLE")
    if value.numel() == 0:
        raise UsageError(f"input {name}", "the example is empty", f"give {BATCH} rows", "BAD_EXAMPLE")
    array: NDArray[Any] = value.detach().cpu().resolve_conj().resolve_neg().contiguous().numpy().copy()
    return array
