"""The proof repository of a Triton handoff: the same folder for the backend that the wheel has.

`tritonserver` from the wheel has the Python backend only. Of a real repository two lines are changed, which engine
opens the artifact and which file the engine is, and `triton_model.py` is put beside every artifact.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from tests.servers.triton_binary import Triton

MODEL = Path(__file__).with_name("triton_model.py")
CHANGES = {
    'platform: "onnxruntime_onnx"': 'backend: "python"',
    'default_model_filename: "model.onnx"': 'default_model_filename: "model.py"',
}
"""Lines of a real configuration to those of the proof."""


def derived(config: str) -> str:
    """The configuration of the proof."""
    lines = config.splitlines()
    assert sorted(line for line in lines if line in CHANGES) == sorted(CHANGES), config
    return "\n".join(CHANGES.get(line, line) for line in lines) + "\n"


def derive(repository: Path) -> None:
    """Make a copy of a real repository the proof's, in place."""
    for config in repository.glob("*/config.pbtxt"):
        config.write_text(derived(config.read_text()))
        for artifact in config.parent.glob("*/model.onnx"):
            shutil.copyfile(MODEL, artifact.with_name("model.py"))


def command(place: Path, server: Triton) -> Path:
    """A folder with a `tritonserver` as a shell finds it: the wheel's, with its backends, on loopback."""
    place.mkdir()
    script = place / "tritonserver"
    words = " ".join(f"'{word}'" for word in server.argv)
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return place
