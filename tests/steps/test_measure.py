import gc
import json
import time

import numpy as np
import pytest

from deploykit import registry
from deploykit.errors import InternalError
from deploykit.reference import load_arrays, save_arrays
from deploykit.session import CPU, Phases
from deploykit.steps import measure

MS = 1_000_000


class ToySession:
    provider, threads = CPU, 2

    def __init__(self, seconds=0.0, phases=None):
        self.seconds, self.answer, self.seen, self.collecting = seconds, phases, [], set()

    def run(self, feeds):
        return {"sum": feeds["b"] + feeds["a"], "a": feeds["a"]}

    def prepare(self, feeds):
        def call():
            self.seen.append(int(feeds["a"][0]))
            self.collecting.add(gc.isenabled())
            until = time.perf_counter() + self.seconds
            while time.perf_counter() < until:
                pass

        return call

    def phases(self, feeds):
        return self.answer


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Open a toy session in this process; what was open before is put back."""
    monkeypatch.setattr(measure, "_opened", None)
    sets = {f"{index}/{name}": np.full(3, index, np.float32) for index in range(11) for name in ("a", "b")}
    save_arrays(sets, tmp_path / "feeds")

    def run(session):
        class Runtime:
            def open(self, artifact, output_names, settings):
                assert (artifact.name, output_names, settings.threads) == ("m.bin", ("y",), 2)
                return session

        monkeypatch.setattr(registry, "load", lambda kind, name: {("runtimes", "toy"): Runtime}[kind, name])
        more = {"input_names": ["b", "a"], "output_names": ["y"], "settings": {"threads": 2}}
        return measure.open(runtime="toy", artifact="somewhere/m.bin", feeds=str(tmp_path / "feeds"), **more)

    run.feeds = str(tmp_path / "feeds")
    return run


def test_open_reads_back_and_makes_the_first_call(start):
    session = ToySession(seconds=0.002)
    told = start(session)
    assert session.seen == [0]
    assert (told["provider"], told["threads"]) == (CPU, 2)
    assert told["first_call_ms"] >= 2
    assert 0 <= told["load_ms"] < 1000
    assert all(set(pool) == {"user_api", "internal_api", "num_threads"} for pool in told["pools"])
    json.dumps(told, allow_nan=False)


def test_steps_before_open_are_a_bug(monkeypatch):
    monkeypatch.setattr(measure, "_opened", None)
    with pytest.raises(InternalError):
        measure.check("case", "answer")


def test_check_answers_the_case_in_order(start, tmp_path):
    start(ToySession())
    save_arrays({"inputs/a": np.ones(2), "inputs/b": np.ones(2), "expected/sum": np.ones(2)}, tmp_path / "case")
    assert measure.check(str(tmp_path / "case"), str(tmp_path / "answer")) == ["sum", "a"]
    assert load_arrays(tmp_path / "answer")["sum"].tolist() == [2.0, 2.0]


def test_input_sets_keep_call_order_and_rotate(start):
    session = ToySession(seconds=0.0002)
    start(session)
    session.seen.clear()
    measure.warm_up(1, start.feeds, 50 * MS, 1000 * MS)
    assert session.seen[:23] == [*range(11), *range(11), 0]  # by number, not by text
    assert list(measure._current().bound[1].sets[0]) == ["b", "a"]


def test_warm_up_settles(start):
    start(ToySession(seconds=0.0005))
    told = measure.warm_up(1, start.feeds, 20 * MS, 2000 * MS)
    assert told["steady"]
    assert told["calls"] >= 5
    assert 20 * MS <= told["ns"] < 2000 * MS
    assert told["repeats"] == 1


def test_warm_up_gives_up(start):
    session = ToySession()
    start(session)
    scale = iter(range(1, 10_000))

    def prepare(feeds):
        return lambda: time.sleep(0.0005 * next(scale))  # slower with every call

    session.prepare = prepare
    told = measure.warm_up(1, start.feeds, 10 * MS, 100 * MS)
    assert not told["steady"]
    assert told["ns"] >= 100 * MS


def test_short_calls_share_a_reading(start):
    session = ToySession()
    start(session)
    told = measure.warm_up(1, start.feeds, 5 * MS, 100 * MS)
    assert told["repeats"] > 1
    session.seen.clear()
    found = measure.block(1, min_ns=5 * MS, limit_ns=100 * MS, min_calls=5, discard_ns=1)
    assert found["repeats"] == told["repeats"]
    assert len(session.seen) >= len(found["ns"]) * told["repeats"]
    assert sum(found["ns"]) >= 4 * MS


def test_long_calls_are_read_one_by_one_without_garbage_collection(start):
    session = ToySession(seconds=0.001)
    start(session)
    measure.warm_up(1, start.feeds, 4 * MS, 100 * MS)
    session.seen.clear()
    session.collecting.clear()
    assert gc.isenabled()
    found = measure.block(1, min_ns=1, limit_ns=1000 * MS, min_calls=5, discard_ns=1)
    assert gc.isenabled()
    assert session.collecting == {False}
    assert len(found["ns"]) == 5
    assert len(session.seen) == 6  # one call after the switch is not recorded
    assert min(found["ns"]) >= MS
    assert found["phases"] == []


def test_a_block_ends_at_its_limit(start):
    start(ToySession(seconds=0.002))
    measure.warm_up(1, start.feeds, MS, 10 * MS)
    assert len(measure.block(1, min_ns=100 * MS, limit_ns=3 * MS, min_calls=50, discard_ns=1)["ns"]) <= 2


def test_garbage_collection_comes_back_after_a_failure(start):
    session = ToySession()
    start(session)
    measure.warm_up(1, start.feeds, MS, 10 * MS)

    def fail():
        raise RuntimeError("kernel")

    measure._current().bound[1].calls = iter([fail])
    with pytest.raises(RuntimeError, match="kernel"):
        measure.block(1, min_ns=1, limit_ns=MS, min_calls=1, discard_ns=1)
    assert gc.isenabled()


def test_phases_are_collected_where_there_are_any(start):
    start(ToySession(phases=Phases(1, 2, 3)))
    measure.warm_up(1, start.feeds, MS, 10 * MS)
    found = measure.block(1, min_ns=1, limit_ns=MS, min_calls=1, discard_ns=1)
    assert found["phases"] == [[1, 2, 3]] * measure.PHASE_CALLS


def test_memory_is_this_process(monkeypatch):
    peak = measure.memory()["peak_rss_bytes"]
    assert peak is None or 1 << 20 < peak < 1 << 40
    monkeypatch.setattr(measure, "Path", lambda name: __import__("pathlib").Path("does-not-exist"))
    assert measure.memory() == {"peak_rss_bytes": None}
