"""File names are plugin names; other packages add theirs by entry point and pass the same suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit import registry
from deploykit.errors import UsageError

ROOT = Path(__file__).parents[1]
FOREIGN = ROOT / "tests" / "fixtures" / "foreign_plugin"


def test_names_are_file_names():
    assert {"onnx", "torch-export", "torchscript"} <= set(registry.names("exporters"))
    assert {"fp16", "int8-dynamic", "int8-static"} <= set(registry.names("transforms"))
    assert {"eager", "onnxruntime", "torch-export", "torchscript"} <= set(registry.names("runtimes"))


@pytest.mark.parametrize("kind", registry.CLASS_OF)
def test_helpers_and_interfaces_are_no_plugins(kind):
    assert not [name for name in registry.names(kind) if name.startswith(("_", "-")) or name == "interface"]
    assert all(registry.load(kind, name).__name__ == registry.CLASS_OF[kind] for name in registry.names(kind))


@pytest.mark.parametrize("name", ["nope", "interface", "../onnx", "", "__init__", "_graph"])
def test_unknown_plugin(name):
    with pytest.raises(UsageError) as caught:
        registry.load("exporters", name)
    assert caught.value.code == "UNKNOWN_PLUGIN"


def test_foreign_plugin_passes_the_conformance_suite():
    path = os.pathsep.join(filter(None, (str(FOREIGN), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": path, "CONFORMANCE_ONLY": "numpy-mlp"}
    command = [sys.executable, "-m", "pytest", "tests/conformance", "-q", "-p", "no:cacheprovider", "--no-cov"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    command.append("--collect-only")
    listed = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    # a suite that collected none of its tests would pass as well
    assert "test_answers_as_eager_at_every_batch[exporters-numpy-mlp]" in listed.stdout
    assert "test_same_bytes_anywhere_and_no_machine_path[numpy-mlp]" in listed.stdout
    assert "test_garbage_is_refused[numpy-mlp-cut]" in listed.stdout
