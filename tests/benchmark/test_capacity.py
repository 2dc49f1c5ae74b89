import math

import numpy as np
import pytest
from fixtures.queues import Machine, subject

from deploykit.benchmark import capacity, load
from deploykit.benchmark.hunt import Hunt
from deploykit.benchmark.launch import Setting
from deploykit.benchmark.objective import Objective
from deploykit.benchmark.plan import Protocol
from deploykit.errors import WorkError
from deploykit.progress import Silent

MS = 1_000_000


class Knee:
    """Every rate up to a known one meets the objective."""

    def __init__(self, knee, most=10**9):
        self.knee, self.most, self.asked = knee, most, []

    def __call__(self, rate):
        if len(self.asked) >= self.most:
            return None
        self.asked.append(rate)
        return rate <= self.knee


@pytest.mark.parametrize("knee", [3.0, 99.0, 100.0, 101.0, 5000.0])
def test_a_known_knee_is_bracketed(knee):
    probe = Knee(knee)
    found = capacity.search(probe, 100.0)
    assert found.low <= knee < found.high <= found.low * (1 + capacity.RESOLUTION)
    assert len(probe.asked) <= 2 + abs(math.log2(knee / 100)) + 5
    assert len(set(probe.asked)) == len(probe.asked)


@pytest.mark.parametrize(("knee", "low", "high"), [(0.0, False, True), (math.inf, True, False)])
def test_no_knee_is_given_up(knee, low, high):
    probe = Knee(knee)
    found = capacity.search(probe, 100.0)
    assert (found.low is not None, found.high is not None) == (low, high)
    assert len(probe.asked) == capacity.BRACKETING


@pytest.mark.parametrize("most", range(6))
def test_a_search_that_is_cut_short_says_what_it_knows(most):
    probe = Knee(137.0, most)
    found = capacity.search(probe, 100.0)
    assert len(probe.asked) == most
    assert found.low is None or found.low <= 137 < (found.high or math.inf)
    assert (found.low is None) == (most == 0)


@pytest.mark.parametrize("knee", [80.0, 96.0, 100.0, 104.0, 140.0])
def test_fresh_launches_walk_both_ways(knee):
    probe = Knee(knee)
    found = capacity.settle(probe, 100.0)
    assert found.low <= knee < found.high <= found.low * (capacity.STEP + 1e-9)


def test_a_walk_ends():
    probe = Knee(1.0)
    assert capacity.settle(probe, 100.0).low is None
    assert len(probe.asked) == capacity.STEPS
    assert capacity.settle(Knee(1.0, 0), 100.0) == capacity.Bracket(None, None)


def hunt(machine, tmp_path, objective=None, until=3600.0, seed=0, **more):
    setting = Setting(Protocol(seed=seed), machine.open_worker, None, tmp_path)
    return Hunt(subject("a", **more), setting, 1, objective, until, machine.clock.seconds, Silent())


def true_capacity(service, limit, quantile):
    """The rate at which a long M/D/1 queue, simulated by cumulative sums, just meets the objective."""
    gaps = np.random.default_rng(9).standard_exponential(1_000_000)
    low, high = 0.2e9 / service, 1e9 / service
    for _ in range(16):
        rate = math.sqrt(low * high)
        walk = np.cumsum(service - gaps * (1e9 / rate))
        latency = service + walk - np.minimum.accumulate(np.minimum(walk, 0))
        low, high = (rate, high) if np.quantile(latency, quantile) <= limit else (low, rate)
    return low


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("service", "objective"), [(50_000, None), (MS, Objective("p90", 3e6))])
def test_the_capacity_of_a_fake_worker_is_found_within_five_percent(service, objective, seed, tmp_path):
    machine = Machine(lambda *_: service)
    found = hunt(machine, tmp_path, objective, seed=seed)
    load_there = found.run()
    limit, quantile = (10 * service, 0.99) if objective is None else (objective.limit_ns, objective.quantile)
    assert load_there.rate_per_s == pytest.approx(true_capacity(service, limit, quantile), rel=0.05)
    assert (load_there.verdict, load_there.reason, load_there.searched) == ("met", "", True)
    assert load_there.slo_assumed == (objective is None)
    assert load_there.slo_ns == limit
    assert load_there.closed_loop_per_s == 1e9 / service
    assert load_there.utilization == pytest.approx(load_there.rate_per_s * service / 1e9)
    assert load_there.launches == 3
    assert load_there.mean_wait_ns == pytest.approx(load_there.md1_wait_ns, rel=0.15)
    assert [one.rate_per_s for one in load_there.probes if one.phase == "confirm"]
    assert found.ahead == 0
    assert len(machine.workers) == 4  # the scout and three fresh ones
    assert not [one for one in machine.workers if one.alive]
    assert sum(len(one.served.due) for one in found.found) == load_there.calls


def test_a_knee_of_the_service_itself_is_found_within_five_percent(tmp_path):
    """A worker whose calls take twenty times as long above 400 requests per second."""
    machine = Machine(lambda *_: (2 if machine.rate > 400 else 0.1) * MS)
    found = hunt(machine, tmp_path, Objective("p50", 1.5e6)).run()
    assert found.rate_per_s == pytest.approx(400, rel=0.05)


def test_a_search_keeps_to_its_time(tmp_path):
    machine = Machine(lambda *_: MS)
    found = hunt(machine, tmp_path, until=30.0).run()
    assert machine.clock.seconds() < 36  # one step may be under way
    assert found.verdict == "met"
    short = Machine(lambda *_: MS)
    none = hunt(short, tmp_path, until=5.0).run()
    assert (none.verdict, none.rate_per_s) == ("inconclusive", None)
    assert "the time was up: 2,000 requests at 500 per second take 4 s" in none.reason
    assert short.clock.seconds() < 5


def test_a_request_that_is_too_slow_alone_needs_no_search(tmp_path):
    machine = Machine(lambda *_: 20 * MS)
    found = hunt(machine, tmp_path, Objective("p99", 5e6)).run()
    assert (found.verdict, found.rate_per_s) == ("missed", None)
    assert found.reason == "a request alone takes 20 ms"
    assert machine.served == []


def test_a_service_that_is_slow_every_fiftieth_time_meets_p99_at_no_rate(tmp_path):
    count = iter(range(10**9))
    machine = Machine(lambda *_: (50 if next(count) % 50 == 0 else 1) * MS)
    found = hunt(machine, tmp_path, Objective("p99", 5e6), until=1e9).run()
    assert (found.verdict, found.rate_per_s) == ("missed", None)
    assert found.reason.startswith("even ")
    assert {probe.verdict for probe in found.probes} <= {"missed", "overloaded"}


def test_a_generator_that_cannot_keep_time_is_no_models_fault(tmp_path):
    machine = Machine(lambda *_: MS // 100)
    wait = machine.clock.wait_until
    machine.clock.wait_until = lambda ns: wait(ns + 3 * MS)  # the machine is busy with others
    found = hunt(machine, tmp_path, Objective("p99", 2e6), until=1e9).run()
    assert (found.verdict, found.rate_per_s, found.reason) == ("inconclusive", None, load.UNPACED)


def test_fresh_launches_that_are_slower_step_the_rate_down(tmp_path):
    """The scout was lucky: every other launch needs a tenth more."""
    scouts = {}

    def service(name, random, batch):
        return MS // 10 if scouts.setdefault(id(random), len(scouts)) == 0 else int(MS * 0.11)

    lucky = hunt(Machine(service), tmp_path).run()
    confirming = [one for one in lucky.probes if one.phase == "confirm"]
    assert confirming[0].verdict in {"missed", "overloaded"}
    assert confirming[-1].verdict == "met"
    assert lucky.rate_per_s == confirming[-1].rate_per_s < confirming[0].rate_per_s
    assert lucky.rate_per_s == pytest.approx(true_capacity(0.11 * MS, MS, 0.99), rel=0.05)


def test_a_crash_is_an_error_of_the_subject(tmp_path):
    gone = WorkError("serve", "it is gone", "none", "WORKER_CRASHED")
    machine = Machine(lambda *_: MS, faults={("a", "serving:serve", 0): gone})
    with pytest.raises(WorkError):
        hunt(machine, tmp_path).run()
    assert not [one for one in machine.workers if one.alive]


def test_a_walk_that_used_its_steps_does_not_blame_the_time(tmp_path):
    """The scout was unlucky: fresh launches are ten times as fast, and sixteen steps of 3 % do not reach their knee."""
    scouts = {}

    def service(name, random, batch):
        return MS if scouts.setdefault(id(random), len(scouts)) == 0 else MS // 10

    found = hunt(Machine(service), tmp_path, Objective("p99", 10e6), until=1e9).run()
    assert sum(one.phase == "confirm" for one in found.probes) == capacity.STEPS
    assert found.verdict == "met"
    assert found.reason == "at least: all of the 16 rates that the confirming launches tried met it"
    late = hunt(Machine(service), tmp_path, Objective("p99", 10e6), until=50.0)
    scouts.clear()
    assert late.run().reason == "at least: the time was up before the search was through"
