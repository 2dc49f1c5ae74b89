"""A page as a reader follows it: files are written, edits made, commands typed, and what comes out is what is printed.

What a block is, its first line says: `bash` is typed, `bash exit=4` ends with 4, `text` behind it is what comes out;
`python FILE`, `toml FILE` and `yaml FILE` are files; `diff FILE` changes one. Of an output the lines that are printed
have to come, in their order; numbers may be others (line numbers of code not), and `…` at the end is any rest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FILES = {"python", "toml", "yaml"}
_BLOCK = re.compile(r"^```(?P<kind>\w+)(?P<about>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w:])-?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?!\w)")
_ELAPSED = re.compile(r"^\[ *[\d.]+s\] ")
_LINE_OF_CODE = re.compile(r"\.py:\d+")


@dataclass(frozen=True)
class Block:
    """One block: `about` is what its first line says beside its kind."""

    kind: str
    about: str
    text: str


def blocks(page: str) -> list[Block]:
    """All blocks of a page, from top to bottom."""
    return [Block(found["kind"], found["about"].strip(), found["text"]) for found in _BLOCK.finditer(page)]


def walk(page: str, folder: Path) -> None:
    """Do in `folder` what `page` says; raises AssertionError where something else comes out than is printed."""
    output = None
    for block in blocks(page):
        if block.kind == "text":
            assert output is not None, f"an output without a command:\n{block.text}"
            check(block.text, output)
        elif block.kind == "bash":
            output = typed(block, folder)
        elif block.kind == "diff":
            edit(folder / block.about, block.text)
        else:
            assert block.kind in FILES, block.kind
            (folder / block.about).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.about).write_text(block.text, encoding="utf-8")


def typed(block: Block, folder: Path) -> str:
    """Run a block in a shell; what it said, both streams."""
    wanted = int(block.about.removeprefix("exit=") or 0)
    # not CI: where it is set, verify proves itself with mutants, and the pages are about a desk
    ours = {name: value for name, value in os.environ.items() if name not in {"CI", "PYTHONPATH", "COLUMNS"}}
    env = {**ours, "PATH": f"{_commands(folder)}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == wanted, f"exit {done.returncode}, not {wanted}:\n{block.text}\n{done.stdout}"
    return done.stdout


def _commands(folder: Path) -> Path:
    """A folder beside `folder` with `deploykit` and `python`, for the shell's path."""
    found = folder.parent / "bin"
    found.mkdir(exist_ok=True)
    for name, arguments in (("deploykit", "-P -m deploykit"), ("python", "")):
        if not (found / name).exists():
            (found / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8")
            (found / name).chmod(0o755)
    return found


def check(printed: str, output: str) -> None:
    """Raise unless the lines of `printed` are lines of `output`, in the same order."""
    rest = iter(output.splitlines())
    for line in printed.splitlines():
        if line.strip() in {"", "…"}:
            continue
        assert any(alike(line, other) for other in rest), f"did not come, or not here:\n{line}\nof:\n{output}"


def alike(printed: str, line: str) -> bool:
    """Whether a line is the printed one: numbers, spaces and drawn lines aside."""
    wanted, given = _form(printed), _form(line)
    return given.startswith(wanted[:-1].rstrip()) if wanted.endswith("…") else given == wanted


def _form(line: str) -> str:
    kept = _LINE_OF_CODE.sub(lambda found: found[0].replace(":", "!"), _ELAPSED.sub("", line.strip()))
    kept = re.sub(r"!(\d+)", lambda found: "!" + "".join("abcdefghij"[int(digit)] for digit in found[1]), kept)
    return re.sub(r"\s+", " ", _NUMBER.sub("0", kept))


def edit(file: Path, hunks: str) -> None:
    """Apply what a `diff` block says: the lines without `+` are there, once, and become those without `-`.

    An `@@` begins another place of the file.
    """
    text = file.read_text(encoding="utf-8")
    for hunk in re.split(r"^@@.*\n", hunks, flags=re.MULTILINE):
        rows = [row for row in hunk.splitlines(keepends=True) if row.strip()]
        if not rows:
            continue
        before = "".join(row[1:] for row in rows if row[0] != "+")
        after = "".join(row[1:] for row in rows if row[0] != "-")
        assert text.count(before) == 1, f"{file.name} has this {text.count(before)} times:\n{before}"
        text = text.replace(before, after)
    file.write_text(text, encoding="utf-8")
