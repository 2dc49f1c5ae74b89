"""Progress: a bar on a terminal that gives the cursor back whatever happens, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from deploykit.cli.progress import Bar, Lines

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def on_a_terminal(*arguments, interrupt_at=None):
    """Run deploykit with a real terminal as stderr; what it wrote there, and its exit status."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "deploykit", *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=theirs, env=environment,
    ) as process:  # fmt: skip
        os.close(theirs)
        said, deadline = "", time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                said += os.read(ours, 65536).decode()
            except OSError:  # the other end is closed
                break
            if interrupt_at is not None and interrupt_at in said:
                interrupt_at = None
                process.send_signal(signal.SIGINT)
        out = process.stdout.read().decode()
        code = process.wait(30)
    os.close(ours)
    return said, out, code


def test_a_terminal_gets_a_bar_and_its_cursor_back(tiny_bundle):
    said, out, code = on_a_terminal("verify", tiny_bundle, "--variants", "onnx")
    assert code == 0, said
    assert "onnx: pass" in said
    assert said.rindex(SHOW) > said.rindex(HIDE)
    assert "parity of" in out
    assert "\x1b" not in out


def test_ctrl_c_gives_the_cursor_back_too(tiny_source, tmp_path):
    said, _, code = on_a_terminal("export", tiny_source, "-o", tmp_path / "b", interrupt_at=HIDE)
    assert code == -signal.SIGINT
    assert said.rindex(SHOW) > said.rindex(HIDE)
    assert "error[INTERRUPTED]" in said
    assert not (tmp_path / "b").exists()


def test_lines_count_their_steps_and_escape_what_they_show(capsys):
    lines = Lines()
    lines.stage("export", 2)
    lines.step("one\x1b[31m")
    lines.note("beside")
    lines.step("two")
    said = [line.split("] ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert said == ["export 1/2: one\\x1b[31m", "beside", "export 2/2: two"]


def test_lines_go_on_from_where_a_stage_is(capsys):
    lines = Lines()
    lines.stage("tune, seconds", 90)
    lines.reach(12)
    lines.step("one")
    assert capsys.readouterr().err.split("] ", 1)[1] == "tune, seconds 13/90: one\n"


def test_a_bar_that_was_interrupted_half_way_gives_the_cursor_back(monkeypatch):
    bar, shown = Bar(), []
    console = bar._bar.console
    monkeypatch.setattr(console, "show_cursor", shown.append)
    monkeypatch.setattr(console, "push_render_hook", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        bar.stage("export", 3)
    with contextlib.suppress(IndexError):
        bar.close()
    assert shown[0] is False
    assert shown[-1] is True


BREAKS_WHILE_STOPPING = """
import os, signal
from deploykit import __main__ as deploykit
from deploykit.cli import app

def main(**_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise {broken} from None

app.group.main = main
deploykit.main()
"""


@pytest.mark.parametrize("broken", ["ValueError('torn')", "OSError('gone')", "WorkError('x', 'torn', 'no', 'T')"])
def test_what_breaks_while_a_ctrl_c_unwinds_is_no_bug_of_ours(broken):
    code = f"from deploykit.errors import WorkError\n{BREAKS_WHILE_STOPPING.format(broken=broken)}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGINT
    assert done.stderr.startswith("error[INTERRUPTED]: deploykit: stopped")
