import gc
import time

import numpy as np
import pytest

from deploykit.benchmark.open_loop import poisson
from deploykit.errors import InternalError
from deploykit.reference import load_arrays, save_arrays
from deploykit.session import CPU
from deploykit.steps import measure, serving

MS = 1_000_000


class ToySession:
    provider, threads = CPU, 1

    def __init__(self, seconds=0.0):
        self.seconds, self.seen, self.collecting = seconds, [], set()

    def prepare(self, feeds):
        def call():
            self.seen.append(int(feeds["a"][0]))
            self.collecting.add(gc.isenabled())
            until = time.perf_counter() + self.seconds
            while time.perf_counter() < until:
                pass

        return call


@pytest.fixture
def opened(monkeypatch, tmp_path):
    def start(seconds=0.0):
        session = ToySession(seconds)
        monkeypatch.setattr(measure, "_opened", measure._Opened(session, ["a"]))
        save_arrays({f"{index}/a": np.full(2, index) for index in range(4)}, tmp_path / "feeds")
        measure.warm_up(2, str(tmp_path / "feeds"), MS, 20 * MS)
        session.seen.clear()
        session.collecting.clear()
        return session

    return start


def serve(tmp_path, rate=2000.0, calls=200, bounds=None):
    told = serving.serve(2, rate, calls, [3, 1], {"queue": 10**6, **(bounds or {})}, str(tmp_path / "answer"))
    return told, load_arrays(tmp_path / "answer")


def test_requests_begin_when_they_are_due_and_not_before(opened, tmp_path):
    session = opened()
    told, found = serve(tmp_path)
    assert told == {"stopped": ""}
    assert found["due"].tolist() == poisson(2000.0, 200, 3, 1).tolist()
    assert (found["begun"] >= found["due"]).all()
    assert (found["ended"] >= found["begun"]).all()
    assert (found["begun"][1:] >= found["ended"][:-1]).all()
    assert np.median(found["begun"] - found["due"]) < MS
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)}
    assert len(session.seen) == 200


def test_input_sets_take_turns_and_nothing_is_collected(opened, tmp_path):
    session = opened()
    serve(tmp_path)
    start = session.seen[0]
    assert session.seen == [(start + index) % 4 for index in range(200)]
    assert session.collecting == {False}
    assert gc.isenabled()


def test_overload_ends_it(opened, tmp_path):
    opened(0.002)
    told, found = serve(tmp_path, 5000.0, 5000, {"queue": 100})
    assert told == {"stopped": "queue"}
    waiting = (poisson(5000.0, 5000, 3, 1) <= found["ended"][-1]).sum() - len(found["due"])
    assert waiting > 100


def test_a_fault_turns_the_collector_on_again(opened, tmp_path):
    session = opened()
    session.prepare = None
    measure._opened.bound[2].calls = iter(())
    with pytest.raises(StopIteration):
        serve(tmp_path)
    assert gc.isenabled()


def test_a_batch_that_was_not_warmed_up_is_no_batch(opened, monkeypatch, tmp_path):
    opened()
    with pytest.raises(KeyError):
        serving.serve(3, 1.0, 1, [1], {"queue": 1}, str(tmp_path / "answer"))
    monkeypatch.setattr(measure, "_opened", None)
    with pytest.raises(InternalError):
        serving.serve(2, 1.0, 1, [1], {"queue": 1}, str(tmp_path / "answer"))
