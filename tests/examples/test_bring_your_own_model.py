"""docs/bring-your-own-model.md, followed from the top: each section goes on where the one before ended."""

import re
from pathlib import Path

import pytest
import yaml

from tests.examples.walking import blocks, walk

PAGE = (Path(__file__).parents[2] / "docs" / "bring-your-own-model.md").read_text(encoding="utf-8")
SECTIONS = [part for part in re.split(r"^(?=## )", PAGE, flags=re.MULTILINE) if blocks(part)]


class Afternoon:
    """A folder, and how far the page has been followed in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = 0
        self.lost = ""

    def until(self, number: int) -> None:
        """Follow the page to the end of section `number`; nothing goes on behind a section that failed."""
        assert not self.lost, f"an earlier section failed: {self.lost}"
        while self.done <= number:
            self.lost = SECTIONS[self.done].splitlines()[0]
            walk(SECTIONS[self.done], self.folder)
            self.done, self.lost = self.done + 1, ""


@pytest.fixture(scope="module")
def afternoon(tmp_path_factory) -> Afternoon:
    folder = tmp_path_factory.mktemp("afternoon") / "monitor"
    folder.mkdir()
    return Afternoon(folder)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(len(SECTIONS)), ids=[part.splitlines()[0].strip("# ") for part in SECTIONS])
def test_a_section_does_what_it_says(afternoon, number):
    afternoon.until(number)
    assert afternoon.done > number


def test_the_workflow_does_what_was_typed():
    (workflow,) = [block for block in blocks(PAGE) if block.kind == "yaml"]
    steps = [step["run"] for step in yaml.safe_load(workflow.text)["jobs"]["parity"]["steps"] if "run" in step]
    typed = {line for block in blocks(PAGE) if block.kind == "bash" for line in block.text.splitlines()}
    assert len(steps) == 3
    assert set(steps[1:]) <= typed


def test_what_the_afternoon_meets_is_all_there():
    met = set(re.findall(r"error\[(\w+)\]|\[(\w+)\]:", PAGE))
    codes = {one or other for one, other in met}
    assert codes >= {"TRAIN_MODE", "STATEFUL_REFERENCE", "REFERENCE_NONDETERMINISTIC", "DATA_DEPENDENT"}
