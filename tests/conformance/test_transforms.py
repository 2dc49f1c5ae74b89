"""What every transform keeps: same bytes everywhere, no torch, the source untouched, nothing left behind."""

from __future__ import annotations

import os

import pytest

from deploykit import registry

from .test_exporters import check_files

ONLY = os.environ.get("CONFORMANCE_ONLY")
TRANSFORMS = [name for name in registry.names("transforms") if ONLY in {None, name}]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_makes_every_model(name, transformed):
    records = {key: value for key, value in transformed[0].items() if key.startswith(f"{name}/")}
    assert records
    assert all("facts" in value and value["untouched"] for value in records.values()), records


@pytest.mark.parametrize("name", TRANSFORMS)
def test_same_bytes_anywhere_and_no_machine_path(name, folders, transformed):
    check_files("transforms", name, folders)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_leaves_the_artifact_and_nothing_else(name, folders, transformed):
    file = registry.load("exporters", registry.load("transforms", name).base).file_name
    left = {path.name for path in (folders[0] / "transforms" / name).rglob("*") if path.is_file()}
    assert left <= {file, f"{file}.data"}


@pytest.mark.skipif(not TRANSFORMS, reason="one plugin is under test")
def test_torch_is_not_imported_and_nothing_is_printed(transformed):
    assert not transformed[0]["torch"]
    assert not transformed[1]
