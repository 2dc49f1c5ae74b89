"""`deploykit sweep` on this machine: real models, a crash, a hang; interrupted, killed, resumed; one table."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from filelock import FileLock
from onnx import TensorProto, helper, numpy_helper

from deploykit.pipeline import sweep as pipeline
from deploykit.pipeline.sweep import SweepRequest, sweep
from deploykit.progress import Silent
from deploykit.sweep_results import CellRow, Half

MODELS = """
import os, signal, time
import torch
from torch import nn

def _linear(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3)), torch.rand(2, 6)

def good(): return _linear(8)
def other(): return _linear(9)
def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def hang(): time.sleep(600)
"""

DEFAULTS = """
schema = 1
[defaults]
variants = ["onnx"]
bench = { quick = true, threads = 1 }
verify.self_check = false
"""


def entry(name, more=""):
    return f'[[model]]\nname = "{name}"\nsource = "python:models.py:{name}"\n{more}\n'


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    (folder / "models.py").write_text(MODELS)
    hang = entry("hang", "task.timeout_s = 8")
    (folder / "m.toml").write_text(DEFAULTS + entry("good") + entry("other") + entry("crash") + hang)
    (folder / "good.toml").write_text(DEFAULTS + entry("good"))
    return folder


@pytest.fixture(scope="module")
def swept(cli, given, tmp_path_factory):
    """Four cells, two of which cannot be carried out; parity only. Shared: tests only add to it."""
    folder = tmp_path_factory.mktemp("swept") / "out"
    words = ("--no-bench", "--jobs", "2", "--json", folder.parent / "out.json")
    done = cli("sweep", given / "m.toml", "-o", folder, *words)
    return folder, done


def records(folder):
    every = [json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))]
    return {record["model"]: record for record in every}


def test_a_crash_and_a_hang_are_their_cells_results(swept):
    folder, done = swept
    assert done.returncode == 4, done.stderr
    ends = {name: (one["prove"]["exit_code"], one["prove"]["code"]) for name, one in records(folder).items()}
    assert ends == {"good": (0, ""), "other": (0, ""), "crash": (4, "WORKER_CRASHED"), "hang": (4, "TIME_LIMIT")}
    assert "4/4" in done.stderr  # progress has an end
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {tuple(line[:5]) for line in lines if line[1:2] == ["default"]} == {
        ("good", "default", "onnx", "-", "pass"),
        ("other", "default", "onnx", "-", "pass"),
        ("crash", "default", "-", "-", "error"),
        ("hang", "default", "-", "-", "error"),
    }


def test_nothing_is_left_of_the_hanging_model(swept):
    left = [p.cmdline() for p in psutil.process_iter() if str(swept[0]) in " ".join(_words(p))]
    assert left == []


def _words(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_the_table_is_there_in_every_form(swept):
    folder, _ = swept
    document = json.loads((folder / "table.json").read_text())
    assert document == json.loads((folder.parent / "out.json").read_text())
    assert (document["exit_code"], document["ran"], document["reused"]) == (4, 4, 0)
    with (folder / "table.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    failed = [("crash", "error", "WORKER_CRASHED"), ("hang", "error", "TIME_LIMIT")]
    passed = [("good", "pass", ""), ("other", "pass", "")]
    assert [(row["model"], row["verdict"], row["code"]) for row in rows] == passed + failed
    assert int(rows[0]["file_bytes"]) == document["rows"][0]["file_bytes"] > 100
    page = (folder / "table.md").read_text()
    assert "| good | default | onnx | - | pass |" in page
    assert "TIME\\_LIMIT, what to do:" in page


def test_a_bundle_of_a_sweep_is_a_bundle(swept, cli):
    folder, _ = swept
    bundle = folder / records(folder)["good"]["bundle"]
    assert cli("verify", bundle).returncode == 0
    assert cli("report", bundle).returncode == 0


def test_again_does_what_is_left_only(swept, cli, given):
    folder, _ = swept
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    again = cli("sweep", given / "m.toml", "-o", folder, "--no-bench")
    assert again.returncode == 4
    assert "0 run now, 4 from earlier" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()} == before
    retried = cli("sweep", given / "m.toml", "-o", folder, "--no-bench", "--retry", "failed")
    assert "2 run now, 2 from earlier" in retried.stdout, retried.stderr


def test_a_proved_cell_is_only_measured_when_latency_is_wanted_later(swept, cli, given):
    folder, _ = swept
    before = records(folder)["good"]["prove"]
    done = cli("sweep", given / "good.toml", "-o", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    record = records(folder)["good"]
    assert record["prove"] == before
    rows = {row["variant"]: row for row in record["measure"]["rows"]}
    assert rows["onnx"]["median_ns"] > 0
    assert rows["onnx"]["ratio"] > 0
    assert (rows["eager"]["verdict"], rows["eager"]["ratio"]) == ("base", None)
    assert record["measure"]["alone"] is True
    assert "with its machine to itself" in done.stdout
    assert "3 records of other cells" in done.stdout


def test_a_lock_keeps_a_second_sweep_out(swept, cli, given):
    with FileLock(swept[0] / ".lock"):
        done = cli("sweep", given / "m.toml", "-o", swept[0])
    assert done.returncode == 6
    assert "error[LOCKED]" in done.stderr


@pytest.fixture
def started(given, tmp_path):
    """A sweep of a model that crashes and one that hangs, when the first one is done."""
    hang = entry("hang", "task.timeout_s = 500")
    (given / "started.toml").write_text(DEFAULTS + entry("crash") + hang)
    folder = tmp_path / "out"
    words = ["sweep", given / "started.toml", "-o", folder, "--no-bench", "-j", "2"]
    argv = [sys.executable, "-P", "-m", "deploykit", *map(str, words)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list((folder / "cells").glob("*.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("export" in _words(one) for one in family)
        yield process, folder, family
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_what_is_finished_stays_and_nothing_runs_on(started, cli, given, number):
    process, folder, family = started
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -number, said
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert records(folder).keys() == {"crash"}
    (given / "started.toml").write_text(DEFAULTS + entry("crash"))
    again = cli("sweep", given / "started.toml", "-o", folder, "--no-bench")
    assert again.returncode == 4, again.stderr
    assert "0 run now, 1 from earlier" in again.stdout


def test_ray_that_is_not_installed_is_said_before_anything_is_done(cli, given, tmp_path):
    done = cli("sweep", given / "m.toml", "-o", tmp_path / "out", "--engine", "ray")
    assert done.returncode == 4
    assert "error[PACKAGE_MISSING]" in done.stderr
    assert "deploykit[ray]" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["--engine", "slurm"], "UNKNOWN_PLUGIN", 2),
        (["--jobs", "0"], "USAGE", 2),
        (["--retry", "all"], "USAGE", 2),
    ],
)
def test_nonsense(cli, given, tmp_path, words, code, exit_code):
    done = cli("sweep", given / "m.toml", "-o", tmp_path / "out", *words)
    assert done.returncode == exit_code
    assert f"error[{code}]" in done.stderr
    assert not (tmp_path / "out").exists()


class Session:
    """An engine that answers at once: what is tried is what the pipeline does with answers."""

    def __init__(self, halves):
        self.halves, self.ran, self.places = halves, [], []

    def __call__(self, jobs, address):
        return self

    def unavailable(self):
        return None

    def opened(self, folder):
        return nullcontext(self)

    def run(self, jobs, heard):
        for job in jobs:
            self.ran.append((job.stage, job.label))
            self.places += [job.bundle, job.log]
            job.bundle.mkdir(parents=True, exist_ok=True)
            (job.bundle / "manifest.json").write_text("{}")
            heard(job, self.halves[job.stage])


PROVED = Half(0, rows=(CellRow("onnx", "pass"),))
MEASURED = Half(0, rows=(CellRow("onnx", "", batch=1, median_ns=1e3),), alone=True)
FAILED = Half(4, "RUN_ERROR", "why")


@pytest.fixture
def engine(monkeypatch):
    def answering(prove=PROVED, measure=MEASURED):
        session = Session({"prove": prove, "measure": measure})
        monkeypatch.setattr(pipeline.registry, "load", lambda kind, name: session if kind == "sweep" else None)
        return session

    return answering


@pytest.fixture
def one(given, tmp_path, monkeypatch):
    """A request for one cell; its recipe is checked before the engine is replaced."""
    read = pipeline.matrix.read(given / "good.toml")
    monkeypatch.setattr(pipeline.matrix, "read", lambda path: read)

    def request(**more):
        return SweepRequest(given / "good.toml", tmp_path / "out", **more)

    return request


def test_everything_is_proved_before_anything_is_measured(engine, one, given, monkeypatch):
    (first,) = pipeline.matrix.read(given / "good.toml")
    second = replace(first, setting="seeded", recipe=first.recipe.model_copy(update={"seed": 5}))
    monkeypatch.setattr(pipeline.matrix, "read", lambda path: (first, second))
    session = engine()
    found = sweep(one(), Silent())
    assert [stage for stage, _ in session.ran] == ["prove", "prove", "measure", "measure"]
    assert (found.exit_code, found.ran, found.reused) == (0, 2, 0)


def test_what_cannot_be_proved_is_not_measured(engine, one):
    session = engine(prove=FAILED)
    assert sweep(one(), Silent()).exit_code == 4
    assert [stage for stage, _ in session.ran] == ["prove"]


@pytest.mark.parametrize("retry", ["none", "failed"])
def test_a_failure_counts_as_done_until_it_is_to_be_retried(engine, one, retry):
    engine(prove=FAILED)
    sweep(one(), Silent())
    session = engine()
    sweep(one(retry=retry), Silent())
    assert bool(session.ran) == (retry == "failed")


def test_only_the_half_that_failed_is_retried(engine, one):
    engine(measure=FAILED)
    assert sweep(one(), Silent()).exit_code == 4
    session = engine()
    assert sweep(one(retry="failed"), Silent()).exit_code == 0
    assert [stage for stage, _ in session.ran] == ["measure"]


def test_a_relative_folder_means_the_callers_wherever_commands_run(engine, one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = engine()
    found = sweep(replace(one(), folder=Path("here")), Silent())
    assert all(place.is_relative_to(tmp_path / "here") for place in session.places)
    assert (tmp_path / "here" / found.cells[0].bundle / "manifest.json").exists()


def test_a_gate_that_said_no_is_no_failure_to_retry(engine, one):
    engine(prove=Half(1, "VALUE_MISMATCH", "why", rows=(CellRow("onnx", "fail", "VALUE_MISMATCH", "why"),)))
    assert sweep(one(), Silent()).exit_code == 1
    session = engine()
    assert sweep(one(retry="failed"), Silent()).exit_code == 1
    assert session.ran == []


def test_fresh_starts_over_and_leaves_what_is_not_ours(engine, one):
    engine()
    sweep(one(), Silent())
    (one().folder / "notes.txt").write_text("mine")
    session = engine()
    sweep(one(fresh=True), Silent())
    assert len(session.ran) == 2
    assert (one().folder / "notes.txt").read_text() == "mine"


def test_bundles_that_are_not_wanted_are_gone_after_they_were_measured(engine, one):
    session = engine()
    found = sweep(one(bundles=False), Silent())
    assert [stage for stage, _ in session.ran] == ["prove", "measure"]
    assert list((one().folder / "bundles").iterdir()) == []
    assert found.cells[0].bundle is None
    session = engine()
    assert sweep(one(bundles=False), Silent()).reused == 1
    assert session.ran == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', "nan", "\udcff"])
def test_a_record_that_cannot_be_read_is_made_again(engine, one, text):
    engine()
    sweep(one(), Silent())
    (record,) = (one().folder / "cells").iterdir()
    record.write_bytes(text.encode(errors="surrogateescape"))
    engine()
    found = sweep(one(), Silent())
    assert (found.ran, found.exit_code) == (1, 0)
    assert any("could not be read" in note for note in found.notes)


def test_a_folder_that_is_no_sweep_is_left_alone(engine, one):
    one().folder.mkdir()
    (one().folder / "thesis.txt").write_text("mine")
    engine()
    with pytest.raises(pipeline.UsageError) as caught:
        sweep(one(fresh=True), Silent())
    assert caught.value.code == "EXISTS"
    assert [path.name for path in one().folder.iterdir()] == ["thesis.txt"]


def test_a_full_disk_ends_the_sweep(engine, one, monkeypatch):
    engine()
    real = pipeline.write_text

    def full(path: Path, text: str) -> None:
        if path.parent.name == "cells":
            raise pipeline.from_os_error(OSError(28, "No space left on device"), str(path))
        real(path, text)

    monkeypatch.setattr(pipeline, "write_text", full)
    with pytest.raises(pipeline.StorageError) as caught:
        sweep(one(), Silent())
    assert caught.value.code == "DISK_FULL"
    monkeypatch.setattr(pipeline, "write_text", real)
    assert sweep(one(), Silent()).exit_code == 0  # and the lock is free


def test_what_a_key_covers(given, tmp_path):
    from deploykit.pipeline.sweep_jobs import plan

    def key(text="", models=MODELS, packages=None, more=None):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "models.py").write_text(models)
        (folder / "beside.py").write_text(more or "")
        (folder / "m.toml").write_text(text or DEFAULTS + entry("good"))
        (cell,) = pipeline.matrix.read(folder / "m.toml")
        return plan(cell, folder, packages or {"torch": "1"}).key

    same = key()
    files = DEFAULTS + entry("good", 'files = ["beside.py"]')
    assert key() == same  # another folder
    assert key(DEFAULTS + entry("good", "task.timeout_s = 5")) == same  # says nothing of the result
    others = [
        key(models=MODELS + "\n"),
        key(packages={"torch": "2"}),
        key(DEFAULTS + entry("good", "seed = 1")),
        key(DEFAULTS + entry("good", "task.cpus = 2")),
        key(DEFAULTS + entry("good", "bench.batch = 8")),
        key(files),
        key(files, more="x = 1"),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_settings_that_are_the_same_are_refused(engine, given, tmp_path):
    text = DEFAULTS + entry("good") + '[[setting]]\nname = "a"\n[[setting]]\nname = "b"\n'
    (given / "twice.toml").write_text(text)
    with pytest.raises(pipeline.UsageError) as caught:
        sweep(SweepRequest(given / "twice.toml", tmp_path / "out"), Silent())
    assert caught.value.code == "BAD_MATRIX"
    assert "is the same as good × a" in str(caught.value)


def test_a_file_of_that_name_is_no_mark_of_ours(engine, one):
    one().folder.mkdir()
    (one().folder / "sweep.json").write_text('{"runs": 12}')
    (one().folder / "logs").mkdir()
    engine()
    with pytest.raises(pipeline.UsageError) as caught:
        sweep(one(fresh=True), Silent())
    assert caught.value.code == "EXISTS"
    assert (one().folder / "sweep.json").read_text() == '{"runs": 12}'
    assert (one().folder / "logs").is_dir()


def test_a_cell_of_which_nothing_could_be_made_is_done_without_its_bundle(engine, one):
    engine(Half(4, "EXPORT_ERROR", "why", rows=(CellRow("onnx", "error"),)))
    assert sweep(one(bundles=False), Silent()).ran == 1
    assert sweep(one(bundles=False), Silent()).ran == 0


def test_weights_beside_an_onnx_file_are_part_of_its_cell(tmp_path):
    from deploykit.pipeline.sweep_jobs import plan

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])

    def planned(scale, folder):
        folder.mkdir(parents=True)
        weight = numpy_helper.from_array(np.full((4, 4), scale, np.float32), "w")
        graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [value], [out], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
        (tmp_path / "m.toml").write_text(f'schema = 1\n[[model]]\nname = "a"\nsource = "onnx:{folder}/net.onnx"\n')
        (cell,) = pipeline.matrix.read(tmp_path / "m.toml")
        return plan(cell, tmp_path, {"torch": "1"})

    first, second = planned(1.0, tmp_path / "inside"), planned(2.0, tmp_path / "other")
    assert [file.there for file in first.files] == ["inside/net.onnx", "inside/net.data"]
    assert first.files[0].sha256 == second.files[0].sha256  # the same graph
    assert first.files[1].sha256 != second.files[1].sha256
    outside = planned(1.0, tmp_path.parent / f"{tmp_path.name}-elsewhere")
    assert len({Path(file.there).parent for file in outside.files}) == 1


def test_another_transformers_is_another_cell(monkeypatch):
    from deploykit import environment
    from deploykit.pipeline.sweep_jobs import versions

    before = versions()
    monkeypatch.setattr(environment, "_version", lambda name: "0" if name == "transformers" else before.get(name))
    assert versions() == {**before, "transformers": "0"}
