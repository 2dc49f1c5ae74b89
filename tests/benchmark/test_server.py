import numpy as np
import pytest
from fixtures.queues import Machine, subject

from deploykit.benchmark import load
from deploykit.benchmark.launch import Setting
from deploykit.benchmark.load import Facts, Serving
from deploykit.benchmark.objective import Objective
from deploykit.benchmark.open_loop import Served
from deploykit.benchmark.plan import Protocol
from deploykit.benchmark.server import Ask, Server
from deploykit.errors import WorkError
from deploykit.progress import Silent
from deploykit.reference import save_arrays
from deploykit.session import CUDA, SessionSettings

MS = 1_000_000


class Counting(Silent):
    def __init__(self):
        self.total, self.steps = 0, []

    def stage(self, title, total):
        self.total = total

    def step(self, text):
        self.steps.append(text)


def server(machine, tmp_path, rate=500.0, objective=None, names=("a", "b"), limit_s=600.0, judge=None, **more):
    setting = Setting(Protocol(seed=3), machine.open_worker, judge, tmp_path)
    subjects = [subject(name, **more) for name in names]
    return Server(subjects, setting, Ask(rate, objective, limit_s), 1, Counting(), machine.clock.seconds)


def service(name, random, batch):
    return {"a": 0.2, "b": 1.0, "c": 3.0}[name] * MS


@pytest.mark.parametrize(
    ("objective", "verdicts"),
    [
        (None, ("measured", "measured", "missed")),
        (Objective("p99", 2 * MS), ("met", "missed", "missed")),
        (Objective("p50", 2 * MS), ("met", "met", "missed")),
    ],
)
def test_every_subject_at_the_same_rate(objective, verdicts, tmp_path):
    machine = Machine(service)
    run = server(machine, tmp_path, 500.0, objective, ("a", "b", "c"))
    found = run.run()
    assert tuple(one.verdict for one in found) == verdicts
    assert [one.name for one in found] == ["a", "b", "c"]
    assert [one.overloaded for one in found] == [False, False, True]
    assert "overloaded" in found[2].reason
    assert found[1].utilization == pytest.approx(0.5)
    assert all(one.ns for one in found[0].latency[:3])  # p99, too, whatever the objective is about
    assert found[1].mean_wait_ns == pytest.approx(found[1].md1_wait_ns, rel=0.15)
    assert found[2].md1_wait_ns is None
    assert found[2].mean_wait_ns is None
    assert {one.launches for one in found} == {7}
    assert {latency.ci_level for latency in found[0].latency[:3]} == {0.95}
    assert run.progress.total == len(run.progress.steps) == 21
    assert not [one for one in machine.workers if one.alive]
    assert {seed for _, _, _, seed, _ in machine.served} == {(3, launch) for launch in range(7)}


def test_launches_are_in_balanced_order(tmp_path):
    machine = Machine(service)
    server(machine, tmp_path, names=("a", "b")).run()
    names = [name for name, *_ in machine.served]
    pairs = [tuple(names[start : start + 2]) for start in range(0, 10, 2)]
    assert all(set(pair) == {"a", "b"} for pair in pairs)
    assert len(set(pairs)) == 2


def test_percentiles_are_refused_without_enough_requests(tmp_path):
    machine = Machine(service)
    (found,) = server(machine, tmp_path, 5.0, Objective("p99", 5 * MS), ("a",), limit_s=100).run()
    shown = {one.percentile: one for one in found.latency}
    assert found.calls < 1000
    assert shown["p50"].ns == pytest.approx(0.2 * MS)
    assert shown["p99"].ns is None
    assert "1,000 are needed" in shown["p99"].reason
    assert (found.verdict, found.reason) == ("inconclusive", shown["p99"].reason)
    assert machine.clock.seconds() < 130


def test_the_interval_holds_the_limit(tmp_path):
    machine = Machine(lambda name, random, batch: random.exponential(MS))
    run = server(machine, tmp_path, 100.0, None, ("a",))
    found = run.run()[0]
    p90 = next(one for one in found.latency if one.percentile == "p90")
    again = load.load_of(Facts("a", "x", 1, 1), 100.0, Objective("p90", p90.ns * 1.001), run.raw["a"])
    assert (again.verdict, again.reason) == ("inconclusive", "the interval of p90 holds the limit")


def test_a_worker_that_dies_is_one_subjects_loss(tmp_path):
    gone = WorkError("serve", "it is gone", "none", "WORKER_CRASHED")
    machine = Machine(service, faults={("b", "serving:serve", 2): gone})
    run = server(machine, tmp_path, 500.0)
    found = run.run()
    assert [one.verdict for one in found] == ["measured", "not_measured"]
    assert found[1].reason == "WORKER_CRASHED: it is gone"
    assert [(one.subject, one.launch, one.exit_code) for one in run.missing] == [("b", 2, 4)]
    assert run.progress.total == len(run.progress.steps) == 14
    assert sum(one.name == "b" for one in machine.workers) == 3


@pytest.mark.parametrize("rate", [500.0, None])
def test_another_provider_is_not_measured(rate, tmp_path):
    machine = Machine(service, facts={"a": {"provider": "CPUExecutionProvider"}})
    run = server(machine, tmp_path, rate, names=("a",), settings=SessionSettings(CUDA, 1))
    assert run.run()[0].verdict == "not_measured"
    assert [(one.code, one.exit_code) for one in run.missing] == [("PROVIDER_FALLBACK", 1)]
    assert machine.served == []
    assert run.progress.total == len(run.progress.steps)


def test_a_wrong_answer_is_not_measured(tmp_path, monkeypatch):
    machine = Machine(service)

    def check(self, case, answer):
        save_arrays({"y": np.zeros(1, np.float32)}, answer)
        return ["y"]

    monkeypatch.setattr("fixtures.queues.FakeServer.check", check, raising=False)
    asked = []

    def judge(one, outputs):
        asked.append(one.name)
        return "y is off" if one.name == "a" else ""

    run = server(machine, tmp_path, judge=judge, check_case=tmp_path / "case")
    found = run.run()
    assert [one.verdict for one in found] == ["not_measured", "measured"]
    assert sorted(asked) == ["a", "b"]  # once each
    assert [(one.code, one.exit_code) for one in run.missing] == [("PARITY", 1)]


def test_a_search_of_several_shares_the_time(tmp_path):
    machine = Machine(service)
    run = server(machine, tmp_path, None, names=("a", "b"), limit_s=120.0)
    found = run.run()
    assert [one.verdict for one in found] == ["met", "met"]
    assert found[0].rate_per_s == pytest.approx(5 * found[1].rate_per_s, rel=0.2)
    assert machine.clock.seconds() < 130
    assert set(run.raw) == {"a", "b"}
    assert run.progress.total == len(run.progress.steps) == 4


def serving(count, latency_ns, gap_ns=10 * MS, stopped=""):
    due = np.arange(count, dtype=np.int64) * gap_ns
    return Serving(Served(due, due, due + np.int64(latency_ns), stopped), MS)


def test_schedules_that_were_given_up_have_no_percentiles():
    launches = [serving(2000, MS)] * 4 + [serving(500, MS, stopped="time")]
    found = load.load_of(Facts("a", "x", 1, 1), 100.0, Objective("p99", 5 * MS), launches)
    assert found.verdict == "inconclusive"
    assert all(one.ns is None for one in found.latency)
    assert "1 of 5 launches did not serve all" in found.reason


@pytest.mark.parametrize(("full", "overloaded"), [(0, False), (1, False), (2, False), (3, True), (5, True)])
def test_full_queues_are_overload_when_at_least_half_say_so(full, overloaded):
    launches = [serving(2000, MS, stopped="queue")] * full + [serving(2000, MS)] * (5 - full)
    assert load.overloaded(100.0, launches) is overloaded


def test_calls_that_fill_the_time_are_overload_before_the_queue_shows_it():
    assert load.overloaded(1000.0, [serving(2000, MS, gap_ns=MS)])
    assert not load.overloaded(900.0, [serving(2000, MS, gap_ns=MS)])


def test_three_launches_say_what_they_are_not_sure_of():
    """Every request takes 1 ms in each of three launches: within 1.5 ms, but that is not far for 75 %."""
    launches = [serving(2000, MS)] * 3

    def verdict(limit_ms):
        found = load.load_of(Facts("a", "x", 1, 1), 100.0, Objective("p99", limit_ms * MS), launches)
        return found.verdict, found.reason

    assert verdict(2.0) == ("met", "")
    assert verdict(0.4) == ("missed", "")
    found, why = verdict(1.5)
    assert found == "inconclusive"
    assert why.startswith("the interval of p99 has 75% confidence only")
