"""Handing over: the gate first, a folder whole or not at all, versions beside each other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit import handed, registry
from deploykit.bundle import Bundle
from deploykit.errors import DeploykitError, RefusedError, UsageError
from deploykit.handoff.interface import Commands, Given, Tree
from deploykit.pipeline.handoff import HandoffRequest, handoff
from deploykit.progress import Silent
from deploykit.publish import publish, staging
from deploykit.session import CPU
from deploykit.tuned import TunedRecord
from tests.fixtures.oip_server import serving


@dataclass(frozen=True)
class Target:
    """Model files by version and a text; everything else is what every folder has."""

    runtimes: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    speaks: ClassVar[str] = "oip"
    stack: ClassVar[str] = ""
    summary: ClassVar[str] = "files"
    proof: ClassVar[str] = "Nothing was asked."

    def check(self, given: Given) -> None:
        if given.model == "forbidden":
            raise RefusedError(given.model, "cannot be served", "take another name", "TARGET_CANNOT_SERVE")

    def files(self, given: Given) -> Tree:
        tree: Tree = {"config.txt": "\n".join(f"{one.number} {one.settings.words}" for one in given.versions)}
        for one in given.versions:
            tree |= {f"models/{given.model}/{one.number}/{name}": path for name, path in one.files.items()}
        return tree

    def commands(self, given: Given) -> Commands:
        return Commands(("true",), "true", "http://127.0.0.1:${PORT:-8000}")


@pytest.fixture(autouse=True)
def _target(monkeypatch):
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Target if name == "files" else load(kind, name))


@pytest.fixture(scope="module")
def bundle(cli, tiny_source, tmp_path_factory):
    path = tmp_path_factory.mktemp("handed") / "tiny"
    done = cli("export", tiny_source, "-o", path, "--variants", "torchscript,onnx,onnx-int8-dynamic")
    assert done.returncode == 0, done.stderr
    return Bundle(path)


def request(bundle, output, **more):
    return HandoffRequest(bundle.path, "files", output, **more)


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_has_the_model_the_reference_the_record_and_the_commands(bundle, tmp_path):
    out = tmp_path / "out"
    report = handoff(request(bundle, out), Silent())
    assert (report.variant, report.verdict, report.exit_code) == ("onnx", "pass", 0)
    record = handed.load(out)
    assert (out / f"models/{record.model}/1/model.onnx").read_bytes() == bundle.file_of("onnx").read_bytes()
    assert set(record.files) == set(everything(out)) - {"handoff.json"}
    assert len(record.versions[0].cases) == report.cases > 10
    assert record.versions[0].bundle == bundle.digest
    text = (out / "README.md").read_text()
    assert "python check.py --url http://127.0.0.1:${PORT:-8000}" in text
    assert "passed the parity gate" in text


def test_the_same_bundle_gives_the_same_bytes(bundle, tmp_path):
    for name in ("a", "b"):
        handoff(request(bundle, tmp_path / name), Silent())
    assert everything(tmp_path / "a") == everything(tmp_path / "b")


def test_nothing_of_this_machine_is_in_it(bundle, tmp_path):
    handoff(request(bundle, tmp_path / "out"), Silent())
    for name, content in everything(tmp_path / "out").items():
        assert str(tmp_path).encode() not in content, name
        assert str(Path.home()).encode() not in content, name


def test_a_variant_that_does_not_pass_is_not_handed_over(bundle, tmp_path):
    broken = changed_weights(bundle, tmp_path)
    with pytest.raises(RefusedError) as raised:
        handoff(request(broken, tmp_path / "out"), Silent())
    assert raised.value.code == "NOT_VERIFIED"
    assert not (tmp_path / "out").exists()
    report = handoff(request(broken, tmp_path / "out", allow_unverified=True), Silent())
    assert report.verdict == "unverified"
    assert handed.load(tmp_path / "out").versions[0].verdict == "unverified"
    assert "was not verified" in (tmp_path / "out/README.md").read_text()


def changed_weights(bundle, folder):
    """The bundle with another weight in the ONNX file, and digests that fit."""
    return copied(bundle, folder, lambda stage: change(stage / "variants/onnx/model.onnx"))


def copied(bundle, folder, edit=lambda stage: None, **changes):
    """Another bundle like it, its files edited and its manifest changed."""
    target, left = folder / "copy", shutil.ignore_patterns("manifest.json", "reports")
    with staging(target, force=False) as stage:
        shutil.copytree(bundle.path, stage, dirs_exist_ok=True, ignore=left)
        edit(stage)
        return publish(stage, bundle.manifest.model_copy(update=changes), target)


def change(path):
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda one: int(np.prod(one.dims)))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.01), largest.name))
    onnx.save(model, path)


def test_settings_tuned_for_the_goal_go_with_it(bundle, tmp_path):
    record = bundle.manifest.variant("onnx")
    tuned = tuple(
        TunedRecord(goal=goal, provider=CPU, settings=words, batch=batch, cores=64)
        for goal, words, batch in (("latency", "threads=48,spinning=off", 1), ("throughput", "threads=3", 32))
    )
    variants = [one if one != record else one.model_copy(update={"tuned": tuned}) for one in bundle.manifest.variants]
    own = copied(bundle, tmp_path, variants=tuple(variants))
    found = handoff(request(own, tmp_path / "a"), Silent())
    assert found.settings == "threads=48,spinning=off", "another machine will serve: not cut to the cores here"
    assert (tmp_path / "a/config.txt").read_text() == "1 threads=48,spinning=off"
    found = handoff(request(own, tmp_path / "b", goal="throughput", session="spinning=off"), Silent())
    assert found.settings == "threads=3,spinning=off"
    assert handed.load(tmp_path / "b").versions[0].batch == 32
    assert handoff(request(own, tmp_path / "c", session="default"), Silent()).settings == ""


def test_a_second_version_joins_the_first(bundle, tmp_path):
    out = tmp_path / "out"
    handoff(request(bundle, out), Silent())
    before = everything(out)
    report = handoff(request(bundle, out, variant="onnx-int8-dynamic", version=2), Silent())
    assert report.versions == (1, 2)
    record = handed.load(out)
    assert [one.variant.name for one in record.versions] == ["onnx", "onnx-int8-dynamic"]
    after = everything(out)
    kept = {name for name in before if name.startswith(("models/", "reference/"))}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    limits = [record.versions[index].cases[0].limits["output"] for index in (0, 1)]
    assert limits[1] > 10 * limits[0], "each version is held to the budget of its own precision"


def test_a_version_that_is_there_is_replaced_only_when_asked(bundle, tmp_path):
    out = tmp_path / "out"
    handoff(request(bundle, out), Silent())
    before = everything(out)
    with pytest.raises(UsageError) as raised:
        handoff(request(bundle, out, variant="onnx-int8-dynamic"), Silent())
    assert raised.value.code == "EXISTS"
    assert everything(out) == before
    handoff(request(bundle, out, variant="onnx-int8-dynamic", force=True), Silent())
    assert [one.variant.name for one in handed.load(out).versions] == ["onnx-int8-dynamic"]


def test_somebody_elses_folder_is_left_alone(bundle, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(UsageError) as raised:
            handoff(request(bundle, out, force=force), Silent())
        assert raised.value.code == "EXISTS"
    assert (out / "precious.txt").read_text() == "mine"


def test_another_model_in_the_folder_is_not_mixed_with_this_one(bundle, tmp_path):
    out = tmp_path / "out"
    handoff(request(bundle, out, model="other"), Silent())
    with pytest.raises(UsageError) as raised:
        handoff(request(bundle, out, version=2), Silent())
    assert raised.value.code == "EXISTS"


def test_a_tampered_folder_gets_no_second_version(bundle, tmp_path):
    out = tmp_path / "out"
    handoff(request(bundle, out), Silent())
    change(next((out / "models").rglob("model.onnx")))
    with pytest.raises(RefusedError) as raised:
        handoff(request(bundle, out, version=2), Silent())
    assert raised.value.code == "TAMPERED"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"variant": "torchscript"}, "TARGET_CANNOT_SERVE"),
        ({"variant": "nonsense"}, "UNKNOWN_VARIANT"),
        ({"model": "forbidden"}, "TARGET_CANNOT_SERVE"),
        ({"session": "threads=0"}, "BAD_SETTING"),
        ({"model": "../x"}, "BAD_NAME"),
        ({"model": "a b"}, "BAD_NAME"),
        ({"model": "x" * 81}, "BAD_NAME"),
    ],
)
def test_what_cannot_be_handed_over_is_said_and_nothing_is_written(bundle, tmp_path, more, code):
    with pytest.raises(DeploykitError) as raised:
        handoff(request(bundle, tmp_path / "out", **more), Silent())
    assert raised.value.code == code
    assert not (tmp_path / "out").exists()


def test_an_unknown_target_is_named_with_the_known_ones(bundle, tmp_path):
    with pytest.raises(UsageError) as raised:
        handoff(replace(request(bundle, tmp_path / "out"), target="nonsense"), Silent())
    assert raised.value.code == "UNKNOWN_PLUGIN"


def test_an_interrupt_leaves_nothing(bundle, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Target, "files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        handoff(request(bundle, tmp_path / "out"), Silent())
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]


def checked(folder, *words):
    argv = [sys.executable, "-W", "error", folder / "check.py", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_the_check_that_travels_passes_on_the_served_model_and_fails_on_another(bundle, tmp_path):
    out = tmp_path / "out"
    handoff(request(bundle, out), Silent())
    name, signature = bundle.manifest.name, bundle.manifest.signature
    with serving(next((out / "models").rglob("model.onnx")), name, signature) as server:
        done = checked(out, "--url", server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all answers within their limits" in done.stdout
    assert "refused: HTTP 400" in done.stdout
    other = tmp_path / "other.onnx"
    shutil.copy(bundle.file_of("onnx"), other)
    change(other)
    with serving(other, name, signature) as server:
        done = checked(out, "--url", server.url)
    assert done.returncode == 1
    assert "FAIL" in done.stdout


@pytest.mark.parametrize("fault", ["rounds", "lax", "renames", "crashes"])
def test_the_check_that_travels_sees_what_is_wrong_with_a_server(bundle, tmp_path, fault):
    out = tmp_path / "out"
    handoff(request(bundle, out), Silent())
    with serving(bundle.file_of("onnx"), bundle.manifest.name, bundle.manifest.signature, fault) as server:
        assert checked(out, "--url", server.url).returncode == 1


def test_the_check_that_travels_notices_changed_files_and_a_silent_port(bundle, tmp_path):
    out = tmp_path / "out"
    handoff(request(bundle, out), Silent())
    assert checked(out, "--url", "http://127.0.0.1:9").returncode == 4
    assert checked(out, "--url", "127.0.0.1:9").returncode == 2
    assert checked(out, "--url", "http://127.0.0.1:9", "--version", "7").returncode == 2
    change(next((out / "models").rglob("model.onnx")))
    done = checked(out, "--url", "http://127.0.0.1:9")
    assert done.returncode == 5
    assert "model.onnx" in done.stderr


def test_a_record_that_is_not_one_is_refused(bundle, tmp_path):
    out = tmp_path / "out"
    handoff(request(bundle, out), Silent())
    record = json.loads((out / "handoff.json").read_text())
    for text in ("{", "[]", json.dumps({**record, "model": "../x"}), json.dumps({**record, "extra": 1})):
        (out / "handoff.json").write_text(text)
        with pytest.raises(RefusedError):
            handed.load(out)
