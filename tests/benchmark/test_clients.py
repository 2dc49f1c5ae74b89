import heapq
import threading
import time
from itertools import repeat

import numpy as np
import pytest
from fixtures.virtual_time import VirtualTime

from deploykit.benchmark import clients as crew
from deploykit.benchmark.clients import START_NS, SharedClock, Span
from deploykit.benchmark.open_loop import Bounds, poisson
from deploykit.benchmark.open_loop import serve as serve_alone

MS = 1_000_000
WIDE = Bounds(10**9)


def served(due, lengths, clients, bounds=WIDE, late=0):
    clock = VirtualTime(late)
    calls = clock.calls(lengths)  # shared: requests are begun in their order, so each has the length of its place
    return crew.serve(np.asarray(due, np.int64), [calls] * clients, bounds, clock, clock.together)


def kiefer_wolfowitz(due, lengths, servers):
    """Begins in a first come, first served queue with several servers, without any of deploykit's code."""
    free, begun = [0] * servers, []
    for at, length in zip(due, lengths, strict=True):
        begin = max(int(at), heapq.heappop(free))
        begun.append(begin)
        heapq.heappush(free, begin + int(length))
    return begun


def test_two_clients_by_hand():
    found = served([10, 20, 30, 100], [50, 5, 7, 1], 2)
    assert found.begun.tolist() == [10, 20, 30, 100]
    assert found.ended.tolist() == [60, 25, 37, 101]
    found = served([10, 20, 30, 35], [50, 20, 7, 1], 2)
    assert found.begun.tolist() == [10, 20, 40, 47]  # both are busy: the third waits for the second one's client
    assert found.latency_ns.tolist() == [50, 20, 17, 13]
    assert found.free.tolist()[2:] == [40, 47]
    assert (found.stopped, found.late) == ("", 0)


@pytest.mark.parametrize("servers", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(2))
def test_waits_are_those_of_a_queue_with_several_servers(servers, seed):
    due = poisson(2300.0 * servers, 1500, seed)
    lengths = (np.random.default_rng(seed).pareto(2.5, 1500) * 0.6 * MS).astype(np.int64) + 1
    found = served(due, lengths, servers)
    assert found.due.tolist() == due.tolist()
    assert found.begun.tolist() == kiefer_wolfowitz(due, lengths, servers)
    assert found.service_ns.tolist() == lengths.tolist()
    assert found.wait_ns.max() > 0


def test_one_client_is_the_single_session():
    due, lengths = poisson(900.0, 800, 3), [MS // 2, MS, 2 * MS, 1] * 200
    many, clock = served(due, lengths, 1), VirtualTime()
    alone = serve_alone(due, clock.calls(lengths), WIDE, Alone(clock))
    for part in ("due", "begun", "ended", "pacing_ns", "latency_ns"):
        assert getattr(many, part).tolist() == getattr(alone, part).tolist(), part


class Alone:
    """Virtual time for a single thread that is not run by `together`."""

    def __init__(self, clock):
        self.clock = clock
        clock.pass_by = self.pass_by

    def pass_by(self, ns):
        self.clock.ns += ns

    def now(self):
        return self.clock.ns

    def wait_until(self, ns):
        self.clock.ns = max(self.clock.ns, ns)
        return self.clock.ns


def test_one_stall_holds_up_only_its_client():
    """1,000 requests per second of 0.1 ms, one of which stalls for 100 ms: nobody waits while somebody is free."""
    due = (np.arange(1, 1001) * MS).astype(np.int64)
    lengths = np.full(1000, MS // 10)
    lengths[500] += 100 * MS
    assert (served(due, lengths, 1).latency_ns > MS).sum() == pytest.approx(111, abs=3)
    assert (served(due, lengths, 2).latency_ns > MS).sum() == 1


def test_the_generators_own_error_is_told_apart_from_waiting_for_a_client():
    found = served([MS, MS + 10, MS + 20], [MS, MS, MS], 2, late=70_000)
    assert found.pacing_ns.tolist() == [70_000, 70_000]  # the third one found both clients busy
    assert found.wait_ns[2] == MS + 70_000 - 20
    assert found.late == 2
    assert found.unpaced(100_000, 0.99)
    assert served([MS, 2 * MS], [MS // 2] * 2, 2).late == 0


def test_a_queue_beyond_its_bound_ends_it_when_all_clients_are_behind():
    due = poisson(8000.0, 4000, 1)
    assert served(due, repeat(MS), 16, Bounds(queue=200)).stopped == ""
    found = served(due, repeat(MS), 4, Bounds(queue=200))
    assert found.stopped == "queue"
    assert 100 < len(found.due) < 1000
    waiting = int((due <= found.ended.max()).sum()) - len(found.due)
    assert waiting > 190
    assert found.due.tolist() == due[: len(found.due)].tolist()
    assert found.begun.tolist() == kiefer_wolfowitz(found.due, [MS] * len(found.due), 4)


def test_a_probe_ends_as_soon_as_it_is_decided_and_requests_under_way_are_answered():
    due = np.arange(1, 1001) * MS
    found = served(due, [5 * MS] * 1000, 2, Bounds(10**9, slow_ns=MS, slow=10))
    assert (found.stopped, len(found.due)) == ("slow", 12)
    found = served(due, repeat(MS // 2), 2, Bounds(10**9, time_ns=20 * MS))
    assert (found.stopped, len(found.due)) == ("time", 20)
    assert served([MS], [MS], 3, Bounds(10**9, time_ns=1)).stopped == ""


def test_an_error_of_one_client_ends_all_and_is_told():
    clock = VirtualTime()
    asked = []

    def calls():
        for index in range(1000):
            asked.append(index)
            yield (lambda: 1 / 0) if index == 5 else (lambda: clock.pass_by(MS))

    with pytest.raises(ZeroDivisionError):
        crew.serve(np.arange(1, 1001) * MS, [calls_ := calls(), calls_], WIDE, clock, clock.together)
    assert len(asked) < 10
    broken = [clock.calls(repeat(MS)), iter([lambda: None, lambda: 1 / 0])]
    with pytest.raises(ZeroDivisionError):
        crew.ask(broken, Span(10 * MS, 10**12, 10**9, 0), clock, clock.together)


def asked(lengths, span):
    clock = VirtualTime()
    return crew.ask([clock.calls(one) for one in lengths], span, clock, clock.together)


@pytest.mark.parametrize("clients", [1, 2, 5])
def test_a_closed_loop_counts_what_is_answered_while_all_are_busy(clients):
    ns, wall_ns = asked([repeat(MS)] * clients, Span(100 * MS, 10**12, 5, 5 * MS))
    assert set(ns) == {MS}
    assert len(ns) * 1e9 / wall_ns == pytest.approx(clients * 1000, rel=0.02)


def test_a_closed_loop_of_uneven_calls_has_no_bias():
    """In a long run each of three clients answers 1/mean per second, however blocks are cut."""
    random = np.random.default_rng(3)
    lengths = [iter(random.exponential(MS, 10**5).astype(int) + 1) for _ in range(3)]
    clock = VirtualTime()
    calls = [clock.calls(one) for one in lengths]
    blocks = [crew.ask(calls, Span(10 * MS, 10**12, 5, 0), clock, clock.together) for _ in range(150)]
    count, wall_ns = sum(len(ns) for ns, _ in blocks), sum(wall for _, wall in blocks)
    assert count * 1e9 / wall_ns == pytest.approx(3000, rel=0.05)
    assert np.mean(np.concatenate([ns for ns, _ in blocks])) == pytest.approx(MS, rel=0.05)


def test_what_comes_first_is_not_counted_and_the_limit_ends_it():
    ns, wall_ns = asked([[50 * MS, 40 * MS, *[MS] * 1000]], Span(20 * MS, 10**12, 5, 60 * MS))
    assert set(ns) == {MS}
    assert wall_ns == 20 * MS
    ns, wall_ns = asked([repeat(MS)], Span(20 * MS, 10**12, 50, 0))
    assert len(ns) == 50
    ns, wall_ns = asked([repeat(30 * MS)] * 2, Span(20 * MS, 50 * MS, 50, 0))
    assert wall_ns == 60 * MS
    assert len(ns) in {3, 4}  # two clients in step: whose answer closes the window is the order of threads


def test_threads_that_wait_come_back_on_time_and_leave_the_others_alone():
    clock, errors, lock = SharedClock(), [], threading.Lock()

    def waiting():
        for _ in range(20):
            at = clock.now() + 3 * MS
            now = clock.wait_until(at)
            assert now >= at
            with lock:
                errors.append(now - at)

    started = time.perf_counter()
    crew.threads([waiting] * 4)
    assert len(errors) == 80
    assert min(errors) < MS
    assert time.perf_counter() - started < 20 * 3 * 1e-3 * 4, "they wait at the same time"
    assert clock.wait_until(0) > 0


def test_threads_on_the_wall_clock():
    due = poisson(400.0, 100, 1)
    found = crew.serve(due, [repeat(lambda: time.sleep(0.01))] * 8, WIDE, SharedClock())
    assert len(found.due) == 100
    assert (found.begun >= found.due).all()
    assert (np.sort(found.ended)[7:] >= found.begun[:-7]).all()
    overlapping = found.begun[1:] < np.maximum.accumulate(found.ended)[:-1]
    assert overlapping.mean() > 0.5
    assert START_NS > 0
