"""`deploykit init`, `--recipe` and `--plan`, typed as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

from deploykit.bundle import Bundle
from deploykit.recipe import Recipe

MODEL = """\
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, features):
        return self.out(features)


def build():
    torch.manual_seed(0)
    return Classifier().eval(), torch.randn(2, 6)


def bare():
    torch.manual_seed(0)
    return Classifier().eval()
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder of a user's own: a model in a file, samples beside it."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "models.py").write_text(MODEL)
    np.savez(folder / "data" / "samples.npz", features=np.random.default_rng(0).random((20, 6), np.float32))
    return folder


def recipe(folder: Path, *lines: str, name: str = "deploykit.toml") -> Path:
    path = folder / name
    head = ["schema = 1", 'source = "python:models.py:build"'] if not any("source" in line for line in lines) else []
    path.write_text("\n".join([*head, *lines]) + "\n")
    return path


# --- init ------------------------------------------------------------------------------------------------------------


def test_init_writes_the_real_inputs_and_run_replays_it(cli, project):
    done = cli("init", "python:models.py:build", "--samples", "data/samples.npz", cwd=project)
    assert done.returncode == 0, done.stderr
    written = Recipe.read(project / "deploykit.toml")
    assert written.inputs == ("features:float32[N,6]",)
    assert written.samples == str(project / "data/samples.npz")
    assert "output:float32[N,3]" in (project / "deploykit.toml").read_text()
    done = cli("run", "--recipe", project / "deploykit.toml", "--quick", "--variants", "onnx", cwd=project.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = Bundle(project / "artifacts" / "models")  # beside the recipe, wherever the command is started
    assert [one.name for one in bundle.manifest.variants] == ["onnx"]
    assert str(bundle.manifest.signature.inputs[0]) == "features:float32[N,6]"
    assert bundle.manifest.reference.samples == "given"


def test_init_takes_ranges_and_writes_paths_as_seen_from_the_recipe(cli, project):
    (project / "recipes").mkdir()
    done = cli(
        "init", "python:models.py:bare", "--input", "features:float32[N=2..64,6]", "--seed", 4,
        "--target", "ort:1.19", "--variants", "onnx", "--samples", project / "data/samples.npz",
        "-o", "recipes/a.toml", "--json", "-", cwd=project,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = tomllib.loads((project / "recipes/a.toml").read_text())
    assert data["source"] == "python:../models.py:bare"
    assert data["inputs"] == ["features:float32[N=2..64,6]"]
    assert data["samples"] == str(project / "data/samples.npz")  # absolute as it was given
    assert (data["seed"], data["target"], data["variants"], data["output"]) == (
        4,
        "ort:1.19",
        ["onnx"],
        "artifacts/models",
    )
    said = json.loads(done.stdout)
    assert (said["path"], said["exit_code"], said["parameters"]) == ("recipes/a.toml", 0, 21)
    assert Recipe.read(project / "recipes/a.toml").source == f"python:{project}/recipes/../models.py:bare"


def test_init_of_the_seed_model_only_tells_its_inputs_since_it_takes_none(cli, tmp_path):
    assert cli("init", cwd=tmp_path).returncode == 0
    text = (tmp_path / "deploykit.toml").read_text()
    assert "#     image:float32[N,1,28,28]" in text
    assert Recipe.parse(text).inputs == ()
    assert cli("export", "--recipe", "deploykit.toml", "--plan", cwd=tmp_path).returncode == 0


def test_init_replaces_nothing_without_force(cli, project):
    mine = recipe(project)
    before = mine.read_text()
    done = cli("init", "python:models.py:build", cwd=project)
    assert done.returncode == 2
    assert done.stderr.startswith("error[EXISTS]: deploykit.toml: ")
    assert mine.read_text() == before
    assert cli("init", "python:models.py:build", "--force", cwd=project).returncode == 0
    assert mine.read_text() != before


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["pyhton:models.py:build"], 2, "UNKNOWN_PLUGIN"),
        (["python:models.py:bulid"], 2, "UNKNOWN_CALLABLE"),
        (["python:models.py:bare"], 2, "NO_INPUTS"),
        (["python:models.py:build", "--variants", "onyx"], 2, "UNKNOWN_VARIANT"),
        (["python:models.py:build", "--samples", "none.npz"], 2, "NOT_FOUND"),
        (["python:models.py:build", "--target", "ort:0.1"], 2, "UNKNOWN_TARGET"),
        (["python:models.py:build", "-o", "data"], 2, "EXISTS"),
        (["python:models.py:build", "-o", "none/deploykit.toml"], 2, "NOT_FOUND"),
    ],
)
def test_init_that_cannot_be_leaves_nothing(cli, project, arguments, code, word):
    done = cli("init", *arguments, cwd=project)
    assert (done.returncode, done.stderr.strip().splitlines()[-1].split(":")[0]) == (code, f"error[{word}]")
    assert sorted(path.name for path in project.iterdir() if path.name != "__pycache__") == ["data", "models.py"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_init_in_a_read_only_folder_says_so_before_the_model_is_loaded(cli, project):
    project.chmod(0o555)
    try:
        done = cli("init", "python:models.py:build", cwd=project)
    finally:
        project.chmod(0o755)
    assert done.returncode == 6
    assert "PERMISSION" in done.stderr


def test_ctrl_c_in_init_leaves_nothing(project):
    (project / "slow.py").write_text("import time\ndef build():\n    time.sleep(60)\n")
    argv = [sys.executable, "-P", "-m", "deploykit", "init", "python:slow.py:build"]
    with subprocess.Popen(argv, cwd=project, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert "INTERRUPTED" in said
    assert sorted(path.name for path in project.iterdir()) == ["data", "models.py", "slow.py"]


# --- --recipe --------------------------------------------------------------------------------------------------------


def test_the_command_line_wins_and_each_command_takes_its_part(cli, project):
    written = recipe(
        project, 'variants = ["torchscript", "onnx"]', 'output = "out/mine"', 'samples = "data/samples.npz"',
        "[options.onnx]", "opset = 18", "[budget]", "max_r = 1e-9", "[bench]", "batch = [1, 4]", "quick = true",
        "[gates]", 'goal = "size"',
    )  # fmt: skip
    done = cli("export", "--recipe", written, "--variants", "onnx", cwd=project.parent)
    assert done.returncode == 0, done.stderr
    bundle = Bundle(project / "out/mine")
    assert [one.name for one in bundle.manifest.variants] == ["onnx"]
    assert bundle.manifest.variant("onnx").options["opset"] == 18
    done = cli("verify", "--recipe", written, "--json", "-", cwd=project.parent)
    assert done.returncode == 1, done.stderr  # nothing keeps that limit
    done = cli("verify", "--recipe", written, "--set", "budget.max_r=6", cwd=project.parent)
    assert done.returncode == 0, done.stdout
    done = cli("bench", "--recipe", written, "--batch", "2", "--json", "-", cwd=project.parent)
    assert done.returncode == 1, done.stderr  # what the recipe's budget fails is not recommended either
    written.write_text(written.read_text().replace("1e-9", "6"))
    done = cli("bench", "--recipe", written, "--batch", "2", "--json", "-", cwd=project.parent)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {row["batch"] for row in said["variants"]} == {2}
    assert said["protocol"]["quick"] is True
    assert said["recommendation"]["goal"] == "size"
    assert {row["name"] for row in said["variants"]} == {"eager", "onnx"}  # the recipe's source builds eager
    copied = Path(shutil.copytree(bundle.path, project / "copied"))
    done = cli("verify", copied, "--recipe", written, "--set", "budget.max_r=6", cwd=project.parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_run_does_all_of_it_and_hands_over(cli, project):
    written = recipe(
        project, 'variants = "onnx"', 'output = "out/mine"', "[budget.output]", "max_r = 8",
        "[verify]", "self_check = false", 'junit = "junit.xml"', 'summary = "summary.md"',
        "[bench]", "quick = true", "batch = 2", "[gates]", 'size = "10MB"', 'against = "@threads=1"',
        'junit = "speed.xml"', 'margin = "50%,90%"',
        "[[handoff]]", 'to = "triton"', 'output = "handed/triton"', 'model_name = "mine"',
        "[[handoff]]", 'to = "mlserver"', 'output = "handed/mlserver"', 'variant = "onnx"',
    )  # fmt: skip
    done = cli("run", "--recipe", written, "--json", project / "run.json", cwd=project.parent)
    said = json.loads((project / "run.json").read_text())
    gate = said["more"][0]["gates"][0]["verdict"]
    assert said["verify"]["self_check"] is None
    assert [len(said["more"]), *said["seconds"]] == [1, "export", "verify", "bench", "handoff"]
    assert (project / "junit.xml").is_file()
    assert (project / "speed.xml").is_file()
    assert "onnx" in (project / "summary.md").read_text()
    assert done.returncode == {"pass": 0, "inconclusive": 3}[gate], done.stdout + done.stderr
    if gate == "pass":
        assert [(one["target"], one["model"], one["variant"]) for one in said["handoffs"]] == [
            ("triton", "mine", "onnx"), ("mlserver", "mine", "onnx"),
        ]  # fmt: skip
        assert said["not_handed"] == {}
        assert (project / "handed/triton/model_repository/mine/1/model.onnx").is_file()
    else:
        assert set(said["not_handed"]) == {f"triton {project}/handed/triton", f"mlserver {project}/handed/mlserver"}
        assert not (project / "handed").exists()


def test_nothing_is_handed_over_when_a_gate_says_no(cli, project):
    written = recipe(
        project, 'variants = "onnx"', 'output = "out/mine"', "[verify]", "self_check = false",
        "[bench]", "quick = true", "[gates]", 'size = "100B"', "[handoff]", 'to = "triton"', 'output = "handed"',
    )  # fmt: skip
    done = cli("run", "--recipe", written, cwd=project)
    assert done.returncode == 1
    assert "not handed over: triton " in done.stdout
    assert "no variant satisfies the constraints" in done.stdout
    assert not (project / "handed").exists()


@pytest.mark.slow
def test_the_same_run_again_makes_no_variant_again(cli, project):
    written = recipe(
        project,
        'variants = ["torchscript", "onnx", "onnx-int8-dynamic"]',
        'output = "out"',
        'samples = "data/samples.npz"',
    )
    assert cli("export", "--recipe", written, cwd=project).returncode == 0
    before = (project / "out/manifest.json").read_bytes()
    done = cli("export", "--recipe", written, "--force", cwd=project)
    assert [line.split(": ", 1)[1].split(",")[0] for line in done.stderr.splitlines() if "reused" in line] == [
        "torchscript: reused", "onnx: reused", "onnx-int8-dynamic: reused",
    ]  # fmt: skip
    assert (project / "out/manifest.json").read_bytes() == before
    done = cli("export", "--recipe", written, "--force", "--no-reuse", cwd=project)
    assert "reused" not in done.stderr
    assert (project / "out/manifest.json").read_bytes() == before


@pytest.mark.parametrize("command", ["run", "export", "verify", "bench"])
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["[bench]", "treads = 2"], "bench.treads: unknown key; hint: did you mean threads?"),
        (["[options.onnx]", "opset = '18'"], 'options.onnx.opset: "18" is no whole number'),
        (["[bench]", "batch = -1"], "bench.batch: not a batch size"),
    ],
)
def test_what_is_wrong_is_one_line_before_any_work(cli, project, command, lines, said):
    recipe(project, *lines)
    done = cli(command, "--recipe", "deploykit.toml", cwd=project)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error[BAD_RECIPE]: deploykit.toml: {said}")
    assert len(done.stderr.splitlines()) == 1
    assert not (project / "artifacts").exists()


@pytest.mark.parametrize(
    ("command", "lines", "subject"),
    [
        ("run", ["[bench]", 'session = "spinning=maybe"'], "BAD_SETTING"),
        ("run", ["[bench]", "rate = 5.0"], "BAD_SCENARIO"),
        ("run", ["[budget]", "max_q = 5"], "UNKNOWN_LIMIT"),
        ("run", ["[verify]", 'baseline = "none.json"'], "NOT_FOUND"),
        ("run", ["[gates]", 'margin = "2%,5%"'], "USAGE"),
        ("run", ["[handoff]", 'to = "triton"', 'output = "data"'], "EXISTS"),
        ("run", ['on = "quantum"'], "error["),
        ("bench", ['output = "x"', "[bench]", 'scenario = "server"', 'slo = "soon"'], "deploykit.toml: bench.slo"),
        ("run", ['samples = "none.npz"'], "NOT_FOUND"),
    ],
)
def test_what_only_the_program_can_tell_is_told_before_any_work_too(cli, project, command, lines, subject):
    recipe(project, *lines)
    done = cli(command, "--recipe", "deploykit.toml", cwd=project)
    assert done.returncode == 2, done.stderr
    assert subject in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (project / "artifacts").exists()


def test_constraints_of_the_recipe_step_back_before_another_question_of_the_command_line(cli, tiny_bundle, tmp_path):
    written = recipe(tmp_path, "schema = 1", "# no source", "[gates]", 'size = "1kB"')
    done = cli("bench", tiny_bundle, "--recipe", written, "--against", "none", cwd=tmp_path)
    assert "UNKNOWN_VARIANT" in done.stderr or "NOT_FOUND" in done.stderr  # it got as far as the gate
    both = recipe(tmp_path, "schema = 1", "# no source", "[gates]", 'size = "1kB"', 'against = "onnx"', name="b.toml")
    done = cli("bench", tiny_bundle, "--recipe", both, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error[BAD_CONSTRAINT]: {both}: gates.against: ")


# --- --plan ----------------------------------------------------------------------------------------------------------


def test_plan_says_everything_and_does_nothing(cli, project):
    written = recipe(
        project, 'variants = ["onnx", "onnx-int8-static"]', 'output = "out/mine"', 'target = "ort:1.19"',
        "[budget]", "max_r = 6", "[bench]", "batch = [1, 8]", "[gates]", 'size = "10MB"',
        "[[handoff]]", 'to = "triton"', 'output = "handed"',
    )  # fmt: skip
    (project / "models.py").write_text("raise SystemExit('was loaded')")
    before = sorted(map(str, project.rglob("*")))
    done = cli("run", "--recipe", written, "--plan", cwd=project)
    assert done.returncode == 0, done.stderr
    for word in ("python:", "ort:1.19", "onnx on the module", "int8-static on onnx", "opset=", "max_r = 6",
                 "batch 1, 8", "size ≤ 10.0 MB", "triton", "handed", "no bundle is there"):  # fmt: skip
        assert word in done.stdout, word
    assert sorted(map(str, project.rglob("*"))) == before
    done = cli("run", "--recipe", written, "--plan", "--json", "-", cwd=project)
    said = json.loads(done.stdout)
    assert [step["name"] for step in said["variants"]] == ["onnx", "onnx-int8-static"]
    assert {step["reuse"] for step in said["variants"]} == {"made"}
    assert said["handoffs"] == [f"triton: the recommended variant to {project}/handed"]
    assert sorted(map(str, project.rglob("*"))) == before


def test_plan_knows_what_may_be_reused_and_what_surely_is_not(cli, project):
    written = recipe(project, 'variants = ["torchscript", "onnx"]', 'output = "out"')
    assert cli("export", "--recipe", written, cwd=project).returncode == 0

    def plan(*options: str) -> dict[str, tuple[str, str]]:
        done = cli("export", "--recipe", written, "--plan", "--json", "-", *options, cwd=project)
        if done.returncode:
            return {"error": (done.stdout, done.stderr)}
        said = json.loads(done.stdout)
        return {one["name"]: (one["reuse"], one["reason"]) for one in said["variants"]}

    open_ = ("decided when the model is loaded", "")
    assert "EXISTS" in plan()["error"][1]
    assert plan("--force") == {"torchscript": open_, "onnx": open_}
    assert plan("--force", "--no-reuse")["onnx"] == ("made", "--no-reuse")
    older = plan("--force", "--target", "ort:1.15", "--variants", "torchscript,onnx,onnx-fp16")
    assert older["torchscript"] == open_
    assert older["onnx"] == ("made", "the one that is there has another opset")
    assert older["onnx-fp16"] == ("made", "the bundle there has none")


def test_plan_of_the_seed_model_says_that_it_is_trained(cli, tmp_path):
    done = cli("run", "mlp", "--epochs", "3", "--plan", cwd=tmp_path)
    assert "digits: sgd, 3 epochs" in done.stdout
    assert list(tmp_path.iterdir()) == []
