"""The inputs of a user's module: names from its `forward`, dtypes and shapes from `--input` or from example inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploykit.errors import UsageError
from deploykit.signature import DTYPES, Feeds, Signature, parse_input, spec_of
from deploykit.sources._example import BATCH, batched, dims_of, draw

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def describe(module: nn.Module, examples: Any, texts: tuple[str, ...], seed: int) -> tuple[Signature, Feeds]:
    """The signature of `module`, in forward's order, and one set of feeds.

    Args:
        module: the user's module.
        examples: a tensor, a tuple or list of tensors, a dict of tensors by parameter name, or None.
        texts: `--input` texts; where there are any, they say what the inputs are.
        seed: of the values drawn for `texts`.

    Raises:
        UsageError: the names do not fit forward, or an example is no tensor, or nothing says what the inputs are.
    """
    parameters = _parameters(module)
    if texts:
        specs = {spec.name: spec for spec in map(parse_input, texts)}
        if len(specs) != len(texts):
            raise UsageError("--input", "one name is given twice", _names_hint(parameters), "INPUT_NAMES")
        inputs = tuple(specs[name] for name in _in_order(parameters, tuple(specs)))
        return Signature(inputs, dims=dims_of(inputs)), draw(inputs, seed)
    if examples is None:
        hint = f"add --input NAME:DTYPE[dims] for NAME in {', '.join(parameters)}"
        raise UsageError("inputs", "the code returns no example inputs", hint, "NO_INPUTS")
    feeds = _feeds(parameters, examples)
    shared = {array.shape[0] if array.ndim else None for array in feeds.values()}
    symbolic = len(shared) == 1 and None not in shared
    inputs = tuple(spec_of(name, array, {0: "N"} if symbolic else {}) for name, array in feeds.items())
    return Signature(inputs, dims=dims_of(inputs)), batched(feeds) if symbolic else feeds


def _parameters(module: nn.Module) -> dict[str, bool]:
    """The positional parameters of forward in order, and whether each one must be given."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = {p.name: p.default is p.empty for p in parameters if p.kind in _POSITIONAL}
    keyword = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if keyword or not named:
        what = f"needs {', '.join(keyword)} by keyword" if keyword else "has no named positional parameter"
        hint = "wrap it in a module whose forward(self, a, b) names its tensors"
        raise UsageError("model", f"forward {what}", hint, "FORWARD_SIGNATURE")
    return named


def _in_order(parameters: dict[str, bool], given: tuple[str, ...]) -> tuple[str, ...]:
    """`given` in forward's order, which must be an unbroken beginning of it: inputs are passed by position."""
    begin = tuple(parameters)[: len(given)]
    missing = [name for name, needed in parameters.items() if needed and name not in given]
    if set(begin) != set(given) or missing:
        message = f"forward takes {', '.join(parameters)}; given were {', '.join(given) or 'none'}"
        raise UsageError("inputs", message, _names_hint(parameters), "INPUT_NAMES")
    return begin


def _names_hint(parameters: dict[str, bool]) -> str:
    return f"name {', '.join(name for name, needed in parameters.items() if needed)}, each once"


def _feeds(parameters: dict[str, bool], examples: Any) -> Feeds:
    from torch import Tensor

    if isinstance(examples, Mapping):
        return {name: _array(name, examples[name]) for name in _in_order(parameters, tuple(map(str, examples)))}
    values = (examples,) if isinstance(examples, Tensor) else examples
    if not isinstance(values, tuple | list):
        hint = "return a tensor, a tuple of tensors, or a dict of tensors by parameter name"
        raise UsageError("inputs", f"the example inputs are a {type(examples).__name__}", hint, "BAD_EXAMPLE")
    names = tuple(parameters)[: len(values)]
    if len(names) < len(values):
        message = f"{len(values)} example inputs, forward takes {', '.join(parameters)}"
        raise UsageError("inputs", message, "give one example per parameter", "INPUT_NAMES")
    return {n: _array(n, v) for n, v in zip(_in_order(parameters, names), values, strict=True)}


def _array(name: str, value: Any) -> NDArray[Any]:
    from torch import Tensor

    if not isinstance(value, Tensor):
        hint = "every example input is a torch.Tensor"
        raise UsageError(f"input {name}", f"the example is a {type(value).__name__}", hint, "BAD_EXAMPLE")
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        hint = "give a float32 example and convert inside forward"
        raise UsageError(f"input {name}", f"{dtype} is no dtype that numpy can hold", hint, "BAD_EXAMPLE")
    if value.numel() == 0:
        raise UsageError(f"input {name}", "the example is empty", f"give {BATCH} rows", "BAD_EXAMPLE")
    array: NDArray[Any] = value.detach().cpu().resolve_conj().resolve_neg().contiguous().numpy().copy()
    return array
