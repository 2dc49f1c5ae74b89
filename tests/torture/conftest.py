"""The known models are modules beside this file, and their shared parts lie in `tests/fixtures`."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = str(Path(__file__).parents[1])
if TESTS not in sys.path:  # the table of models is read while tests are collected, before any fixture could do this
    sys.path.insert(0, TESTS)
