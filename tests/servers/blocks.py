"""The commands of a README, as a person would type them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path


def blocks(page: Path, language: str = "bash") -> list[str]:
    """The code blocks of a page, from top to bottom, without the last line break."""
    found = re.findall(
        rf"^```{language}\n(.*?)\n```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    assert found, f"{page} has no {language} block"
    return list(found)


def typed(block: str, cwd: Path, env: Mapping[str, str], timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run one block in a shell and give what came of it."""
    return subprocess.run(
        ["bash", "-euc", block], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )
