"""All known models, in one table of each kind."""

from __future__ import annotations

from torture import baked, healthy, masks, quantized, stateful, structure, values, weights, zoo
from torture.known import Foreign, Known

_FILES = (healthy, stateful, baked, values, structure, masks, weights, quantized, zoo)

KNOWN: tuple[Known, ...] = tuple(row for file in _FILES for row in getattr(file, "KNOWN", ()))
FOREIGN: tuple[Foreign, ...] = tuple(row for file in _FILES for row in getattr(file, "FOREIGN", ()))
