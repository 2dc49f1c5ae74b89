"""`bench --tune`: the whole way on a real bundle; where times must be known, measuring alone is made up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploykit.benchmark.series import Block, Measured, Missing, Series
from deploykit.bundle import MANIFEST, Bundle
from deploykit.environment import usable_cores
from deploykit.errors import StorageError, UsageError
from deploykit.pipeline import judging, rating, tune
from deploykit.pipeline.bench import BenchRequest, bench
from deploykit.pipeline.measuring import prepared
from deploykit.pipeline.verify import VerifyRequest, verify
from deploykit.progress import Silent
from deploykit.publish import made_here
from deploykit.report import text
from deploykit.report.inspect import render_manifest
from deploykit.session import CPU, CUDA, SessionSettings
from deploykit.tuned import TunedRecord

CORES = usable_cores()


@pytest.fixture
def tiny(tiny_bundle, tmp_path) -> Path:
    shutil.copytree(tiny_bundle, tmp_path / "tiny", ignore=shutil.ignore_patterns("reports"))
    return tmp_path / "tiny"


@pytest.fixture(scope="module")
def verified(tiny_bundle):
    return verify(VerifyRequest(tiny_bundle, ("onnx",)), Silent())


class Surface:
    """Stands in for `measure`: a cost for every subject, 100 µs unless `costs` names words in its name."""

    def __init__(self, costs=(), peaks=(), lost=()):
        self.costs, self.peaks, self.lost = dict(costs), dict(peaks), dict(lost)
        self.random, self.asked = np.random.default_rng(3), []

    def __call__(self, subjects, protocol, open_worker, progress, judge=None, enough=None):
        protocol = protocol if enough is None else replace(protocol, launches=protocol.max_launches)
        self.asked.append((tuple(subject.name for subject in subjects), protocol))
        progress.stage("made up", len(subjects) * protocol.launches)
        series, missing = [], []
        for subject in subjects:
            (batch,) = subject.feeds
            if reason := next((self.lost[word] for word in self.lost if word in subject.name), ""):
                missing.append(Missing(subject.name, None, 0, "PARITY", reason, 1))
                continue
            for launch in range(protocol.launches):
                ns = self.of(self.costs, subject.name, 100_000) * batch**0.5 * self.random.normal(1, 0.002)
                peak = int(self.of(self.peaks, subject.name, 100 << 20))
                blocks = (Block(np.full(20, int(ns), np.int64), 1),)
                series.append(
                    Series(subject.name, batch, launch, blocks, 1.0, 1.0, peak, True, CPU, subject.settings.threads)
                )
        return Measured(tuple(series), tuple(missing))

    @staticmethod
    def of(table, name, cost):
        for word, factor in table.items():
            cost *= factor if word in name else 1
        return cost


def tuned(monkeypatch, path, verified, surface, goal="latency", **more):
    monkeypatch.setattr(rating, "measure", surface)
    request = BenchRequest(path, ("onnx",), tune=goal, **more)
    return bench(request, Silent(), verified)


def record(path, name="onnx"):
    return Bundle(path).manifest.variant(name).tuned


def test_what_wins_is_written_and_used_from_then_on(tiny, verified, monkeypatch):
    assert made_here(Bundle(tiny))
    report = tuned(monkeypatch, tiny, verified, Surface({"binding=on": 0.8, "spinning=off": 1.2}))
    (found,) = report.tuned
    assert (found.variant, found.goal, found.chosen, found.said) == (
        "onnx", "latency", "binding=on", "faster than the default",
    )  # fmt: skip
    assert found.ci[0] <= found.ratio <= found.ci[1] < 0.85
    assert report.exit_code == 0
    (kept,) = record(tiny)
    assert (kept.goal, kept.provider, kept.settings, kept.batch, kept.cores) == ("latency", CPU, "binding=on", 1, CORES)
    assert (kept.ratio, kept.low, kept.high) == (found.ratio, *found.ci)
    assert kept.engine.startswith("onnxruntime ")
    Bundle(tiny).check()
    assert made_here(Bundle(tiny))
    stored = json.loads((tiny / "reports/tune.json").read_text())
    assert stored["tuned"][0]["chosen"] == "binding=on"
    assert [row["name"] for row in stored["variants"]] == ["onnx", "onnx@binding=on"]
    shown = text.render_bench(report)
    assert "binding=on: faster than the default, 0.80× its time [" in shown
    assert "for latency: binding=on, 0.80× the default's time [" in render_manifest(Bundle(tiny))


def test_when_nothing_is_better_the_default_stays_and_nothing_is_written(tiny, verified, monkeypatch):
    before = (tiny / MANIFEST).read_bytes()
    report = tuned(monkeypatch, tiny, verified, Surface())
    assert (report.exit_code, report.tuned[0].chosen) == (0, "")
    assert report.tuned[0].said.startswith("the default stays")
    assert (tiny / MANIFEST).read_bytes() == before


class Ears(Silent):
    """Remembers what it was told of the search."""

    def __init__(self):
        self.stages, self.reached, self.notes = [], [], []

    def stage(self, title, total):
        self.stages.append((title, total))

    def reach(self, done):
        self.reached.append(done)

    def note(self, text):
        self.notes.append(text)


def test_progress_is_one_stage_that_knows_its_end(tiny, verified, monkeypatch):
    class Telling(Surface):
        def __call__(self, subjects, protocol, open_worker, progress, judge=None, enough=None):
            progress.note("intervals wider than they should be")
            for subject in subjects:
                progress.step(f"{subject.name}, launch 1 of 2")
            return super().__call__(subjects, protocol, open_worker, progress, judge, enough)

    monkeypatch.setattr(rating, "measure", Telling({"binding=on": 0.8}))
    ears = Ears()
    bench(BenchRequest(tiny, ("onnx",), tune="latency", seconds=90.0), ears, verified)
    assert [stage for stage in ears.stages if "tune" in stage[0]] == [("tune, seconds", 90)]
    assert ears.stages[-1] == ("tune, seconds", 90)
    assert ears.reached
    assert ears.reached == sorted(ears.reached)
    assert ears.reached[-1] <= 90
    assert any(note.startswith("tune onnx, 0 of 90 s: onnx, launch 1 of 2") for note in ears.notes)
    assert any(note.startswith("tune onnx, the last comparison, ") for note in ears.notes)
    assert not any("intervals" in note for note in ears.notes)


def test_the_last_comparison_fits_into_what_is_left(tiny, verified, monkeypatch):
    """What its first launches took tells how many there will be, not a guess."""
    surface, limits = Surface({"binding=on": 0.8}), []

    def watch(subjects, protocol, open_worker, progress, judge=None, enough=None):
        if enough is not None:
            limits.append((protocol.launches, protocol.more, protocol.max_launches, protocol.limit_s))
            assert not enough(None)
        return surface(subjects, protocol, open_worker, progress, judge, enough)

    tuned(monkeypatch, tiny, verified, watch, seconds=50.0)
    ((first, more, most, limit_s),) = limits
    assert (first, more, most) == (2, 8, 10)
    assert 0 < limit_s < 50


def test_goals_have_records_of_their_own_and_a_default_that_stays_removes_its_own(tiny, verified, monkeypatch):
    tuned(monkeypatch, tiny, verified, Surface({"binding=on": 0.8}))
    surface = Surface({"arena=off": 1.05}, {"arena=off": 0.7})
    report = tuned(monkeypatch, tiny, verified, surface, "memory")
    (found,) = report.tuned
    assert found.said == "smaller than the default"
    assert found.time_ratio == pytest.approx(1.05, rel=0.01)
    assert "0.70× its peak memory [" in text.render_bench(report)
    assert {one.goal: one.settings for one in record(tiny)} == {"latency": "binding=on", "memory": "arena=off"}
    tuned(monkeypatch, tiny, verified, Surface())
    assert {one.goal: one.settings for one in record(tiny)} == {"memory": "arena=off"}


def test_throughput_finds_a_batch_too(tiny, verified, monkeypatch):
    report = tuned(monkeypatch, tiny, verified, Surface({"graph_level=basic": 0.7}), "throughput", seconds=3600.0)
    (found,) = report.tuned
    assert found.chosen == "graph_level=basic"
    assert found.batch > 1
    assert {one.batch for one in found.tried if one.settings == "default"} >= {2, 4, 8}
    assert record(tiny)[0].batch == found.batch
    assert f"at batch {found.batch}" in text.render_bench(report)


def test_what_fails_parity_is_out_and_named(tiny, verified, monkeypatch):
    surface = Surface({"graph_level=basic": 0.5, "binding=on": 0.8}, lost={"graph_level=basic": "y is off"})
    report = tuned(monkeypatch, tiny, verified, surface)
    assert report.tuned[0].chosen == "binding=on"
    assert report.exit_code == 0
    assert "out: graph_level=basic: PARITY: y is off" in text.render_bench(report)


def test_a_default_that_cannot_be_measured_is_the_commands_failure(tiny, verified, monkeypatch):
    report = tuned(monkeypatch, tiny, verified, Surface(lost={"onnx": "y is off"}))
    assert (report.exit_code, report.tuned[0].said) == (1, "the default settings: PARITY: y is off")
    assert record(tiny) == ()


def test_what_won_must_pass_the_whole_gate(tiny, verified, monkeypatch):
    """The search asks one case; settings that are wrong on another one must not be shipped."""
    real = judging.Gate._asked

    def crooked(self, record, artifact, pool, folder, cases, settings, feed):
        answers = real(self, record, artifact, pool, folder, cases, settings, feed)
        if settings.binding:
            for case in cases[1:]:
                (folder / f"{case.id}.safetensors").write_bytes((folder / f"{cases[0].id}.safetensors").read_bytes())
        return answers

    monkeypatch.setattr(judging.Gate, "_asked", crooked)
    report = tuned(monkeypatch, tiny, verified, Surface({"binding=on": 0.5}))
    assert report.tuned[0].chosen == ""
    assert report.tuned[0].said.startswith("the default stays: binding=on does not pass verify: ")
    assert record(tiny) == ()


def test_never_more_threads_than_cores_and_every_run_holds_the_default(tiny, verified, monkeypatch):
    surface = Surface()
    monkeypatch.setattr(tune, "usable_cores", lambda: 4)
    monkeypatch.setattr("deploykit.pipeline.measuring.usable_cores", lambda: 4)
    tuned(monkeypatch, tiny, verified, surface)
    names = {name for asked, _ in surface.asked for name in asked}
    assert {name for name in names if "threads" in name} == {"onnx@threads=1", "onnx@threads=2"}
    assert all("onnx" in asked for asked, _ in surface.asked)


# what is stored is what is opened


def put(path, *records):
    """Write records without measuring."""
    bundle = Bundle(path)
    variants = [
        one.model_copy(update={"tuned": records if one.name == "onnx" else ()}) for one in bundle.manifest.variants
    ]
    (path / MANIFEST).write_text(bundle.manifest.model_copy(update={"variants": tuple(variants)}).to_json())


FOUND = TunedRecord(
    goal="latency", provider=CPU, settings="threads=1,graph_level=basic,binding=on", batch=1, cpu="A toy", cores=64
)  # fmt: skip


@pytest.mark.parametrize(
    ("more", "settings"),
    [
        ({}, SessionSettings(threads=1, graph_level="basic", binding=True)),
        ({"session": "default"}, SessionSettings(threads=CORES)),
        ({"session": "graph_level=all"}, SessionSettings(threads=1, binding=True)),
        ({"session": "default,arena=off"}, SessionSettings(threads=CORES, arena=False)),
        ({"threads": 2}, SessionSettings(threads=2, graph_level="basic", binding=True)),
        ({"threads": 2, "session": "threads=1"}, SessionSettings(threads=1, graph_level="basic", binding=True)),
        ({"provider": CUDA}, SessionSettings(CUDA, threads=CORES)),
    ],
)
def test_bench_opens_with_what_was_tuned_and_words_go_on_top(tiny, more, settings):
    put(tiny, FOUND, FOUND.model_copy(update={"goal": "memory", "settings": "arena=off"}))
    assert BenchRequest(tiny, **more).settings_for(Bundle(tiny).manifest.variant("onnx")) == settings
    assert BenchRequest(tiny, **more).settings_for(Bundle(tiny).manifest.variant("torchscript")).graph_level == "all"


def test_more_threads_than_there_are_cores_are_cut(tiny):
    put(tiny, FOUND.model_copy(update={"settings": "threads=999"}))
    assert BenchRequest(tiny).settings_for(Bundle(tiny).manifest.variant("onnx")).threads == CORES


def test_verify_proves_what_is_shipped(tiny, monkeypatch):
    put(tiny, FOUND)
    seen = []
    real = judging.Gate._asked

    def watch(self, record, artifact, pool, folder, cases, settings, feed):
        seen.append((record.name, settings))
        return real(self, record, artifact, pool, folder, cases, settings, feed)

    monkeypatch.setattr(judging.Gate, "_asked", watch)
    assert verify(VerifyRequest(tiny, ("onnx",)), Silent()).exit_code == 0
    assert set(seen) == {("onnx", SessionSettings(threads=1, graph_level="basic", binding=True))}


@pytest.mark.parametrize("session", ["", "default"])
def test_the_table_says_what_it_opened_with(tiny, verified, session):
    put(tiny, FOUND)
    with prepared(BenchRequest(tiny, ("onnx",), session=session), Silent(), verified) as ground:
        said = ground.tuned
        (subject,) = [one for one in ground.subjects.every(ground.verdicts) if one.name == "onnx"]
    assert subject.settings.binding is (not session)
    if session:
        assert said == {}
    else:
        assert said["onnx"].startswith(
            "threads=1,graph_level=basic,binding=on, tuned for latency (tuned on A toy with 64"
        )


# refusals, before anything is done


@pytest.mark.parametrize(
    "more",
    [{"tune": "beauty"}, {"threads": 1}, {"session": "threads=1"}, {"quick": True}, {"against": "onnx"},
     {"profile": True}, {"batches": (1, 64)},
     {"seconds": 0.0}, {"seconds": -1.0}, {"seconds": float("nan")}, {"seconds": float("inf")}],
    ids=str,
)  # fmt: skip
def test_what_contradicts_a_search_is_refused(tmp_path, more):
    with pytest.raises(UsageError):
        bench(BenchRequest(tmp_path / "none", **{"tune": "latency", **more}), Silent())


def test_a_bundle_that_another_run_works_on_is_refused_before_the_work(tiny, verified, monkeypatch):
    surface = Surface()
    with tune.amending(Bundle(tiny)), pytest.raises(StorageError) as caught:
        tuned(monkeypatch, tiny, verified, surface)
    assert (caught.value.code, surface.asked) == ("LOCKED", [])


def test_a_read_only_place_is_said_before_the_work(tiny, verified, monkeypatch):
    surface = Surface()

    def refuse(folder):
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr("deploykit.publish.make_folder", refuse)
    with pytest.raises(StorageError) as caught:
        tuned(monkeypatch, tiny, verified, surface)
    assert (caught.value.code, caught.value.exit_code, surface.asked) == ("READ_ONLY", 6, [])


@pytest.mark.parametrize("ending", [KeyboardInterrupt, RuntimeError])
def test_whatever_ends_it_early_leaves_the_old_manifest(tiny, verified, monkeypatch, ending):
    put(tiny, FOUND)
    before = (tiny / MANIFEST).read_bytes()

    class Ending(Surface):
        def __call__(self, *arguments):
            if len(self.asked) == 3:
                raise ending
            return super().__call__(*arguments)

    with pytest.raises(ending):
        tuned(monkeypatch, tiny, verified, Ending({"binding=on": 0.5}))
    assert (tiny / MANIFEST).read_bytes() == before
    assert [path.name for path in tiny.parent.iterdir() if ".staging" in path.name or ".partial" in path.name] == []
    Bundle(tiny).check()


# for real


def test_end_to_end(tiny, cli):
    done = cli("bench", tiny, "--tune", "--seconds", 20, "--variants", "onnx", "--json", tiny.parent / "t.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tiny.parent / "t.json").read_text())
    (found,) = report["tuned"]
    assert (found["goal"], found["variant"]) == ("latency", "onnx")
    assert found["seconds"] < 45  # the limit is for what is begun; this machine has other work, too
    assert found["tried"], found
    assert found["said"].startswith("the default stays") == (found["chosen"] == "")
    assert [one.settings for one in record(tiny)] == ([found["chosen"]] if found["chosen"] else [])
    shown = cli("inspect", tiny)
    assert ("for latency:" in shown.stdout) == bool(found["chosen"])
    assert cli("verify", tiny, "--variants", "onnx").returncode == 0


def test_trust_is_not_given(tiny, cli, tmp_path):
    put(tiny, FOUND)  # by hand: no longer the bundle that was made here
    assert not made_here(Bundle(tiny))
    arguments = ("bench", tiny, "--tune", "memory", "--seconds", 6, "--variants", "torchscript", "-q")
    done = cli(*arguments)
    assert done.returncode == 2, done.stderr  # TorchScript of a stranger is not run: nothing is left to tune
    assert "NOTHING_TO_MEASURE" in done.stderr
    assert not made_here(Bundle(tiny))


def test_ctrl_c_leaves_the_old_manifest(tiny):
    before = (tiny / MANIFEST).read_bytes()
    argv = [sys.executable, "-P", "-m", "deploykit", "bench", tiny, "--tune", "--variants", "onnx", "--seconds", "120"]
    process = subprocess.Popen(
        argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    for line in process.stderr:
        if "tune onnx" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert (tiny / MANIFEST).read_bytes() == before
    Bundle(tiny).check()
    with tune.amending(Bundle(tiny)):
        pass


def test_nonsense_on_the_command_line(tiny, cli):
    for arguments in (
        ("--tune", "beauty"),
        ("--tune", "--seconds", 0),
        ("--tune", "--quick"),
        ("--tune", "--threads", 2),
    ):
        done = cli("bench", tiny, *arguments)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
