"""Every block of docs/recipe.md, in its order, in an empty folder: what a reader types does what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploykit.bundle import Bundle
from deploykit.recipe import TABLES, Recipe

PAGE = (Path(__file__).parents[1] / "docs" / "recipe.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An empty folder with the page's model, and `deploykit` on the path."""
    path = tmp_path_factory.mktemp("recipe")
    (code,) = blocks("python")
    (path / "models.py").write_text(code)
    (path / "bin").mkdir()
    script = path / "bin" / "deploykit"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m deploykit "$@"\n')
    script.chmod(0o755)
    return path


def typed(folder: Path, line: str, code: int = 0) -> str:
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", line], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_blocks_run_in_their_order(folder):
    init, replay, parts, again = blocks("sh")
    assert "features:float32[N,20]" in typed(folder, init)
    plan, run = replay.strip().splitlines()
    assert "nothing was done" in typed(folder, plan)
    assert not (folder / "artifacts").exists()
    assert "recommended: " in typed(folder, run)
    bundle = folder / "artifacts" / "models"
    verify, bench = parts.strip().splitlines()
    assert "PASS" in typed(folder, verify)
    said = typed(folder, bench)
    assert {row["batch"] for row in json.loads((bundle / "reports/bench.json").read_text())["variants"]} == {1, 8}
    assert "recommended: " in said
    reusing, anew = again.strip().splitlines()
    files = Bundle(bundle).manifest.files
    said = typed(folder, reusing)
    assert [name for name in ("onnx", "onnx-int8-static") if f"{name}: reused" not in said] == []
    assert "reused" not in typed(folder, anew)
    assert Bundle(bundle).manifest.files == files


def test_the_recipe_on_the_page_is_done_as_it_says(folder):
    (text,) = blocks("toml")
    (folder / "page.toml").write_text(text)
    typed(folder, "deploykit run --recipe page.toml")
    bundle = Bundle(folder / "artifacts" / "classifier")
    assert bundle.manifest.variant("onnx").facts["opset"] == 18
    assert bundle.manifest.variant("onnx-int8-static").options["per_channel"] is True
    assert (folder / "junit.xml").read_text().startswith("<?xml")
    assert (folder / "handoff/triton/model_repository/classifier/1/model.onnx").is_file()


def test_the_error_on_the_page_is_what_is_said(folder):
    (shown,) = blocks("text")
    (folder / "deploykit-typo").mkdir()
    (folder / "deploykit-typo/deploykit.toml").write_text("schema = 1\n[bench]\ntreads = 2\n")
    assert typed(folder, "cd deploykit-typo; deploykit run --recipe deploykit.toml", code=2) == shown


def test_the_table_names_every_key():
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE, flags=re.MULTILINE))
    names = {"": "the top", "handoff": "`[[handoff]]`"}
    for table, model in TABLES.items():
        row = rows[names.get(table, f"`[{table}]`")]
        told = re.findall(r"`(\w+)`", row)
        known = (
            {model.model_fields[name].alias or name for name in model.model_fields}
            - set(TABLES)
            - {
                "options",
                "budget",
            }
        )
        assert set(told) == known, table


def test_the_recipe_on_the_page_is_sound():
    (text,) = blocks("toml")
    recipe = Recipe.parse(text)
    assert recipe.budget == {"min_ratio": 0.99, "output.max_r": 6}
    assert tomllib.loads(text)["schema"] == 1
