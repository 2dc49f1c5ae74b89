"""The small models, by file: `tests/` is no package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_models():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "fixtures"))
        import small_models as found

        yield found
        for name in ("small_models", "small_cases"):
            sys.modules.pop(name, None)
