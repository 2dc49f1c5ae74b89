"""Several requests as one call of the engine. Copied into the folder as `batches.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

Arrays: TypeAlias = "dict[str, np.ndarray]"


def rows(feeds: Mapping[str, np.ndarray]) -> int:
    """Samples in a request: every input leads with them."""
    return int(next(iter(feeds.values())).shape[0])


def together(run: Callable[[Arrays], Arrays], asked: Sequence[Arrays]) -> list[Arrays | Exception]:
    """The answers to requests of one model, in their order; those that fit into one call share it.

    Args:
        run: one call of the engine.
        asked: inputs by name, each checked; the first dim counts samples and may differ from request to request.

    Returns:
        Per request its outputs, or what the engine said when it was asked for this request alone.
    """
    answers: list[Arrays | Exception] = [RuntimeError("no answer")] * len(asked)
    for places in _alike(asked):
        for place, answer in zip(places, _answers(run, [asked[place] for place in places]), strict=True):
            answers[place] = answer
    return answers


def _alike(asked: Sequence[Arrays]) -> list[list[int]]:
    """Places of the requests whose arrays differ in the number of samples only."""
    found: dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]] = {}
    for place, feeds in enumerate(asked):
        found.setdefault(tuple(sorted((name, array.shape[1:]) for name, array in feeds.items())), []).append(place)
    return list(found.values())


def _answers(run: Callable[[Arrays], Arrays], asked: list[Arrays]) -> list[Arrays | Exception]:
    joined = asked[0] if len(asked) == 1 else {name: np.concatenate([one[name] for one in asked]) for name in asked[0]}
    try:
        outputs = run(joined)
    except Exception as error:  # noqa: BLE001 - the engine's exceptions share no base
        # one of them may be to blame: the others get their answers
        return [error] if len(asked) == 1 else [_answers(run, [one])[0] for one in asked]
    if len(asked) == 1:
        return [outputs]
    ends = np.cumsum([rows(one) for one in asked])[:-1]
    parts = {name: np.split(array, ends) for name, array in outputs.items()}
    return [{name: part[place] for name, part in parts.items()} for place in range(len(asked))]
