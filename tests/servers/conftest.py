"""Tests with real servers: the first test of a stack makes its environment, which takes minutes on a cold cache."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = 900
"""Time a test may take unless it says so itself; `make servers` beforehand makes it a matter of seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))
