import pytest
from fixtures.queues import Machine, subject

from deploykit.benchmark.launch import Setting
from deploykit.benchmark.offline import LARGEST, Ladder, Offline
from deploykit.benchmark.plan import Protocol
from deploykit.errors import WorkError
from deploykit.progress import Silent

MS = 1_000_000
NAMES = ("a", "b", "c")


def climbed(ladder, rate):
    """One launch after another over the whole ladder; `rate(batch, launch)` is the throughput it sees."""
    for launch in range(ladder.launches):
        done = set()
        while (batch := ladder.next(done)) is not None:
            done.add(batch)
            ladder.add(batch, rate(batch, launch), 1.0)
    return ladder


def saturates_at(best):
    return lambda batch, launch=0: 1000.0 * min(batch, best)


@pytest.mark.parametrize("best", [1, 2, 8, 64, 4096])
def test_two_small_gains_end_the_sweep(best):
    ladder = climbed(Ladder(3), saturates_at(best))
    assert ladder.saturating == best
    assert sorted(ladder.throughput) == [1 << power for power in range((4 * best).bit_length())]
    assert {len(found) for found in ladder.throughput.values()} == {3}
    assert f"neither {2 * best} nor {4 * best} gains 5%" in ladder.stopped


def test_one_small_gain_does_not():
    """From 4 to 8 nothing, from 8 to 16 half as much again, then nothing."""
    rates = {1: 1.0, 2: 2.0, 4: 3.0, 8: 3.0, 16: 4.5, 32: 4.6, 64: 4.7}
    ladder = climbed(Ladder(3), lambda batch, launch: rates[batch])
    assert ladder.saturating == 16
    assert max(ladder.throughput) == 64


def test_launches_are_pooled_by_medians():
    """One wild launch of three does not decide, wherever it comes."""
    for wild in range(3):
        ladder = climbed(
            Ladder(3), lambda b, launch, wild=wild: b**2 * 7.0 if launch == wild and b < 64 else min(b, 8.0)
        )
        assert ladder.saturating in {8, 16, 32}
        assert all(len(found) >= 1 for found in ladder.throughput.values())
        assert [row.throughput_per_s for row in ladder.rows()][:3] == [1.0, 2.0, 4.0]


def test_a_fixed_batch_is_one_row():
    ladder = climbed(Ladder(3, only=5), saturates_at(8))
    assert list(ladder.throughput) == [5]
    assert ladder.stopped == "the model's batch is fixed at 5"
    (row,) = ladder.rows()
    assert (row.batch, row.gain, row.launches, row.ci_level) == (5, None, 3, 0.75)


def test_a_sweep_ends_somewhere():
    ladder = climbed(Ladder(2), lambda batch, launch: float(batch))
    assert max(ladder.throughput) == LARGEST
    assert ladder.saturating is None
    assert str(LARGEST) in ladder.stopped


def test_an_end_keeps_what_was_measured():
    ladder = Ladder(2)
    ladder.add(1, 1.0, 1.0)
    ladder.end = "memory"
    assert ladder.next({1}) is None
    assert ladder.next(()) == 1  # the second launch still measures it
    assert ladder.stopped == "memory"


def sweep(machine, tmp_path, names=NAMES, batched=True, limit_s=1e6, memory_bytes=1 << 30, feeds_bytes=10, **more):
    def feeds(batch):
        path = tmp_path / f"feeds-{batch}"
        path.touch()
        with path.open("r+b") as stream:
            stream.truncate(feeds_bytes * batch)
        return path

    setting = Setting(Protocol(launches=3, seed=1), machine.open_worker, None, tmp_path)
    subjects = [subject(name, **more) for name in names]
    return Offline(
        subjects, setting, feeds, batched, memory_bytes, limit_s, Silent(), machine.clock.seconds
    )  # fmt: skip


def service(name, random, batch):
    """Calls of 1 ms up to a batch of its own, then longer in proportion."""
    return MS * max(1.0, batch / {"a": 4, "b": 16, "c": 1}[name])


def test_every_subject_has_its_own_saturation(tmp_path):
    machine = Machine(service)
    found = sweep(machine, tmp_path).run()
    assert [(one.name, one.batch, one.saturated) for one in found] == [("a", 4, True), ("b", 16, True), ("c", 1, True)]
    assert [one.throughput_per_s for one in found] == pytest.approx([4000, 16000, 1000])
    assert found[0].rows[1].call_ns == MS
    assert {row.launches for one in found for row in one.rows} == {3}
    assert len(machine.workers) == 9  # fresh ones in every launch
    assert not [one for one in machine.workers if one.alive]
    order = [one.name for one in machine.workers]
    assert all(set(order[start : start + 3]) == set(NAMES) for start in (0, 3, 6))


def test_throughput_is_calls_over_busy_time_and_not_one_over_the_median(tmp_path):
    """One call in three takes ten times as long: the median knows nothing of it."""
    count = iter(range(10**9))
    machine = Machine(lambda *_: (10 if next(count) % 3 == 0 else 1) * MS)
    (found,) = sweep(machine, tmp_path, ("a",), batched=False).run()
    assert found.throughput_per_s == pytest.approx(1000 / 4, rel=0.01)
    assert found.rows[0].call_ns == MS


def test_a_fixed_batch_is_measured_once_per_launch(tmp_path):
    machine = Machine(service)
    (found,) = sweep(machine, tmp_path, ("a",), batched=False, batches=(3,)).run()
    assert [row.batch for row in found.rows] == [3]
    assert found.stopped == "the model's batch is fixed at 3"
    assert not found.saturated


def test_a_batch_that_does_not_fit_ends_the_sweep(tmp_path):
    full = WorkError("warm_up", "out of memory", "none", "RUN_ERROR")
    machine = Machine(service, faults={("b", "measure:warm_up", 8): full})
    run = sweep(machine, tmp_path)
    found = {one.name: one for one in run.run()}
    assert [row.batch for row in found["b"].rows] == [1, 2, 4]
    assert found["b"].stopped == "batch 8 did not run: RUN_ERROR: out of memory"
    assert (found["b"].batch, found["b"].saturated) == (4, False)
    assert {row.launches for row in found["b"].rows} == {3}
    assert found["a"].saturated
    assert run.missing == []


def test_a_crash_at_a_large_batch_ends_the_sweep_as_well(tmp_path):
    gone = WorkError("warm_up", "it is gone", "none", "WORKER_CRASHED")
    machine = Machine(service, faults={("b", "measure:warm_up", 8): gone})
    run = sweep(machine, tmp_path)
    found = run.run()[1]
    assert [row.batch for row in found.rows] == [1, 2, 4]
    assert {row.launches for row in found.rows} == {3}
    assert "WORKER_CRASHED" in found.stopped


def test_a_crash_at_the_first_batch_is_a_loss(tmp_path):
    gone = WorkError("warm_up", "it is gone", "none", "WORKER_CRASHED")
    machine = Machine(service, faults={("b", "measure:warm_up", 1): gone})
    run = sweep(machine, tmp_path)
    found = run.run()
    assert [one.verdict for one in found] == ["measured", "not_measured", "measured"]
    assert found[1].reason == "WORKER_CRASHED: it is gone"
    assert [(one.subject, one.exit_code) for one in run.missing] == [("b", 4)]


def test_memory_ends_the_sweep(tmp_path):
    assert "the worker used" in sweep(Machine(service), tmp_path, ("b",), memory_bytes=1 << 20).run()[0].stopped
    (found,) = sweep(Machine(service), tmp_path, ("b",), feeds_bytes=100 << 20).run()
    assert [row.batch for row in found.rows] == [1, 2, 4]
    assert "the inputs of batch 4" in found.stopped


def test_long_calls_end_the_sweep(tmp_path):
    (found,) = sweep(Machine(lambda name, random, batch: batch**0.5 * 1e9), tmp_path, ("a",)).run()
    assert [row.batch for row in found.rows] == [1, 2]
    assert found.stopped == "one call of batch 2 takes 1.4 s"


def test_the_time_is_shared(tmp_path):
    machine = Machine(lambda name, random, batch: MS, opening_ns=10**9)
    found = sweep(machine, tmp_path, limit_s=30.0).run()
    assert machine.clock.seconds() < 45
    assert all(one.verdict == "measured" for one in found)
    assert all("its share of 30 s" in one.stopped for one in found)
    assert len({len(one.rows) for one in found}) == 1
