import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from deploykit.benchmark.measure import measure
from deploykit.benchmark.plan import MS, Protocol, Subject
from deploykit.benchmark.series import Measured
from deploykit.benchmark.summary import rows
from deploykit.errors import DeploykitError, InternalError, RefusedError, UsageError, WorkError
from deploykit.isolation import Worker
from deploykit.progress import Silent
from deploykit.reference import save_arrays
from deploykit.session import CUDA, SessionSettings

FAST = Protocol(launches=3, blocks=2, block_ns=2 * MS, discard_ns=1, warm_up_ns=4 * MS, warm_up_limit_ns=40 * MS)


@dataclass
class Stage:
    """Everything that fakes share: who runs now, and what each did."""

    faults: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    workers: list = field(default_factory=list)
    log: list = field(default_factory=list)

    def open_worker(self, _subject):
        assert not [worker for worker in self.workers if worker.running], "another worker is not frozen"
        self.workers.append(FakeWorker(self))
        return self.workers[-1]


@dataclass
class FakeWorker:
    stage: Stage
    name: str = ""
    alive: bool = True
    running: bool = True  # a fresh process runs at once

    def call(self, step, *, timeout_s=0, **arguments):
        assert self.alive
        assert [worker for worker in self.stage.workers if worker.running] == [self]
        if step == "measure:open":
            self.name = Path(arguments["artifact"]).stem
        launch = sum(worker.name == self.name for worker in self.stage.workers) - 1
        self.stage.log.append((launch, step, self.name, arguments.get("batch")))
        fault = self.stage.faults.get((self.name, step, launch)) or self.stage.faults.get(
            (self.name, step, arguments.get("batch"), launch)
        )
        if isinstance(fault, WorkError) and fault.code in {"WORKER_CRASHED", "TIME_LIMIT"}:
            self.close()
        if fault is not None:
            raise fault
        return getattr(self, step.partition(":")[2])(**arguments)

    def open(self, settings, **_):
        told = {"provider": settings["provider"], "threads": settings["threads"], "pools": [{"num_threads": 2}]}
        return {"load_ms": 3.0, "first_call_ms": 1.0, **told, **self.stage.facts.get(self.name, {})}

    def check(self, case, answer):
        save_arrays({"b": np.ones(2, np.float32), "a": np.zeros(2, np.float32)}, Path(answer))
        return ["b", "a"]

    def warm_up(self, **_):
        return {"steady": True, "calls": 9, "ns": 9, "repeats": 1}

    def block(self, batch, **_):
        return {"ns": [1000 * batch, 1001 * batch, 1002 * batch], "repeats": 1, "phases": [[1, 2, 3]]}

    def memory(self):
        return {"peak_rss_bytes": 1 << 20}

    def pause(self):
        assert self.alive
        self.running = False

    def resume(self):
        assert self.alive
        self.running = True

    def close(self):
        self.alive = self.running = False


class Counting(Silent):
    def __init__(self):
        self.total, self.steps = 0, []

    def stage(self, title, total):
        self.total = total

    def step(self, text):
        self.steps.append(text)


def subject(name, batches=(1, 8), **more):
    feeds = {batch: Path(f"feeds-{batch}") for batch in batches}
    settings = more.pop("settings", SessionSettings(threads=2))
    return Subject(name, "toy", Path(f"{name}.bin"), settings, ("x",), ("y",), feeds, **more)


def crashed(code="WORKER_CRASHED"):
    return WorkError("measure", "it is gone", "nothing", code)


NAMES = ("a", "b", "c")


def test_every_subject_has_a_series_per_batch_and_launch():
    stage, progress = Stage(), Counting()
    found = measure([subject(name) for name in NAMES], FAST, stage.open_worker, progress)
    assert found.missing == ()
    wanted = {(name, batch, launch) for name in NAMES for batch in (1, 8) for launch in range(3)}
    assert {(one.subject, one.batch, one.launch) for one in found.series} == wanted
    assert len(found.series) == len(wanted)
    assert {len(one.blocks) for one in found.series} == {2}
    assert {one.peak_rss_bytes for one in found.series} == {1 << 20}
    assert found.series[0].phases.tolist() == [[1, 2, 3]] * 2
    assert len(stage.workers) == 9  # fresh ones in every launch
    assert not [worker for worker in stage.workers if worker.alive]
    assert len(progress.steps) == progress.total == 9


def test_blocks_take_turns():
    stage = Stage()
    measure([subject(name) for name in NAMES], FAST, stage.open_worker, Silent())
    blocks = [(batch, name) for launch, step, name, batch in stage.log if step == "measure:block" and launch == 0]
    assert [batch for batch, _ in blocks] == [1] * 6 + [8] * 6
    for start in range(0, 12, 3):
        assert {name for _, name in blocks[start : start + 3]} == set(NAMES)


@pytest.mark.parametrize("step", ["open", "warm_up", "block", "memory"])
@pytest.mark.parametrize("code", ["WORKER_CRASHED", "TIME_LIMIT"])
def test_a_dead_worker_is_one_subjects_loss(step, code):
    stage, progress = Stage({("b", f"measure:{step}", 1): crashed(code)}), Counting()
    subjects = [subject(name) for name in NAMES]
    found = measure(subjects, FAST, stage.open_worker, progress)
    (lost,) = found.missing
    assert (lost.subject, lost.batch, lost.launch, lost.code, lost.exit_code) == ("b", None, 1, code, 4)
    assert found.of("b", 1) == ()
    assert len(found.of("a", 1)) == len(found.of("c", 8)) == 3
    assert sum(worker.name == "b" for worker in stage.workers) == 2  # not tried again
    assert len(progress.steps) == progress.total
    table = {(row.name, row.batch): row for row in rows(subjects, found)}
    assert table["b", 1].verdict == table["b", 8].verdict == "not_measured"
    assert table["b", 1].reason == f"{code}: it is gone"


def test_a_batch_that_fails_leaves_the_others():
    stage = Stage({("b", "measure:warm_up", 8, 0): WorkError("x", "batch 8 does not fit", "none", "RUN_ERROR")})
    found = measure([subject(name) for name in NAMES], FAST, stage.open_worker, Silent())
    assert [(lost.subject, lost.batch) for lost in found.missing] == [("b", 8)]
    assert (len(found.of("b", 1)), len(found.of("b", 8)), len(found.of("a", 8))) == (3, 0, 3)


def test_a_fault_of_deploykit_itself_stays_with_its_subject():
    stage = Stage({("a", "measure:open", 0): InternalError("x", "oops", "report")})
    found = measure([subject("a"), subject("b")], FAST, stage.open_worker, Silent())
    assert [lost.exit_code for lost in found.missing] == [70]
    assert len(found.of("b", 1)) == 3


def test_another_provider_is_not_timed():
    stage = Stage(facts={"a": {"provider": "CPUExecutionProvider"}})
    found = measure([subject("a", settings=SessionSettings(CUDA))], FAST, stage.open_worker, Silent())
    assert [(lost.code, lost.exit_code) for lost in found.missing] == [("PROVIDER_FALLBACK", 1)]
    assert not [step for _, step, _, _ in stage.log if step != "measure:open"]


def test_another_number_of_threads_is_not_timed():
    stage = Stage(facts={"a": {"threads": 7}, "b": {"threads": None}})
    found = measure([subject("a"), subject("b")], FAST, stage.open_worker, Silent())
    assert [(lost.subject, lost.code) for lost in found.missing] == [("a", "THREADS_MISMATCH")]


def test_a_wrong_answer_is_not_timed():
    asked = []

    def judge(one, outputs):
        asked.append((one.name, list(outputs), outputs["b"].tolist()))
        return "y is off by 3" if one.name == "a" else ""

    stage = Stage()
    subjects = [subject(name, check_case=Path("case")) for name in ("a", "b")] + [subject("c")]
    found = measure(subjects, FAST, stage.open_worker, Silent(), judge)
    assert sorted(asked) == [("a", ["b", "a"], [1.0, 1.0]), ("b", ["b", "a"], [1.0, 1.0])]  # once each
    assert [(lost.subject, lost.code, lost.reason) for lost in found.missing] == [("a", "PARITY", "y is off by 3")]
    assert ("a", "measure:warm_up") not in {(name, step) for _, step, name, _ in stage.log}


@pytest.mark.parametrize("step", ["open", "warm_up", "block"])
def test_ctrl_c_ends_every_worker(step):
    stage = Stage({("b", f"measure:{step}", 1): KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        measure([subject(name) for name in NAMES], FAST, stage.open_worker, Silent())
    assert not [worker for worker in stage.workers if worker.alive]


def test_the_record_survives_a_file(tmp_path):
    stage = Stage({("b", "measure:block", 1): crashed()})
    found = measure([subject(name) for name in NAMES], FAST, stage.open_worker, Silent())
    found.save(tmp_path / "raw.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["raw.safetensors"]
    again = Measured.load(tmp_path / "raw.safetensors")
    assert again.missing == found.missing
    assert len(again.series) == len(found.series)
    for old, new in zip(found.series, again.series, strict=True):
        assert (new.subject, new.pools, new.steady, new.threads) == (old.subject, old.pools, old.steady, old.threads)
        assert [(b.ns.tolist(), b.repeats) for b in new.blocks] == [(b.ns.tolist(), b.repeats) for b in old.blocks]
        assert new.phases.tolist() == old.phases.tolist()


def test_an_empty_record_survives_a_file(tmp_path):
    Measured(()).save(tmp_path / "raw.safetensors")
    assert Measured.load(tmp_path / "raw.safetensors") == Measured(())


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("hello")
    save_arrays({"x": np.zeros(2)}, tmp_path / "plain")
    for name in ("text", "plain"):
        with pytest.raises(RefusedError):
            Measured.load(tmp_path / name)
    with pytest.raises(UsageError, match="no such file"):
        Measured.load(tmp_path / "missing")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(DeploykitError):
        Measured(()).save(tmp_path / ("x" * 300))
    assert list(tmp_path.iterdir()) == []


TOY = """
    import time
    import numpy as np

    class Session:
        def __init__(self, provider, threads, seconds):
            self.provider, self.threads, self.seconds = provider, threads, seconds
        def run(self, feeds):
            if self.seconds < 0:
                import os
                os.abort()
            until = time.perf_counter() + self.seconds
            while time.perf_counter() < until:
                pass
            return {"y": feeds["x"] * 2}
        def prepare(self, feeds):
            return lambda: self.run(feeds)
        def phases(self, feeds):
            return None

    class Runtime:
        stack, runs_code = "toy", False
        def unavailable(self):
            return None
        def providers(self):
            return ("CPUExecutionProvider",)
        def open(self, artifact, output_names, settings):
            return Session(settings.provider, settings.threads, float(artifact.read_text()))
"""


@pytest.fixture
def toy(tmp_path):
    """A runtime of another package, as its own installation would bring it."""
    site = tmp_path / "site"
    info = site / "toy-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[deploykit.runtimes]\ntoy = toy_runtime:Runtime\n")
    (site / "toy_runtime.py").write_text(textwrap.dedent(TOY))
    for batch in (1, 4):
        sets = {f"{index}/x": np.full((batch, 3), index, np.float32) for index in range(4)}
        save_arrays(sets, tmp_path / f"feeds-{batch}")
    save_arrays({"inputs/x": np.ones((2, 3), np.float32)}, tmp_path / "case")
    return tmp_path


def test_real_workers(toy):
    subjects = []
    for name, seconds in (("quick", 0.0), ("slow", 0.0005), ("dying", -1)):
        (toy / name).write_text(str(seconds))
        feeds = {batch: toy / f"feeds-{batch}" for batch in (1, 4)}
        settings = SessionSettings(threads=1)
        subjects.append(Subject(name, "toy", toy / name, settings, ("x",), ("y",), feeds, 3, toy / "case"))
    workers = []

    def open_worker(_subject):
        workers.append(Worker(environment={"PYTHONPATH": str(toy / "site")}))
        return workers[-1]

    def judge(one, outputs):
        return "" if outputs["y"].tolist() == [[2.0] * 3] * 2 else "wrong"

    found = measure(subjects, FAST, open_worker, Silent(), judge)
    assert not [worker for worker in workers if worker.alive]
    assert [(lost.subject, lost.code) for lost in found.missing] == [("dying", "WORKER_CRASHED")]
    assert "SIGABRT" in found.missing[0].reason
    slow, quick = found.of("slow", 1), found.of("quick", 1)
    assert len(slow) == len(quick) == 3
    assert all(one.repeats == 1 and one.median_ns >= 500_000 for one in slow)
    assert all(one.repeats > 1 and one.median_ns < 500_000 for one in quick)
    assert all((one.peak_rss_bytes or 1 << 30) > 1 << 20 and one.load_ms > 0 and one.threads == 1 for one in slow)
