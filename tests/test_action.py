"""`action.yml`: its scripts are run for real, with the runner's files and variables faked; only GitHub is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from deploykit.cli import app

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = ACTION["runs"]["steps"]
SCRIPTS = [step for step in STEPS if "run" in step]


def options_in(script: str) -> list[tuple[str, str]]:
    """(command, option) for every long option of deploykit that a script names."""
    found = []
    command = ""
    for line in reversed(script.splitlines()):  # the arguments are collected above the call
        if called := re.search(r"\bdeploykit (\w+)", line):
            command = called[1]
        found += [(command, option) for option in re.findall(r"(?<![\w*-])--[a-z][a-z-]+", line)]
    return found


def test_it_is_a_composite_action_whose_steps_are_whole():
    assert ACTION["runs"]["using"] == "composite"
    assert all(("run" in step) != ("uses" in step) and step["name"] for step in STEPS)
    assert all(step["shell"] == "bash" for step in SCRIPTS)
    assert all(given["description"] and "default" in given for given in ACTION["inputs"].values())
    assert {
        "source",
        "bundle",
        "variants",
        "samples",
        "baseline",
        "python-version",
        "extra-args",
        "inconclusive",
    } <= set(ACTION["inputs"])


def test_other_peoples_actions_are_pinned_to_a_commit():
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert len(used) == 2
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name) for name in used)


@pytest.mark.parametrize("step", SCRIPTS, ids=lambda step: step["name"])
def test_a_script_is_valid_bash_and_no_input_is_pasted_into_it(step):
    assert "${{" not in step["run"]
    checked = subprocess.run(["bash", "-n"], input=step["run"], text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_every_option_that_a_script_uses_exists():
    used = [pair for step in SCRIPTS for pair in options_in(step["run"]) if pair[0]]
    assert {"export", "verify"} == {command for command, _ in used}
    assert len(used) > 8
    for command, option in used:
        known = {name for parameter in app.group.get_command(None, command).params for name in parameter.opts}
        assert option in known, (command, option)


def test_every_expression_names_something_that_is_there():
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    ids = {step["id"] for step in STEPS if "id" in step}
    for expression in re.findall(r"\$\{\{ (.+?) \}\}", text) + [step["if"] for step in STEPS if "if" in step]:
        for kind, name in re.findall(r"\b(inputs|steps|github|runner)\.([\w-]+)", expression):
            known = {"inputs": set(ACTION["inputs"]), "steps": ids, "github": {"action_path"}, "runner": {"temp"}}
            assert name in known[kind], expression


# --- a runner of our own ----------------------------------------------------------------------------------------------


class Runner:
    """Does what GitHub's does with a composite action: inputs, `if`, `env`, outputs; `uses` steps are only noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary = folder / "summary.md"
        self.log = ""
        self.used: list[str] = []

    def run(self, **inputs: str) -> int:
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        unknown = set(given) - set(ACTION["inputs"])
        assert not unknown
        values = {f"inputs.{name}": given.get(name, spec["default"]) for name, spec in ACTION["inputs"].items()}
        values |= {"github.action_path": str(ROOT), "runner.temp": str(self.folder)}
        failed = 0
        for step in STEPS:
            if not self._wanted(step, values, failed):
                continue
            if "uses" in step:
                self.used.append(step["name"])
                continue
            output = self.folder / "output"
            output.write_text("")
            failed = self._script(step, values, output) or failed
            for line in output.read_text().splitlines():
                name, _, value = line.partition("=")
                values[f"steps.{step['id']}.outputs.{name}"] = value
        self.outputs = {name: self._filled(spec["value"], values) for name, spec in ACTION["outputs"].items()}
        return failed

    def _wanted(self, step, values, failed) -> bool:
        condition = step.get("if", "")
        if failed and "always()" not in condition:
            return False
        for part in condition.split(" && ") if condition else []:
            if part == "always()":
                continue
            name, operator, text = part.split(" ")
            if (values.get(name, "") == text.strip("'")) != (operator == "=="):
                return False
        return True

    def _script(self, step, values, output: Path) -> int:
        env = {name: self._filled(value, values) for name, value in step.get("env", {}).items()}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env |= {"PATH": path, "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self.summary)}
        env |= {"GITHUB_ACTIONS": "true"}
        script = self.folder / "script.sh"
        script.write_text(step["run"])
        done = subprocess.run(  # the options are GitHub's own for `shell: bash`
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script],
            env={**os.environ, **env}, cwd=self.folder, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        self.log += done.stdout + done.stderr
        return done.returncode

    @staticmethod
    def _filled(text: str, values: dict[str, str]) -> str:
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda match: values.get(match[1], ""), str(text))


@pytest.fixture
def runner(tmp_path) -> Runner:
    return Runner(tmp_path)


def test_a_bundle_that_is_there_is_verified(runner, tiny_bundle):
    assert runner.run(bundle=str(tiny_bundle), variants="onnx", install="false") == 0, runner.log
    assert runner.outputs["verdict"] == "pass"
    assert runner.outputs["bundle"] == str(tiny_bundle)
    reports = Path(runner.outputs["reports"])
    assert json.loads((reports / "verify.json").read_text())["verdict"] == "pass"
    # where CI is set the self-check is there as well
    assert [suite.get("name") for suite in ET.parse(reports / "junit.xml").getroot()][:1] == ["onnx"]
    assert "Parity of tiny: pass" in runner.summary.read_text()
    assert runner.used == ["Upload the reports"]


def test_a_source_is_exported_and_compared_with_its_baseline(runner, tiny_source, tmp_path):
    space = tmp_path / "a folder"
    space.mkdir()
    shutil.copy(tiny_source.split(":")[1], space / "tiny.py")
    baseline, given = space / "baseline.json", {"source": f"python:{space / 'tiny.py'}:build", "variants": "onnx"}
    first = runner.run(**given, baseline=str(baseline), extra_args="--update-baseline --quiet", install="false")
    assert first == 0, runner.log
    assert runner.outputs["bundle"] == f"{runner.outputs['reports']}/bundle"
    data = json.loads(baseline.read_text())
    data["variants"][0]["checks"][0]["metric"] = "something else"
    baseline.write_text(json.dumps(data))
    assert runner.run(**given, baseline=str(baseline), python_version="3.13", install="false") == 1
    assert runner.outputs["verdict"] == "fail"
    assert "::error title=bundle%3A BASELINE_DRIFT::baseline: FAIL" in runner.log
    assert runner.used == ["Upload the reports", "Set up Python", "Upload the reports"]


def test_a_gate_that_says_no_fails_the_job_and_the_reports_are_kept(runner, tiny_bundle):
    code = runner.run(
        bundle=str(tiny_bundle), variants="onnx", extra_args="--set budget.max_r=1e-9\n--quiet", install="false"
    )
    assert code == 1, runner.log
    assert runner.outputs["verdict"] == "fail"
    assert runner.used == ["Upload the reports"]
    assert list(ET.parse(Path(runner.outputs["reports"]) / "junit.xml").getroot().iter("failure"))


def test_what_cannot_start_ends_with_its_exit_code_and_no_verdict(runner, tmp_path):
    assert runner.run(bundle=str(tmp_path / "nowhere"), install="false") == 2
    assert "error[NOT_FOUND]" in runner.log
    assert runner.outputs["verdict"] == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, "give source or bundle"), ({"bundle": "x", "samples": "y.npz"}, "samples belong to an export")],
)
def test_inputs_that_do_not_go_together_are_said(runner, given, said):
    assert runner.run(**given, install="false") == 2
    assert f"::error title=deploykit::{said}" in runner.log
    assert runner.used == []


def test_an_input_is_never_run(runner, tmp_path):
    text = "$(touch pwned) `touch pwned` \"; touch pwned; ' ; touch pwned; '\ntouch pwned\n${IFS}"
    for name in ("source", "bundle", "variants", "samples", "baseline", "extra_args", "inconclusive"):
        assert runner.run(**{"bundle": "nowhere", "install": "false", name: text}) != 0, name
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("given", [{"bundle": "--help"}, {"source": "--help"}, {"extra_args": "--help"}])
def test_a_question_for_help_is_no_passed_gate(runner, given):
    assert runner.run(**{"bundle": "nowhere", "install": "false", **given}) == 2
    assert runner.outputs["verdict"] == ""


def test_the_install_step_installs_this_package(runner, tmp_path):
    """Offline: the copy is built with the setuptools that are here, without its dependencies, into a folder."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    shutil.copytree(ROOT / "deploykit", copy / "deploykit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (step,) = [step for step in STEPS if step["name"] == "Install deploykit"]
    offline = {
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_INDEX": "1",
        "PIP_TARGET": str(tmp_path / "to"),
    }
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        env={**os.environ, **offline, "ACTION_PATH": str(copy), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "to/deploykit/py.typed").is_file()
    assert (tmp_path / "to/deploykit/schemas/verify.json").is_file()
    assert "pytest11" in next((tmp_path / "to").glob("deploykit-*.dist-info/entry_points.txt")).read_text()
