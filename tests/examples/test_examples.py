"""Every example is copied and followed as its README says."""

import shutil
from pathlib import Path

import pytest

from tests.examples.walking import blocks, walk

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LONG = {"image-classification", "own-checkpoint", "speech", "tabular"}
"""Followed in the slow lane: half a minute each."""
NAMES = ["image-classification", "own-checkpoint", "speech", "tabular", "text"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in NAMES]
)
def test_an_example_does_what_its_readme_says(name, tmp_path):
    shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    walk((tmp_path / name / "README.md").read_text(encoding="utf-8"), tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short(name):
    page = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 60
    assert any(block.kind == "text" for block in blocks(page))
    for file in (EXAMPLES / name).glob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 80, file


def test_the_readme_leads_to_every_example():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"](examples/{name}/README.md)" not in page] == []
