"""What is installed: every file that is no Python is named in pyproject.toml, and every name there finds a file."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "deploykit"


def test_package_data_is_what_lies_in_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {pattern: set(PACKAGE.glob(pattern)) for pattern in settings["package-data"]["deploykit"]}
    assert [pattern for pattern, paths in found.items() if not paths] == []
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == set().union(*found.values())


def test_every_folder_of_the_package_is_found_by_setuptools():
    """`packages.find` takes folders with an `__init__.py` only."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").is_file()] == []
