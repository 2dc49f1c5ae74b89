"""What the page and the example say is so."""

import json
import re
import shutil
from pathlib import Path

import pytest

from deploykit import matrix
from deploykit.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sweep.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "sweep"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def test_the_matrix_of_the_page_is_one(tmp_path):
    (block,) = blocks(PAGE, "toml")
    (tmp_path / "m.toml").write_text(block)
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "a.py").touch()
    cells = matrix.read(tmp_path / "m.toml")
    assert [cell.label for cell in cells] == ["small × one request", "resnet18 × one request", "resnet18 × bulk"]
    assert cells[2].task.timeout_s == 1800


def test_every_key_of_a_task_is_on_the_page_with_its_default():
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `task`")]
    for name, field in matrix.Task.model_fields.items():
        default = "by the model's size" if field.default is None else f"{field.default:g}"
        assert re.search(rf"`{name}` \({default}", row), name


@pytest.mark.parametrize("page", [PAGE, (EXAMPLE / "README.md").read_text(encoding="utf-8")], ids=["page", "example"])
def test_every_command_exists_with_its_options(page):
    lines = "".join(block for kind in ("text", "sh") for block in blocks(page, kind)).splitlines()
    commands = [line.split("#")[0].split() for line in lines if line.startswith("deploykit ")]
    assert len(commands) >= 2
    parameters = app.group.get_command(None, "sweep").params
    known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    for words in commands:
        assert words[1] == "sweep"
        assert {word for word in words if word.startswith("-")} <= known, words


@pytest.mark.slow
def test_the_example_runs_as_its_readme_says(cli, tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "sweep")
    here, _ = (block.split() for block in blocks((EXAMPLE / "README.md").read_text(), "sh"))
    done = cli(*here[1:], cwd=tmp_path / "sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "sweep" / "results" / "table.json").read_text())
    labels = {(row["model"], row["setting"], row["variant"]) for row in document["rows"]}
    cells = {("narrow", "one at a time"), ("wide", "one at a time"), ("wide", "batches of 64")}
    assert labels == {(*cell, variant) for cell in cells for variant in ("eager", "onnx", "onnx-int8-dynamic")}
    assert all(row["median_ns"] > 0 for row in document["rows"])
    assert (tmp_path / "sweep" / "results" / "table.md").read_text().startswith("### Parity and latency of 3 cells")
    again = cli(*here[1:], cwd=tmp_path / "sweep")
    assert "0 run now, 3 from earlier" in again.stdout
