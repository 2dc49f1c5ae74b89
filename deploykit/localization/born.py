"""Each value twice: as the whole graph computes it, and from the reference's inputs.

Where an error is born, the second is wrong as well; where it passes by, only the first is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploykit.localization import instrument, search
from deploykit.localization.graph import Graph
from deploykit.localization.search import Deviation
from deploykit.localization.stored import Stored
from deploykit.signature import Feeds


@dataclass
class Tried:
    """A candidate beside its reference.

    Attributes:
        graph: the candidate.
        feeds: graph inputs.
        stored: the reference's values.
    """

    graph: Graph
    feeds: Feeds
    stored: Stored

    def __post_init__(self) -> None:
        self._dtypes: dict[str, np.dtype[Any]] = {name: array.dtype for name, array in self.feeds.items()}
        self.matched = [value for value in self.graph.values if value in self.stored]

    def deviations(self) -> list[Deviation]:
        """Every matched value, in topological order, in units of its noise."""
        found = []
        for value, expected, alone, whole in self._pairs():
            noise = self.stored.noise(value)
            local = search.deviation(expected, alone, noise) if alone is not None else 0.0
            found.append(Deviation(value, local, search.deviation(expected, whole, noise)))
        return found

    def decibels(self) -> list[Deviation]:
        """The same as centred SQNR: `local` and `cumulative` in dB, more is better."""
        found = []
        for value, expected, alone, whole in self._pairs():
            if expected.dtype.kind == "f":
                local = search.sqnr_db(expected, alone) if alone is not None else float("inf")
                found.append(Deviation(value, local, search.sqnr_db(expected, whole)))
        return found

    def _pairs(self) -> Iterator[tuple[str, Any, Any, Any]]:
        sizes = {value: self.stored.size(value) for value in self.matched}
        for group in instrument.chunks(self.matched, sizes):
            whole = instrument.free(self.graph, self.feeds, group)
            self._dtypes |= {value: array.dtype for value, array in whole.items()}
            alone = instrument.forced(self.graph, self.known(group), group)
            for value in group:
                if value in whole:
                    yield value, self.stored.get(value), alone.get(value), whole[value]

    def stops(self) -> set[str]:
        """Values at which the graph can be cut: the reference has them in a kind that the graph can be fed."""
        return {*self.graph.inputs, *(value for value in self.matched if value in self._dtypes)}

    def region(self, value: str) -> list[int]:
        """Positions of the nodes that compute `value` from values of the reference."""
        return self.graph.region([value], self.stops())

    def known(self, values: list[str]) -> Feeds:
        """What the parts that compute `values` take, from the reference, in the dtypes of the candidate."""
        stops = self.stops()
        taken = self.graph.taken(self.graph.region(values, stops), stops)
        return {name: self._fed(name) for name in taken}

    def _fed(self, name: str) -> np.ndarray[Any, Any]:
        if name in self.feeds:
            return self.feeds[name]
        array, wanted = self.stored.get(name), self._dtypes[name]
        return array if array.dtype == wanted else array.astype(wanted)

    def outputs(self, put_right: tuple[str, ...] = ()) -> Feeds:
        """The graph's outputs; with the values in `put_right` replaced by the reference's."""
        known = {**self.feeds, **{value: self._fed(value) for value in put_right}}
        inner = [name for name in self.graph.outputs if name in self.graph.values and name not in put_right]
        computed = instrument.forced(self.graph, known, inner) if inner else {}
        return {name: known[name] if name in put_right else computed[name] for name in inner + list(put_right)
                if name in self.graph.outputs}  # fmt: skip
