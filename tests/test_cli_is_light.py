"""Who imports what, watched from inside every process that a command starts: the parent never loads a model library."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import deploykit.pipeline
from deploykit.cli.app import COMMANDS

HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "sklearn", "scipy"}

WATCH = """
import json, os, sys
_heavy, _seen = {heavy!r}, set()
def _hook(event, arguments):
    if event == "import":
        top = arguments[0].partition(".")[0]
        if top in _heavy and top not in _seen:
            _seen.add(top)
            with open(os.path.join({folder!r}, str(os.getpid())), "a") as stream:
                stream.write(top + "\\n")
sys.addaudithook(_hook)
with open(os.path.join({folder!r}, str(os.getpid())), "a") as stream:
    stream.write(json.dumps(sys.orig_argv) + "\\n")
"""


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Runs Python and gives, per process it started, the command line and the heavy packages that were imported."""
    folder = tmp_path / "seen"
    folder.mkdir()
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(heavy=HEAVY, folder=str(folder)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(*arguments: object, code: int = 0) -> dict[int, tuple[list[str], set[str]]]:
        argv = [sys.executable, "-P", *map(str, arguments)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            said, _ = process.communicate(timeout=200)
        assert process.returncode == code, said
        found = {}
        for path in folder.iterdir():
            first, *names = path.read_text().splitlines()
            found[int(path.name)] = (json.loads(first), set(names))
            path.unlink()
        assert process.pid in found
        found[0] = found.pop(process.pid)
        return found

    return run


def parent(found) -> set[str]:
    return found[0][1]


def children(found) -> list[set[str]]:
    return [names for pid, (_, names) in found.items() if pid]


def test_the_watch_sees_an_import_in_a_process_and_in_its_child(watch):
    script = "import subprocess, sys, onnx; subprocess.run([sys.executable, '-c', 'import sklearn.utils'], check=True)"
    found = watch("-c", script)
    assert "onnx" in parent(found)
    assert "sklearn" not in parent(found)
    assert any("sklearn" in names and "onnx" not in names for names in children(found))


@pytest.mark.parametrize("command", [(), *[(name,) for name in COMMANDS]])
def test_help_starts_no_process_and_imports_nothing_heavy(watch, command):
    found = watch("-m", "deploykit", *command, "--help")
    assert parent(found) == set()
    assert children(found) == []


def test_help_does_not_even_import_numpy_or_pydantic(watch):
    script = "import sys; from deploykit.__main__ import _run; _run(['--help']); "
    script += "loaded = {n.partition('.')[0] for n in sys.modules}; "
    script += "sys.exit(bool(loaded & {'numpy', 'pydantic', 'rich', 'psutil', 'safetensors'}))"
    watch("-c", script)


MODULES = [f"deploykit.pipeline.{module.name}" for module in pkgutil.iter_modules(deploykit.pipeline.__path__)]


def test_every_join_is_found():
    assert {"export", "verify", "bench", "run", "train", "doctor"} <= {name.rsplit(".", 1)[1] for name in MODULES}


@pytest.mark.parametrize("module", [*MODULES, "deploykit", "deploykit.api", "deploykit.cli.options"])
def test_importing_a_join_imports_nothing_heavy(watch, module):
    found = watch("-c", f"import {module}")
    assert parent(found) - {"scipy"} == set()


def test_the_public_names_are_there_without_anything_heavy(watch):
    found = watch("-c", "import deploykit; [getattr(deploykit, name) for name in deploykit.__all__]")
    assert parent(found) - {"scipy"} == set()


def test_verify_of_an_onnx_variant_never_imports_torch_anywhere(watch, tiny_bundle):
    found = watch("-m", "deploykit", "verify", tiny_bundle, "--variants", "onnx")
    assert parent(found) & {"torch", "torchvision", "onnx", "onnxruntime"} == set()
    assert len(children(found)) == 1
    assert children(found)[0] & HEAVY <= {"onnxruntime", "onnx"}  # a small file is looked through for doubled weights


def test_verify_of_every_kind_keeps_the_parent_light_and_the_stacks_apart(watch, tiny_bundle):
    found = watch("-m", "deploykit", "verify", tiny_bundle)
    assert parent(found) & {"torch", "torchvision", "onnx", "onnxruntime"} == set()
    assert any("torch" in names for names in children(found))
    assert any("onnxruntime" in names for names in children(found))
    assert not any({"torch", "onnxruntime"} <= names for names in children(found))


def test_inspect_report_and_doctor_keep_the_parent_light(watch, tiny_bundle):
    artifact = next(Path(tiny_bundle, "variants/onnx").iterdir())
    for arguments in (("inspect", tiny_bundle), ("inspect", artifact), ("doctor",)):
        assert parent(watch("-m", "deploykit", *arguments)) == set()


def test_export_keeps_the_parent_light_and_opens_artifacts_where_they_were_not_made(watch, tiny_source, tmp_path):
    found = watch("-m", "deploykit", "export", tiny_source, "-o", tmp_path / "b", "--variants", "onnx")
    assert parent(found) == set()
    assert sorted("torch" in names for names in children(found) if names & {"torch", "onnxruntime"}) == [False, True]
