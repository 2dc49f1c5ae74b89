import dataclasses
import os
from pathlib import Path

import pytest

from deploykit.benchmark import covariates
from deploykit.benchmark.covariates import CLOCK_TICKS, Counters, Senses, Surroundings, Watch, counters, surroundings

STAT = """\
cpu  100 0 50 900 0 0 0 30 0 0
cpu0 50 0 25 450 0 0 0 10 0 0
cpu1 25 0 15 250 0 0 0 20 0 0
cpu17 25 0 10 200 0 0 0 5000 0 0
intr 12
"""


def test_stolen_ticks_are_those_of_our_cores(tmp_path):
    assert covariates._steal(STAT, frozenset({0, 1})) == (30, 2)
    assert covariates._steal(STAT, frozenset({1})) == (20, 1)
    assert covariates._steal(STAT, None) == (5030, 3)
    assert covariates._steal("cpu0 1 2 3\n", None)[0] is None  # before Linux 2.6.11
    assert covariates._steal("", None)[0] is None


def test_what_is_not_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(covariates, "_throttle_files", lambda: ())
    assert counters(tmp_path / "stat") == Counters(None, os.cpu_count() or 1, None, None)
    assert surroundings(3, tmp_path / "pressure").pressure is None
    monkeypatch.delattr(os, "getloadavg")
    assert surroundings(3, tmp_path / "pressure") == Surroundings(3, None, None)


def test_both_generations_of_control_groups_throttle():
    newer = "usage_usec 5\nnr_periods 10\nnr_throttled 4\nthrottled_usec 700\n"
    older = "nr_periods 10\nnr_throttled 2\nthrottled_time 9000\n"
    assert covariates._throttling([newer]) == (4, 700)
    assert covariates._throttling([older]) == (2, 9)
    assert covariates._throttling([newer, older, ""]) == (6, 709)
    assert covariates._throttling(["usage_usec 5\n"]) == (None, None)  # the root has no quota


def test_each_group_is_counted_once(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "cpu.stat").write_text("nr_throttled 1\n")
    (tmp_path / "name").symlink_to("real")
    folders = [tmp_path / "real", tmp_path / "name", tmp_path / "gone"]
    monkeypatch.setattr(covariates, "control_groups", lambda: iter(folders))
    covariates._throttle_files.cache_clear()
    try:
        assert covariates._throttle_files() == (tmp_path.resolve() / "real" / "cpu.stat",)
    finally:
        covariates._throttle_files.cache_clear()


def test_pressure(tmp_path):
    path = tmp_path / "cpu"
    path.write_text("some avg10=83.84 avg60=78.96 avg300=59.60 total=7755585298\nfull avg10=1.00 total=0\n")
    assert surroundings(0, path).pressure == 83.84
    path.write_text("some avg10=much\n")
    assert surroundings(0, path).pressure is None


def test_this_machine_answers():
    before, after = counters(), counters()
    assert before.cores >= 1
    for name in ("steal_ticks", "throttled", "throttled_us"):
        old, new = getattr(before, name), getattr(after, name)
        assert (old is None) == (new is None)
        assert old is None or new >= old
    if Path("/proc/stat").exists():
        assert before.steal_ticks is not None


def ended(before, after, seconds=1.0):
    readings, clock = iter([before, after]), iter([10.0, 10.0 + seconds])
    return Watch(Senses(lambda: next(clock), lambda: next(readings))).ended(2, 8, 5)


def test_a_round_is_disturbed_by_steal_or_throttling_and_nothing_else():
    quiet = Counters(100, 2, 7, 50)
    calm = ended(quiet, quiet)
    assert (calm.launch, calm.batch, calm.index, calm.seconds) == (2, 8, 5, 1.0)
    assert (calm.steal, calm.throttled, calm.throttled_us, calm.disturbed) == (0.0, 0, 0, "")
    five_percent = int(0.05 * 2 * CLOCK_TICKS)
    at_limit = ended(quiet, dataclasses.replace(quiet, steal_ticks=100 + five_percent))
    assert (at_limit.steal, at_limit.disturbed) == (pytest.approx(0.05), "")
    stolen = ended(quiet, dataclasses.replace(quiet, steal_ticks=100 + five_percent + 1))
    assert stolen.disturbed == "steal"
    throttled = ended(quiet, dataclasses.replace(quiet, throttled=8, throttled_us=90))
    assert (throttled.disturbed, throttled.throttled, throttled.throttled_us) == ("throttled", 1, 40)


def test_one_tick_is_the_counters_resolution():
    quiet = Counters(100, 2)
    assert ended(quiet, dataclasses.replace(quiet, steal_ticks=101), seconds=0.01).disturbed == ""
    assert ended(quiet, dataclasses.replace(quiet, steal_ticks=102), seconds=0.01).disturbed == "steal"


def test_unknown_counters_disturb_nothing():
    nothing = ended(Counters(), Counters())
    assert (nothing.steal, nothing.throttled, nothing.throttled_us, nothing.disturbed) == (None, None, None, "")
    shrunk = ended(Counters(100, 2, 7, 50), Counters(60, 1, 3, 20))  # a core or a group went away
    assert (shrunk.steal, shrunk.throttled, shrunk.disturbed) == (None, None, "")
