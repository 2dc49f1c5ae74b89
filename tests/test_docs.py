"""The documentation is true: generated parts are current, commands exist, the Python block runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit import errors, registry
from deploykit.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")] + sorted((ROOT / "docs").glob("*.md"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_generated_pages_and_schemas_are_current():
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_in_the_readme_exists_with_its_options():
    lines = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    commands = [words for words in lines if words[:1] == ["deploykit"]]
    assert len(commands) >= len(app.COMMANDS) - 2
    for words in commands:
        command = app.group.get_command(None, words[1])
        assert command is not None, words
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, words


def test_every_command_is_in_the_readme():
    assert [name for name in app.COMMANDS if f"deploykit {name}" not in README] == []


def test_the_python_block_runs_as_printed(tmp_path):
    (block,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    verdicts, recommendation = done.stdout.splitlines()
    assert verdicts == "pass [('onnx', 'pass'), ('onnx-int8-static', 'pass')]"
    assert recommendation.startswith("onnx")


def test_the_exit_code_table_is_the_code():
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    assert table == set(errors.GRAVITY)
    assert f"gravest of {', '.join(map(str, errors.GRAVITY))} in that order" in README


def test_the_plugin_page_names_every_kind():
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert all(f"`{kind}/NAME.py` | `{name}`" in page for kind, name in registry.CLASS_OF.items())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_no_tracked_file_names_a_registry_host_or_this_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    hosts = re.compile(r"(files\.pythonhosted|registry\.npmjs|/simple/[a-z])")
    for name in listed.stdout.split():
        text = (ROOT / name).read_bytes().decode(errors="replace")
        if name != "tests/test_docs.py":
            assert not hosts.search(text), name
            assert str(ROOT) + "/" not in text, name
    assert "uv.lock" not in listed.stdout.split()
