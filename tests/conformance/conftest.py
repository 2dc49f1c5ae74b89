"""The files under test are made once per session, by two processes that share neither hash seed nor directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"


def _start(step: str, folder: Path, *rest: str, seed: int) -> subprocess.Popen[str]:
    elsewhere = folder.parent / f"cwd-{seed}"
    elsewhere.mkdir(exist_ok=True)
    env = os.environ | {"PYTHONHASHSEED": str(seed)}
    command = [sys.executable, str(FIXTURES / "conform.py"), step, str(folder), *rest]
    return subprocess.Popen(command, cwd=elsewhere, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-4000:]
    return out + err


def _both(step: str, folders: tuple[Path, Path]) -> tuple[dict, str]:
    started = [_start(step, folder, seed=seed) for seed, folder in enumerate(folders, 1)]
    said = "".join(_finish(process) for process in started)
    return json.loads((folders[0] / f"{step}.json").read_text()), said


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("conformance")
    (base / "first").mkdir()
    (base / "another-place").mkdir()
    return base / "first", base / "another-place"


@pytest.fixture(scope="session")
def exported(folders) -> tuple[dict, str]:
    """What the exporters told, by `exporter/model`, and what was printed."""
    return _both("export", folders)


@pytest.fixture(scope="session")
def transformed(folders, exported) -> tuple[dict, str]:
    """What the transforms told, by `transform/model`, and what was printed."""
    return _both("transform", folders)


@pytest.fixture(scope="session")
def answered(folders, transformed) -> Callable[[str], dict]:
    """What a fresh process got out of one runtime."""

    @cache
    def answer(runtime: str) -> dict:
        said = _finish(_start("answer", folders[0], runtime, seed=3))
        return json.loads((folders[0] / f"answer-{runtime}.json").read_text()) | {"said": said}

    return answer
