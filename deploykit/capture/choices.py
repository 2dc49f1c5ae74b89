"""Index outputs: the scores that an argmax, a top-k or a sort chose from, found by following its answer to the output.

An index is right when the score it points at is; two equal scores make two right answers. So the scores are recorded.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.weak import WeakIdKeyDictionary

from deploykit.reference import IndexOutput

MAX_SCORES = 1 << 22
"""Most scores recorded for one output of one case, in elements."""

_RANKING = {"aten::topk", "aten::sort"}
_CHOOSING = {"aten::argmax", "aten::argmin", "aten::max", "aten::min"} | _RANKING
_ASCENDING = {"aten::argmin", "aten::min"}
_SAME = {"aten::clone", "aten::_to_copy", "aten::lift_fresh"}
_COPYING = {"aten::flip", "aten::index_select", "aten::_unsafe_view"} | _SAME
"""Operators that are no views and hand elements on as they are."""


@dataclass(frozen=True)
class _Choice:
    """One choosing operator: `scores` is [rows, K], and its answer has `ranks` indices for each row."""

    scores: torch.Tensor
    ranks: int
    axis: int | None
    ndim: int
    largest: bool


class Choices:
    """Follows the answers of choosing operators through views, copies and casts."""

    def __init__(self) -> None:
        self._found: MutableMapping[torch.Tensor, tuple[_Choice, torch.Tensor]] = WeakIdKeyDictionary()

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Take note of one operator's call."""
        name = operator(func)
        if name in _CHOOSING:
            self._begin(func, args, kwargs, result)
        elif _schema(func).is_mutable:
            for value in (*args, *kwargs.values()):
                if isinstance(value, torch.Tensor):
                    self._found.pop(value, None)
        elif args and isinstance(args[0], torch.Tensor) and args[0] in self._found:
            self._carry(func, name, args, kwargs, result)

    def _begin(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        arguments = _schema(func).arguments
        given = {argument.name: argument.default_value for argument in arguments}
        given.update({argument.name: value for argument, value in zip(arguments, args, strict=False)})
        given.update(kwargs)
        name, source = operator(func), given["self"]
        chosen = result[1] if isinstance(result, tuple) else result
        if not source.is_floating_point() or chosen.is_floating_point() or not 0 < source.numel() <= MAX_SCORES:
            return
        whole = given.get("dim") is None
        axis = None if whole else given["dim"] % max(1, source.ndim)
        scores = source.detach().reshape(1, -1) if axis is None else _last(source.detach(), axis)
        kept = name in _RANKING or bool(given.get("keepdim"))
        largest = bool(given.get("descending", given.get("largest", name not in _ASCENDING)))
        ranks = chosen.shape[axis] if name in _RANKING and chosen.ndim else 1
        place = torch.arange(chosen.numel(), device=chosen.device)
        if kept and axis is not None and chosen.ndim:
            lead = [size for index, size in enumerate(chosen.shape) if index != axis]
            place = place.reshape(*lead, ranks).movedim(-1, axis)
        choice = _Choice(scores.clone(), ranks, axis if kept else None, chosen.ndim, largest)
        self._found[chosen] = (choice, place.reshape(chosen.shape).contiguous())

    def _carry(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Where each element of the result was in the first answer: the same operator on the places tells."""
        if not (func.is_view or name in _COPYING) or name == "aten::as_strided":
            return
        choice, place = self._found[args[0]]
        results = result if isinstance(result, list | tuple) else [result]
        moved: Sequence[torch.Tensor]
        if name in _SAME:
            moved = [place]
        else:
            answered = func(place, *args[1:], **kwargs)
            moved = answered if isinstance(answered, list | tuple) else [answered]
        for tensor, places in zip(results, moved, strict=True):
            if tensor.dtype in _INTEGERS:
                self._found[tensor] = (choice, places.contiguous())

    def output(self, tensor: torch.Tensor) -> IndexOutput | None:
        """How an output indexes, or None when it is no answer of a choosing operator."""
        found = self._found.get(tensor)
        if found is None:
            return None
        choice, place = found
        return IndexOutput(_rank_axis(choice, place), choice.largest)

    def scores(self, tensor: torch.Tensor, output: IndexOutput) -> NDArray[np.float64] | None:
        """float64[lead + (K,)]: what each index of `tensor` was chosen from; None when it is too large or another."""
        found = self._found.get(tensor)
        if found is None:
            return None
        choice, place = found
        rows = place // choice.ranks
        if output.axis is not None:
            if output.axis >= rows.ndim or not _constant_along(rows, output.axis):
                return None
            rows = rows.narrow(output.axis, 0, min(1, rows.shape[output.axis])).squeeze(output.axis)
        if rows.numel() * choice.scores.shape[1] > MAX_SCORES:
            return None
        picked: NDArray[np.float64] = choice.scores[rows].double().cpu().numpy()
        return picked


def operator(func: Any) -> str:
    """`aten::topk`, whichever overload."""
    name: str = _schema(func).name
    return name


def _schema(func: Any) -> Any:
    return func._schema  # noqa: SLF001 - what an operator writes to is told nowhere else


_INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}


def _last(source: torch.Tensor, axis: int) -> torch.Tensor:
    """[rows, K] with the scores along `axis` last."""
    return source.movedim(axis, -1).reshape(-1, source.shape[axis]) if source.ndim else source.reshape(1, 1)


def _constant_along(rows: torch.Tensor, axis: int) -> bool:
    return rows.shape[axis] > 0 and bool((rows == rows.narrow(axis, 0, 1)).all())


def _rank_axis(choice: _Choice, place: torch.Tensor) -> int | None:
    """The axis of the output along which only the rank changes."""
    if choice.axis is None:
        return None
    rows = place // choice.ranks
    candidates = [axis for axis in range(place.ndim) if _constant_along(rows, axis)]
    several = [axis for axis in candidates if place.shape[axis] > 1]
    if len(several) == 1:
        return several[0]
    return choice.axis if place.ndim == choice.ndim and choice.axis in candidates else None
