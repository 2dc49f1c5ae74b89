"""Reference values on disk: written in chunks while a program runs, read one by one while a search does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from deploykit.localization.instrument import CHUNK_BYTES
from deploykit.reference import save_arrays


@dataclass
class Writer:
    """Collects values and writes them to numbered files of a bounded size.

    Attributes:
        folder: receives the files.
        index: by name the file, the noise and the size in bytes: what `Stored` is made from, JSON data.
    """

    folder: Path
    index: dict[str, list[Any]] = field(default_factory=dict)
    _open: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    _files: int = 0

    def add(self, name: str, array: np.ndarray[Any, Any], noise: float = 0.0) -> None:
        """Keep one value."""
        self._open[name] = array
        self.index[name] = [f"values-{self._files}.safetensors", noise, int(array.nbytes)]
        if sum(item.nbytes for item in self._open.values()) > CHUNK_BYTES // 2:
            self.flush()

    def flush(self) -> None:
        """Write what is still in memory."""
        if self._open:
            save_arrays(self._open, self.folder / f"values-{self._files}.safetensors")
            self._open.clear()
            self._files += 1


@dataclass(frozen=True)
class Stored:
    """Reference values by the names of the candidate's graph.

    Attributes:
        folder, index: what a Writer left behind.
        names: a value of the candidate's graph to its name in `index`.
    """

    folder: Path
    index: dict[str, list[Any]]
    names: dict[str, str]

    def __contains__(self, value: str) -> bool:
        return self.names.get(value) in self.index

    def noise(self, value: str) -> float:
        """RMS that no float32 evaluation can be blamed for; 0.0 when it was not measured."""
        return float(self.index[self.names[value]][1])

    def size(self, value: str) -> int:
        """Bytes of the value."""
        return int(self.index[self.names[value]][2])

    def get(self, value: str) -> np.ndarray[Any, Any]:
        """The reference's value."""
        name = self.names[value]
        with safe_open(self.folder / self.index[name][0], "numpy") as stored:
            array: np.ndarray[Any, Any] = stored.get_tensor(name)
        return array
