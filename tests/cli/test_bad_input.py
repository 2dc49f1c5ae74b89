"""Bad files, bad places and bad moments: one line, the contract's code, and nothing half-written."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from deploykit.bundle import Bundle

LINE = re.compile(r"error\[([A-Z0-9_]+)\]: .+: .+; hint: .+")


def code_of(done) -> str:
    """The CODE of the one error line."""
    said = [line for line in done.stderr.splitlines() if line.startswith("error[")]
    assert len(said) == 1, done.stderr
    assert LINE.fullmatch(said[0])
    assert len(said[0]) <= 400
    assert "Traceback" not in done.stderr
    return LINE.fullmatch(said[0])[1]


def rest_of(folder: Path) -> list[str]:
    """What an export left beside its target."""
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(".") and not p.name.endswith(".lock"))


# --- files that are not what they should be --------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["inspect", "verify", "artifact"])
@pytest.mark.parametrize(
    "content", [b"just some text\n", b"", b"\x80\x02}q\x00.", b"PK\x03\x04", b"\x08\x0a\x12\xff\xff"]
)
def test_a_file_named_onnx_that_is_none(cli, tiny_bundle, tmp_path, command, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    arguments = ["verify", tiny_bundle, "--artifact", path] if command == "artifact" else [command, path]
    done = cli(*arguments, "--quiet")
    if command == "verify":  # a file is no bundle, whatever is in it
        assert (done.returncode, code_of(done)) == (2, "NOT_A_BUNDLE")
    elif content[:1] == b"\x08" and command == "artifact":  # looks like ONNX until it is opened
        assert done.returncode in {4, 5}
        assert "Traceback" not in done.stderr
    else:
        assert (done.returncode, code_of(done)) == (5, "MALFORMED")


@pytest.fixture(scope="module")
def checkpoint(cli, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "mlp.safetensors"
    done = cli("train", "-o", path, "--epochs", "1")
    assert done.returncode == 0, done.stderr
    return path


class Canary:
    """Harmless: it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["cut off", "text", "pickle", "zip", "foreign"])
def test_a_checkpoint_that_is_damaged_or_carries_code_is_refused_and_never_runs(cli, checkpoint, tmp_path, kind):
    path, canary = tmp_path / "weights.pt", tmp_path / "canary"
    whole = checkpoint.read_bytes()
    if kind == "zip":
        import torch

        torch.save({"hidden.weight": Canary(canary)}, path)
    elif kind == "foreign":
        from safetensors.numpy import save_file

        save_file({"other": np.zeros(3, np.float32)}, path)
    else:
        path.write_bytes(
            {
                "cut off": whole[: len(whole) // 2],
                "text": b"weights\n",
                "pickle": pickle.dumps({"hidden.weight": Canary(canary)}),
            }[kind]
        )
    done = cli("export", "mlp", "--checkpoint", path, "-o", tmp_path / "b", "--variants", "onnx", "--quiet")
    assert done.returncode == 5, done.stderr
    expected = {"pickle": "UNTRUSTED_CODE", "zip": "UNTRUSTED_CODE", "foreign": "CHECKPOINT_MISMATCH"}
    assert code_of(done) == expected.get(kind, "MALFORMED")
    assert not canary.exists()
    assert not (tmp_path / "b").exists()
    assert rest_of(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "exits", "codes"),
    [
        (["--input", "x:float32[N,7]"], {2, 4}, None),
        (["--input", "x:int64[N,6]"], {2, 4}, None),
        (["--input", "y:float32[N,6]"], {2}, {"INPUT_NAMES"}),
        (["--input", "x:float32[N,6]", "--input", "z:float32[N]"], {2}, {"INPUT_NAMES"}),
        (["--samples", "wrong.npz"], {2}, {"SHAPE_MISMATCH"}),
        (["--samples", "names.npz"], {2}, {"INPUT_NAMES"}),
        (["--samples", "text.npz"], {5}, {"MALFORMED"}),
        (["--samples", "code.npz"], {5}, {"MALFORMED"}),
    ],
)
def test_inputs_and_samples_that_do_not_fit(cli, tiny_source, tmp_path, arguments, exits, codes):
    np.savez(tmp_path / "wrong.npz", x=np.zeros((9, 7), np.float32))
    np.savez(tmp_path / "names.npz", y=np.zeros((9, 6), np.float32))
    (tmp_path / "text.npz").write_text("samples")
    np.savez(tmp_path / "code.npz", x=np.array([Canary(tmp_path / "canary")], dtype=object))
    done = cli("export", tiny_source, "-o", "b", "--variants", "onnx", "--quiet", *arguments, cwd=tmp_path)
    assert done.returncode in exits, done.stderr
    if done.returncode:
        assert code_of(done) in (codes or {code_of(done)})
        assert not (tmp_path / "b").exists()
    assert not (tmp_path / "canary").exists()
    assert rest_of(tmp_path) == []


SOURCES = {
    "raises": ("def build():\n    raise RuntimeError('no \\n model')\n", {4}),
    "exits": ("import sys\n\ndef build():\n    sys.exit(0)\n", {4}),
    "is no module": ("def build():\n    return 42\n", {2}),
    "has no inputs": ("from torch import nn\ndef build():\n    return nn.Linear(2, 2)\n", {2}),
    "does not parse": ("def build(:\n", {2, 4}),
    "prints to stdout": (
        "import torch\nfrom torch import nn\nprint('x' * 100000)\n"
        "def build():\n    print('hello')\n    return nn.Linear(2, 2), torch.rand(2, 2)\n",
        {0},
    ),
    "dies": ("import os, signal\ndef build():\n    os.kill(os.getpid(), signal.SIGSEGV)\n", {4}),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_user_code_that_misbehaves_is_an_ordinary_error(cli, tmp_path, kind):
    text, exits = SOURCES[kind]
    (tmp_path / "bad.py").write_text(text)
    done = cli("export", "python:bad.py:build", "-o", "b", "--variants", "torchscript", "--json", "-", cwd=tmp_path)
    assert done.returncode in exits, done.stderr
    assert rest_of(tmp_path) == []
    if done.returncode:
        told = json.loads(done.stdout)  # stdout is one document, whatever happened
        assert (told["exit_code"], told["error"]["code"]) == (done.returncode, code_of(done))
        assert not (tmp_path / "b").exists()
    else:
        assert done.stdout.startswith("{")
        Bundle(tmp_path / "b").check()


# --- places that cannot be written -----------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system of its own, where this machine lets us mount one."""
    folder.mkdir()
    asked = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_output_directory_is_a_storage_error(cli, tiny_source, tmp_path):
    with mounted(tmp_path / "ro", "-o", "ro") as folder:
        for target in (folder / "b", folder / "deep" / "b"):
            done = cli("export", tiny_source, "-o", target, "--variants", "onnx")
            assert (done.returncode, code_of(done)) == (6, "READ_ONLY"), done.stderr
        done = cli("train", "-o", folder / "w.safetensors")
        assert (done.returncode, code_of(done)) == (6, "READ_ONLY"), done.stderr
        assert "epoch" not in done.stderr


@pytest.mark.parametrize("target", ["/proc/b", "/proc/self/b", "/sys/b"])
def test_a_place_where_even_root_cannot_write_is_a_storage_error(cli, tiny_source, target):
    done = cli("export", tiny_source, "-o", target, "--variants", "onnx")
    assert done.returncode == 6, done.stderr
    assert code_of(done) in {"READ_ONLY", "PERMISSION", "STORAGE"}


@pytest.mark.parametrize("size", ["4k", "76k"])
def test_a_full_disk_is_a_storage_error_wherever_it_strikes_and_leaves_nothing(cli, tiny_source, tmp_path, size):
    with mounted(tmp_path / "full", "-o", f"size={size}") as folder:
        done = cli("export", tiny_source, "-o", folder / "b", "--variants", "torchscript,onnx", "--quiet")
        assert done.returncode == 6, done.stderr
        assert code_of(done) == "DISK_FULL"
        assert not (folder / "b").exists()
        assert rest_of(folder) == []


def test_a_limit_on_file_size_is_a_storage_error(cli, tmp_path):
    (tmp_path / "wide.py").write_text(
        "import torch\nfrom torch import nn\ndef build():\n    return nn.Linear(64, 3000), torch.rand(2, 64)\n"
    )
    argv = [sys.executable, "-P", "-m", "deploykit", "export", "python:wide.py:build", "-o", "b", "--variants", "onnx"]
    done = subprocess.run(
        argv, cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert code_of(done) == "DISK_FULL"
    assert not (tmp_path / "b").exists()
    assert rest_of(tmp_path) == []


def test_a_directory_that_is_no_bundle_stays_untouched_even_with_force(cli, tiny_source, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    for flags in ([], ["--force"]):
        done = cli("export", tiny_source, "-o", home, "--variants", "onnx", *flags)
        assert (done.returncode, code_of(done)) == (2, "EXISTS")
    assert [p.name for p in home.iterdir()] == ["thesis.txt"]
    assert (home / "thesis.txt").read_text() == "years of work"


def test_a_bundle_is_replaced_only_with_force(cli, tiny_source, tiny_bundle, tmp_path):
    target = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    old = Bundle(target).digest
    done = cli("export", tiny_source, "-o", target, "--variants", "torchscript")
    assert (done.returncode, code_of(done)) == (2, "EXISTS")
    assert Bundle(target).digest == old
    done = cli("export", tiny_source, "-o", target, "--variants", "torchscript", "--force")
    assert done.returncode == 0, done.stderr
    Bundle(target).check()
    assert [v.name for v in Bundle(target).manifest.variants] == ["torchscript"]
    assert rest_of(tmp_path) == []


# --- bad moments -----------------------------------------------------------------------------------------------------


class Running:
    """An export in a process of its own, whose progress lines can be waited for."""

    def __init__(self, *arguments: object) -> None:
        argv = [sys.executable, "-P", "-m", "deploykit", *map(str, arguments)]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.children: set[psutil.Process] = set()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.said += line

    def until(self, sign: str | Path) -> None:
        """Wait for a word on stderr, or for a file to match a pattern."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            self._note_children()
            if any(sign.parent.glob(sign.name)) if isinstance(sign, Path) else sign in self.said:
                return
            time.sleep(0.005)
        pytest.fail(f"{sign} never came: {self.said}")

    def _note_children(self) -> None:
        with contextlib.suppress(psutil.Error):
            self.children |= set(psutil.Process(self.process.pid).children(recursive=True))

    def end(self, number: signal.Signals) -> int:
        """Send the signal and give the exit status; fails if a child outlives the parent."""
        self._note_children()
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        _, alive = psutil.wait_procs(self.children, timeout=5)
        assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
        return code


MOMENTS = {"staging": ".b.staging-*", "child": None, "reference": "reference: ", "variant": "torchscript: "}


@pytest.mark.parametrize(
    ("moment", "number"),
    [*((moment, signal.SIGINT) for moment in MOMENTS), ("child", signal.SIGTERM), ("variant", signal.SIGTERM)],
)
def test_an_interrupt_ends_by_that_signal_and_leaves_the_old_bundle_and_nothing_else(
    tiny_source, tiny_bundle, tmp_path, number, moment
):
    target = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    old = Bundle(target).digest
    running = Running("export", tiny_source, "-o", target, "--variants", "torchscript,onnx", "--force")
    sign = MOMENTS[moment]
    if sign is None:
        running.until(tmp_path / ".b.staging-*")
        time.sleep(0.7)  # in the child's import of torch
    else:
        running.until(tmp_path / sign if sign.startswith(".") else sign)
    assert running.end(number) == -number
    assert running.said.count("error[INTERRUPTED]") == 1
    assert "Traceback" not in running.said
    assert rest_of(tmp_path) == []
    assert Bundle(target).digest == old
    Bundle(target).check()


def test_an_interrupt_without_an_old_bundle_leaves_nothing_at_the_path(tiny_source, tmp_path):
    running = Running("export", tiny_source, "-o", tmp_path / "b", "--variants", "torchscript")
    running.until("reference: ")
    assert running.end(signal.SIGINT) == -signal.SIGINT
    assert not (tmp_path / "b").exists()
    assert rest_of(tmp_path) == []


def test_a_kill_leaves_no_child_and_the_next_run_cleans_up(cli, tiny_source, tiny_bundle, tmp_path):
    target = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    running = Running("export", tiny_source, "-o", target, "--variants", "torchscript", "--force")
    running.until("reference: ")
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    Bundle(target).check()
    assert len(rest_of(tmp_path)) == 1
    done = cli("export", tiny_source, "-o", target, "--variants", "torchscript", "--force")
    assert done.returncode == 0, done.stderr
    Bundle(target).check()
    assert rest_of(tmp_path) == []


def test_two_runs_at_once_on_one_target_give_one_whole_bundle_and_one_refusal(cli, tiny_source, tmp_path):
    target = tmp_path / "b"
    first = Running("export", tiny_source, "-o", target, "--variants", "torchscript")
    first.until(tmp_path / ".b.staging-*")
    second = cli("export", tiny_source, "-o", target, "--variants", "torchscript")
    assert (second.returncode, code_of(second)) == (6, "LOCKED")
    out = first.process.stdout.read()
    first._reader.join()
    assert first.process.wait() == 0, first.said
    first.process.stdout.close()
    first.process.stderr.close()
    assert "torchscript" in out
    Bundle(target).check()
    assert rest_of(tmp_path) == []


def test_nothing_is_left_in_the_temporary_directory(cli, tiny_source, tmp_path):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    done = cli("export", tiny_source, "-o", tmp_path / "b", "--variants", "onnx", TMPDIR=str(scratch))
    assert done.returncode == 0, done.stderr
    assert cli("verify", tmp_path / "b", TMPDIR=str(scratch)).returncode == 0
    assert [p.name for p in scratch.iterdir() if not p.name.startswith("torchinductor_")] == []
