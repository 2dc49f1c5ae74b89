"""docs/preprocessing.md: its Python blocks run as printed, its commands exist, its tables name every key."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit import preprocessing
from deploykit.cli import app

PAGE = (Path(__file__).parent.parent / "docs" / "preprocessing.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks_run_as_printed(block, tmp_path):
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_exist_and_their_steps_are_steps():
    lines = [line.split("#")[0].split() for line in re.findall(r"^deploykit .*$", PAGE, flags=re.MULTILINE)]
    assert len(lines) == 2
    for words in lines:
        command = app.group.get_command(None, words[1])
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known
        assert preprocessing.parse(words[words.index("--preprocess") + 1]) is not None


def test_the_tables_name_every_key_and_name():
    for key in preprocessing._READERS:
        assert f"`{key}`" in PAGE, key
    for name in ("imagenet", "none", *preprocessing.WEIGHTS):
        assert f"`{name}`" in PAGE
