"""What every exporter keeps: same bytes everywhere, nothing about the machine, the module as it was."""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from deploykit import registry

ONLY = os.environ.get("CONFORMANCE_ONLY")
EXPORTERS = [name for name in registry.names("exporters") if ONLY in {None, name}]
REPOSITORY = Path(__file__).parents[2]


def machine_paths(folders) -> set[bytes]:
    """Texts that can only come from this machine."""
    places = (*folders, REPOSITORY, Path.home(), Path(sys.prefix), Path(tempfile.gettempdir()))
    return {str(place).encode() for place in places if len(place.parts) > 1} | {b"site-packages", b"small_models.py"}


def contents(file: Path) -> bytes:
    """The bytes of the file, and those of its entries where it is an archive."""
    data = file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            data += b"".join(archive.read(name) for name in archive.namelist())
    return data


def check_files(kind, name, folders):
    """Same bytes twice and no machine path, for everything that plugin `name` wrote."""
    first, second = (folder / kind / name for folder in folders)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert files
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
        data = contents(first / file)
        assert not [path for path in machine_paths(folders) if path in data], file


@pytest.mark.parametrize("name", EXPORTERS)
def test_makes_at_least_one_model_and_declines_in_our_words(name, exported):
    records = {key: value for key, value in exported[0].items() if key.startswith(f"{name}/")}
    made = [key for key, value in records.items() if "facts" in value]
    assert made, records
    assert len(made) == len(records) or not registry.load("exporters", name).core, records


@pytest.mark.parametrize("name", EXPORTERS)
def test_facts_are_plain(name, exported):
    facts = [value.get("facts", {}) for key, value in exported[0].items() if key.startswith(f"{name}/")]
    assert all(isinstance(v, str | int) for one in facts for v in one.values())


@pytest.mark.parametrize("name", EXPORTERS)
def test_same_bytes_anywhere_and_no_machine_path(name, folders, exported):
    check_files("exporters", name, folders)


@pytest.mark.parametrize("name", EXPORTERS)
def test_module_and_globals_are_left_as_they_were(name, exported):
    assert all(value["untouched"] for key, value in exported[0].items() if key.startswith(f"{name}/"))


@pytest.mark.skipif(ONLY is not None, reason="one plugin is under test")
def test_nothing_is_printed(exported):
    assert not exported[1]
