"""Every plugin shows the face of its folder's interface, and importing it is cheap."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from deploykit import registry

ONLY = os.environ.get("CONFORMANCE_ONLY")

ATTRIBUTES = {
    "exporters": {"core": bool, "file_name": str, "runtime": str, "precision": str, "runs_code": bool},
    "transforms": {"core": bool, "base": str, "precision": str, "needs_calibration": bool},
    "runtimes": {"stack": str, "runs_code": bool},
    "sweep": {"jobs": int, "address": str},
    "handoff": {"runtimes": tuple, "speaks": str, "stack": str, "summary": str, "proof": str},
}
METHODS = {
    "exporters": ("unavailable", "export"),
    "transforms": ("unavailable", "apply"),
    "runtimes": ("unavailable", "providers", "open"),
    "sweep": ("unavailable", "opened"),
    "handoff": ("check", "files", "commands"),  # writes files only: nothing can be missing for that
}
PLUGINS = [(kind, name) for kind in ATTRIBUTES for name in registry.names(kind) if ONLY in {None, name}]

IMPORT_ALL = """
import json, sys
from deploykit import registry
for kind in registry.CLASS_OF:
    for name in registry.names(kind):
        getattr(registry.load(kind, name)(), "unavailable", lambda: None)()
heavy = ("torch", "onnx", "onnxruntime", "onnxscript", "torchvision", "scipy", "sklearn")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_face(kind, name):
    plugin = registry.load(kind, name)
    assert dataclasses.is_dataclass(plugin)
    assert plugin.__dataclass_params__.frozen
    assert plugin.__doc__
    for attribute, of in ATTRIBUTES[kind].items():
        assert isinstance(getattr(plugin, attribute), of), attribute
    assert all(callable(getattr(plugin, method)) for method in METHODS[kind])
    reason = plugin().unavailable() if "unavailable" in METHODS[kind] else None
    assert reason is None or (isinstance(reason, str) and "\n" not in reason)


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_options_survive_json(kind, name):
    options = dataclasses.asdict(registry.load(kind, name)())
    again = json.loads(json.dumps(options))
    assert json.dumps(dataclasses.asdict(registry.load(kind, name)(**again))) == json.dumps(options)


def test_references_between_plugins_hold():
    runtimes = registry.names("runtimes")
    assert all(registry.load("exporters", name).runtime in runtimes for name in registry.names("exporters"))
    exporters = registry.names("exporters")
    assert all(registry.load("transforms", name).base in exporters for name in registry.names("transforms"))


def test_importing_plugins_is_light():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
