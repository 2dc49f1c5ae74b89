"""The shared parts of these tests lie in `tests/fixtures`."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = str(Path(__file__).parents[1])
if TESTS not in sys.path:  # before the tests beside this file are imported
    sys.path.insert(0, TESTS)
