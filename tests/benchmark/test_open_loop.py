import time
from itertools import repeat

import numpy as np
import pytest
from fixtures.queues import FakeClock, lindley
from scipy import stats as scipy_stats

from deploykit.benchmark.capacity import md1_wait
from deploykit.benchmark.open_loop import Bounds, Served, WallClock, poisson, queue_bound, serve

MS = 1_000_000
WIDE = Bounds(10**9)


def served(due, lengths, bounds=WIDE, start=12345):
    clock = FakeClock(start)
    return serve(np.asarray(due, np.int64), clock.calls(lengths), bounds, clock)


def test_a_queue_by_hand():
    found = served([10, 20, 100, 105], [30, 5, 50, 1])
    assert found.begun.tolist() == [10, 40, 100, 150]
    assert found.ended.tolist() == [40, 45, 150, 151]
    assert found.latency_ns.tolist() == [30, 25, 50, 46]
    assert found.wait_ns.tolist() == [0, 20, 0, 45]
    assert found.service_ns.tolist() == [30, 5, 50, 1]
    assert found.stopped == ""


@pytest.mark.parametrize("utilization", [0.3, 0.6, 0.8, 0.9])
def test_the_mean_wait_of_an_md1_queue_is_pollaczek_khinchines(utilization):
    service, count = MS, 200_000
    rate = utilization * 1e9 / service
    found = served(poisson(rate, count, 5), repeat(service))
    expected = md1_wait(rate / 1e9, service)
    assert expected == pytest.approx(utilization * service / (2 * (1 - utilization)))
    assert found.wait_ns.mean() == pytest.approx(expected, rel=0.01 + 0.06 * (utilization > 0.7))


@pytest.mark.parametrize("seed", range(3))
def test_waits_are_those_of_lindleys_recursion(seed):
    random = np.random.default_rng(seed)
    due = poisson(900.0, 5000, seed)
    lengths = (random.pareto(2.5, 5000) * 0.6 * MS).astype(np.int64)
    found = served(due, lengths)
    assert found.wait_ns.tolist() == lindley(due, lengths).tolist()


def test_an_overloaded_queue_has_no_mean_wait():
    assert md1_wait(1.0, 1.0) is None
    assert md1_wait(2.0, 1.0) is None


def test_one_stall_is_felt_by_everybody_behind_it():
    """1,000 requests per second of 0.1 ms each, one of which stalls for 100 ms: about 110 of 5,000 wait for it."""
    due = (np.arange(1, 5001) * MS).astype(np.int64)
    lengths = np.full(5000, MS // 10)
    lengths[2500] += 100 * MS
    found = served(due, lengths)
    hidden = float(np.quantile(found.service_ns, 0.99, method="inverted_cdf"))
    seen = float(np.quantile(found.latency_ns, 0.99, method="inverted_cdf"))
    assert hidden == MS // 10  # what a closed loop would print
    assert seen > 40 * MS
    assert int((found.latency_ns > MS).sum()) == pytest.approx(111, abs=3)
    assert found.late == 0  # the queue's doing, not the generator's


def test_a_generator_that_is_late_is_told_apart_from_a_queue():
    found = Served(
        due=np.array([0, 100_000, 200_000, 210_000]),
        begun=np.array([0, 190_000, 240_000, 300_000]),
        ended=np.array([10, 200_010, 300_000, 310_000]),
    )
    assert found.pacing_ns.tolist() == [0, 90_000]  # the last two found the session busy
    assert found.late == 1
    assert found.unpaced(limit_ns=100_000, quantile=0.99)
    assert not found.unpaced(limit_ns=200_000, quantile=0.99)
    assert not found.unpaced(limit_ns=100_000, quantile=0.5)


def test_a_queue_beyond_its_bound_ends_it():
    due = poisson(2000.0, 5000, 1)
    found = served(due, repeat(MS), Bounds(queue=200))
    assert found.stopped == "queue"
    assert 100 < len(found.due) < 400
    waiting = int((due <= found.ended[-1]).sum()) - len(found.due)
    assert waiting > 200
    earlier = int((due <= found.ended[-2]).sum()) - (len(found.due) - 1)
    assert earlier <= 200


def test_a_queue_within_its_bound_does_not():
    assert served(poisson(800.0, 5000, 1), repeat(MS), Bounds(queue=200)).stopped == ""


def test_a_probe_ends_as_soon_as_it_is_decided():
    due = np.arange(1, 1001) * 10 * MS
    lengths = np.where(np.arange(1000) % 20 == 0, 5 * MS, MS)  # one in twenty is slow
    found = served(due, lengths, Bounds(10**9, slow_ns=2 * MS, slow=10))
    assert (found.stopped, len(found.due)) == ("slow", 201)
    assert served(due, lengths, Bounds(10**9, slow_ns=2 * MS, slow=50)).stopped == ""


def test_the_time_ends_it():
    found = served(np.arange(1, 101) * MS, repeat(MS // 2), Bounds(10**9, time_ns=20 * MS))
    assert (found.stopped, len(found.due)) == ("time", 20)


def test_what_was_served_to_the_end_was_not_stopped():
    assert served([MS], [MS], Bounds(10**9, time_ns=1)).stopped == ""


def test_arrivals_are_a_poisson_process():
    due = poisson(250.0, 20_000, 3)
    gaps = np.diff(due, prepend=0) / 1e9
    assert gaps.mean() == pytest.approx(1 / 250, rel=0.02)
    assert scipy_stats.kstest(gaps, "expon", args=(0, 1 / 250)).pvalue > 0.01
    counts = np.bincount((due // 10**8).astype(int))[:-1]  # in windows of 100 ms
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.15)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03


def test_a_seed_gives_one_process_at_every_rate():
    slow, fast = poisson(10.0, 100, 3, 1), poisson(1000.0, 100, 3, 1)
    np.testing.assert_allclose(slow / 100, fast, atol=1)
    assert poisson(10.0, 100, 3, 1).tolist() == slow.tolist()
    assert poisson(10.0, 100, 3, 2).tolist() != slow.tolist()


def test_how_many_may_wait():
    assert queue_bound(10) == 200
    assert queue_bound(10_000) == 2500  # a quarter of a second
    assert queue_bound(10_000, 1e9) == 20_000  # twice the limit


def test_the_wall_clock_comes_back_neither_early_nor_much_later():
    clock = WallClock()
    errors = []
    for wait in (0, 50_000, 300_000, 2 * MS, 5 * MS) * 6:
        at = time.perf_counter_ns() + wait
        now = clock.wait_until(at)
        assert at <= now <= time.perf_counter_ns()
        errors.append(now - at)
    assert np.median(errors) < 50_000  # spun, not slept: a sleep alone ends later than this
    assert clock.wait_until(at) >= at  # the past is over
