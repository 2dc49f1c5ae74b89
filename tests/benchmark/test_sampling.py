"""How many launches are made, what is dropped, and what the record keeps; on a fake clock with fake workers."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from deploykit.benchmark import summary
from deploykit.benchmark.covariates import Counters, Senses, Surroundings
from deploykit.benchmark.measure import measure
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.series import Block, Measured, Series
from deploykit.errors import WorkError
from deploykit.progress import Silent
from deploykit.session import CPU, SessionSettings

PLAN = Protocol(launches=10, blocks=4, limit_s=1000.0)


@dataclass
class World:
    """A clock that blocks move on, counters, and workers that take 100 µs a call, times `factors` by name."""

    factors: dict = field(default_factory=lambda: {"a": 1.0, "b": 1.0})
    spread: float = 0.0
    block_s: float = 0.1
    repeats: dict = field(default_factory=dict)
    faults: dict = field(default_factory=dict)
    stolen: dict = field(default_factory=dict)
    now: float = 0.0
    blocks: int = 0
    steal: int = 0
    opened: dict = field(default_factory=dict)
    log: list = field(default_factory=list)

    def __post_init__(self):
        self.rng = np.random.default_rng(0)

    @property
    def senses(self):
        return Senses(lambda: self.now, lambda: Counters(self.steal, 2, 0, 0), lambda n: Surroundings(n, 1.5, 12.0))

    def open_worker(self, _subject):
        return Worker(self)


@dataclass
class Worker:
    world: World
    name: str = ""
    alive: bool = True

    def call(self, step, *, timeout_s=0, **given):
        world = self.world
        if step == "measure:open":
            self.name = given["artifact"]
            world.opened[self.name] = world.opened.get(self.name, 0) + 1
            self.own = float(np.exp(world.rng.normal(0, world.spread))) * world.factors[self.name]
            return {"load_ms": 3.0, "first_call_ms": 1.0, "provider": CPU, "threads": 1, "pools": []}
        world.log.append((step, self.name, world.opened[self.name] - 1, given))
        if (step, self.name, world.opened[self.name] - 1) in world.faults:
            self.alive = False
            raise WorkError("measure", "it is gone", "nothing", "WORKER_CRASHED")
        if step == "measure:warm_up":
            return {"steady": True, "repeats": world.repeats.get(self.name, 1)}
        if step == "measure:block":
            world.now += world.block_s
            world.steal += world.stolen.get(world.blocks, 0)
            world.blocks += 1
            return {"ns": [round(1e5 * self.own)] * 5, "repeats": given["repeats"], "phases": []}
        return {"peak_rss_bytes": 1 << 20}

    def pause(self):
        pass

    resume = pause

    def close(self):
        self.alive = False


class Stages(Silent):
    def __init__(self):
        self.stages, self.notes = [], []

    def stage(self, title, total):
        self.stages.append([title, total, 0])

    def step(self, text):
        self.stages[-1][2] += 1

    def note(self, text):
        self.notes.append(text)


def program(name, twin=""):
    return Subject(name, "toy", Path(name), SessionSettings(threads=1), ("x",), ("y",), {1: Path("f")}, twin=twin)


A, B = program("a"), program("b")


def run(world, plan=PLAN, enough=None, progress=None, subjects=(A, B), **more):
    return measure(subjects, plan, world.open_worker, progress or Silent(), None, enough, world.senses, **more)


def narrow(plan=PLAN):
    return summary.narrow(plan, [("a", "b", 1)])


def test_what_is_narrow_gets_no_more_launches():
    found = run(World(), enough=narrow())
    assert (len(found.launches), found.ended) == (10, "width")
    assert found.launches[3] == Surroundings(3, 1.5, 12.0)
    planned = run(World(spread=0.1))
    assert (len(planned.launches), planned.ended) == (10, "planned")


def test_what_is_wide_gets_four_at_a_time_up_to_thirty():
    progress = Stages()
    found = run(World(spread=0.2), enough=narrow(), progress=progress)
    assert (len(found.launches), found.ended) == (30, "launches")
    assert [one.launch for one in found.launches] == list(range(30))
    assert progress.stages == [["bench", 20, 20]] + [["bench, more launches", 8, 8]] * 5
    assert progress.notes == ["intervals wider than ±1.5%: 4 more launches"] * 5


def test_it_stops_as_soon_as_it_is_narrow():
    asked = []

    def enough(found):
        asked.append(len(found.launches))
        return len(found.launches) >= 18

    assert run(World(), enough=enough).ended == "width"
    assert asked == [10, 14, 18]


def test_a_difference_does_not_stop_it():
    """Certainly slower and still wide: it goes on. Certainly equal and narrow: it stops."""
    slower = run(World({"a": 1.0, "b": 3.0}, spread=0.2), enough=narrow())
    assert summary.compare(slower, "a", "b", 1).verdict == "slower"
    assert slower.ended == "launches"


@pytest.mark.parametrize(
    ("limit", "launches", "ended"),
    [(7.9, 10, "time"), (8.79, 10, "time"), (8.81, 11, "time"), (11.3, 14, "time"), (24.1, 30, "launches")],
)
def test_no_launch_is_added_that_would_end_after_the_time_limit(limit, launches, ended):
    world = World(spread=0.3)  # a launch takes 0.8 s: two subjects, four blocks of 0.1 s
    found = run(world, replace(PLAN, limit_s=limit), enough=narrow())
    assert (len(found.launches), found.ended) == (launches, ended)
    assert launches == 10 or world.now <= limit


def test_quick_never_adds():
    found = run(World(spread=0.5), Protocol.short(), enough=narrow())
    assert (len(found.launches), found.ended) == (3, "launches")


def test_what_went_missing_is_not_waited_for():
    found = run(World(spread=0.3, faults={("measure:block", "b", 4): 1}), enough=narrow())
    assert (len(found.launches), found.ended) == (10, "width")
    assert found.reason("b", 1).code == "WORKER_CRASHED"


def test_a_later_run_has_launches_of_its_own():
    first, later = run(World()), run(World(), first=10)
    assert [one.launch for one in later.launches] == list(range(10, 20))
    assert {one.launch for one in later.series} == {one.launch for one in later.rounds} == set(range(10, 20))
    both = first.with_more(later)
    assert len(both.of("a", 1)) == 20
    assert len(both.rounds) == 80


def test_a_later_run_has_orders_of_its_own():
    def order(world):
        return [name for step, name, _, _ in world.log if step == "measure:block"]

    worlds = [World(), World(), World()]
    for world, first in zip(worlds, (0, 0, 10), strict=True):
        run(world, first=first)
    assert order(worlds[0]) == order(worlds[1]) != order(worlds[2])


def test_a_round_is_one_turn_of_all():
    found = run(World())
    assert [(one.launch, one.batch, one.index) for one in found.rounds[:5]] == [
        (0, 1, 0), (0, 1, 1), (0, 1, 2), (0, 1, 3), (1, 1, 0),
    ]  # fmt: skip
    assert {round(one.seconds, 6) for one in found.rounds} == {0.2}
    for one in found.series:
        assert [block.round for block in one.blocks] == [0, 1, 2, 3]


def test_twins_are_timed_with_as_many_calls_to_a_reading():
    world = World(repeats={"a": 1, "b": 2, "c": 7}, factors={"a": 1, "b": 1, "c": 1})
    run(world, subjects=(program("a", "b"), program("b", "a"), program("c")))
    asked = {(name, given["repeats"]) for step, name, _, given in world.log if step == "measure:block"}
    assert asked == {("a", 2), ("b", 2), ("c", 7)}


def test_a_stolen_round_is_dropped_for_all_and_kept_in_the_record(tmp_path):
    world = World(stolen={2: 30, 9: 3})  # blocks 2 and 3 are round 1; 30 of 40 ticks, and 3 (above 5 %)
    found = run(world)
    assert [(one.launch, one.index, one.disturbed) for one in found.disturbed] == [(0, 1, "steal"), (1, 0, "steal")]
    assert found.disturbed[0].steal == pytest.approx(0.75)
    for name in ("a", "b"):
        first, second, third = found.of(name, 1)[:3]
        assert [block.round for block in first.blocks] == [0, 2, 3]
        assert [block.round for block in second.blocks] == [1, 2, 3]
        assert len(third.blocks) == 4
    assert all(len(one.blocks) == 4 for one in found.series)
    assert summary.sampling(found) == {
        "launches_made": 10, "ended": "planned", "rounds": 40, "rounds_dropped": 2, "rounds_disturbed": {"steal": 2},
    }  # fmt: skip
    found.save(tmp_path / "raw")
    again = Measured.load(tmp_path / "raw")
    assert (again.rounds, again.launches, again.ended) == (found.rounds, found.launches, found.ended)
    assert [block.round for block in again.of("a", 1)[0].blocks] == [0, 2, 3]


def test_a_round_without_anybody_is_none():
    faults = {("measure:warm_up", name, 0): 1 for name in ("a", "b")}
    assert run(World(faults=faults)).rounds == ()


def series(name, launch, blocks):
    made = tuple(Block(np.array([ns], np.int64), 1, turn) for turn, ns in blocks.items())
    return Series(name, 1, launch, made, 1.0, 1.0, None, True, CPU, 1)


def test_a_launch_is_the_median_over_its_pairs_of_blocks():
    base = series("a", 0, {0: 100, 1: 200, 2: 400, 3: 100})
    drifted = series("b", 0, {0: 110, 1: 220, 2: 440, 3: 990})  # one pair is spoiled, and the speed drifts
    (pair,) = summary.pairs(Measured((base, drifted)), "a", "b", 1)
    assert np.exp(summary.log_ratio(*pair)) == pytest.approx(1.1)


def test_a_block_that_lost_its_other_half_is_no_pair():
    base, candidate = series("a", 0, {0: 100, 1: 100, 2: 900}), series("b", 0, {0: 110, 1: 110, 3: 900})
    (pair,) = summary.pairs(Measured((base, candidate)), "a", "b", 1)
    assert [[block.round for block in one.blocks] for one in pair] == [[0, 1], [0, 1]]
    strangers = Measured((series("a", 0, {0: 1}), series("b", 0, {1: 1})))
    assert summary.pairs(strangers, "a", "b", 1) == []
    assert summary.compare(strangers, "a", "b", 1).verdict == "not_measured"


def test_a_record_of_the_first_schema_can_still_be_read(tmp_path):
    from safetensors.numpy import load_file, save_file

    run(World()).save(tmp_path / "raw")
    arrays = load_file(tmp_path / "raw")
    facts = [
        {"subject": "a", "batch": 1, "launch": 0, "load_ms": 1.0, "first_call_ms": 1.0, "peak_rss_bytes": None,
         "steady": True, "provider": CPU, "threads": 1, "pools": []}
    ]  # fmt: skip
    old = {key: np.ascontiguousarray(arrays[f"0/{key}"]) for key in ("ns", "blocks", "phases")}
    old["blocks"] = np.ascontiguousarray(old["blocks"][:, :2])
    document = {"schema": 1, "series": facts, "missing": []}
    save_file(
        {f"0/{key}": array for key, array in old.items()}, tmp_path / "old", {"deploykit.bench": json.dumps(document)}
    )
    (one,) = Measured.load(tmp_path / "old").of("a", 1)
    assert [block.round for block in one.blocks] == [0, 1, 2, 3]
