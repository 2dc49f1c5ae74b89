"""docs/ci.md: what can be copied from it works."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from deploykit.cli import app
from deploykit.parity import drift, sketch

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def scripts(node) -> list[str]:
    """Every command line in a workflow: the texts below `run` and `script`."""
    if isinstance(node, dict):
        own = [line for key, value in node.items() if key in {"run", "script"} for line in lines_of(value)]
        return own + [line for value in node.values() for line in scripts(value)]
    return [line for item in node for line in scripts(item)] if isinstance(node, list) else []


def lines_of(value) -> list[str]:
    return value.splitlines() if isinstance(value, str) else list(value)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("yaml") for line in scripts(yaml.safe_load(block))]
    lines += [line for block in blocks("sh") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line[:1] == ["deploykit"]]


def test_every_yaml_block_is_a_workflow_or_a_job():
    github, by_hand, gitlab = (yaml.safe_load(block) for block in blocks("yaml"))
    for workflow in (github, by_hand):
        assert {"name", True, "jobs"} <= set(workflow)  # YAML 1.1 reads `on` as true, GitHub does not mind
        assert all("run" in step or "uses" in step for step in workflow["jobs"]["parity"]["steps"])
    assert gitlab["parity"]["artifacts"]["reports"] == {"junit": "junit.xml"}
    assert gitlab["parity"]["artifacts"]["when"] == "always"


def test_the_action_is_given_inputs_that_it_has():
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    steps = yaml.safe_load(blocks("yaml")[0])["jobs"]["parity"]["steps"]
    (ours,) = [step for step in steps if "deploykit" in step.get("uses", "")]
    assert set(ours["with"]) <= set(action["inputs"])
    named = set(re.findall(r"`(artifact-name|extra-args|source|bundle)", PAGE))
    assert named == {"artifact-name", "extra-args", "source", "bundle"} <= set(action["inputs"])


def test_every_command_and_option_exists():
    found = commands()
    assert len(found) >= 6
    for words in found:
        command = app.group.get_command(None, words[1])
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, words


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[a-z-]+)", PAGE))))
def test_every_option_in_the_text_exists(option):
    parameters = [p for name in ("verify", "export") for p in app.group.get_command(None, name).params]
    assert option in {name for parameter in parameters for name in parameter.opts}


def test_the_numbers_in_the_text_are_those_of_the_code():
    assert f"a factor of {drift.FACTOR:g}," in PAGE
    assert f"{sketch.PROJECTIONS} random projections" in PAGE
    assert f"above {drift.CLEAR_DB:g} dB" in PAGE


def test_the_python_block_is_the_fixtures_own(tmp_path):
    from deploykit.pytest_plugin import Parity

    (block,) = blocks("python")
    compile(block, "ci.md", "exec")
    said = re.search(r"`parity\((.+?)\)`", PAGE)[1]
    names = Parity.__call__.__code__.co_varnames[1:7]
    assert [part.split("=")[0].strip() for part in said.split(", ")] == list(names)
