from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploykit.benchmark import overhead
from deploykit.benchmark import series as module
from deploykit.benchmark.plan import Subject
from deploykit.benchmark.series import Block, Measured, Missing, Series
from deploykit.session import SessionSettings

US = 1_000


def subject(name, clients=0):
    return Subject(name, "toy", Path("a"), SessionSettings("here"), ("x",), ("y",), {1: Path("f"), 8: Path("f")},
                   100, clients=clients)  # fmt: skip


def series(name, launch, medians, batch=1, wall_ns=0):
    blocks = tuple(
        Block(np.array([ns - 10, ns, ns + 10], np.int64), 1, index, wall_ns) for index, ns in enumerate(medians)
    )
    return Series(name, batch, launch, blocks, 5.0, 1.0, 1 << 20, True, "here", None)


BASE, ONE, FOUR = subject("onnx"), subject("onnx over http", 1), subject("onnx over http, 4 clients", 4)


def measured(launches=10, missing=()):
    """In launch k a call takes 20 + k µs, a request 300 µs more, and from four clients at once 1 ms."""
    found = []
    for launch in range(launches):
        found.append(series("onnx", launch, [(20 + launch) * US, (30 + launch) * US]))
        found.append(series(ONE.name, launch, [(320 + launch) * US, (330 + launch) * US]))
        found.append(series(FOUR.name, launch, [1000 * US] * 2, wall_ns=(700 + launch) * US))
    return Measured(tuple(found), missing)


def test_what_a_server_adds_is_paired_by_launch_and_round():
    one, four = overhead.comparisons(BASE, [ONE, FOUR], measured())[:2]
    assert (one.base, one.candidate, one.batch) == ("onnx", ONE.name, 1)
    assert one.added_ns == 300 * US
    assert one.added_ci_ns == (300 * US, 300 * US)  # drift that hits both sides is in no interval
    assert one.ci[0] < one.ratio < one.ci[1]
    assert 0.95 <= one.ci_level < 1
    assert four.added_ci_ns[0] < four.added_ns < four.added_ci_ns[1]


def test_one_launch_has_no_interval():
    (one,) = overhead.comparisons(BASE, [ONE], measured(1))
    assert (one.added_ns, one.added_ci_ns) == (300 * US, None)


def test_nothing_is_compared_with_what_was_not_measured():
    gone = Missing("onnx", None, 0, "LOAD_ERROR", "why", 4)
    assert overhead.comparisons(BASE, [ONE], measured(missing=(gone,))) == []
    lost = Missing(ONE.name, None, 0, "PARITY", "why", 1)
    (one,) = overhead.comparisons(BASE, [ONE], measured(missing=(lost,)))
    assert (one.verdict, one.added_ns) == ("not_measured", None)


def test_rows_of_a_server_have_its_throughput_and_leave_empty_what_is_its_own():
    here, one, four = overhead.rows([BASE, ONE, FOUR], measured())[:3]
    assert (here.clients, here.throughput_ci, here.load_ms, here.peak_rss_bytes) == (0, None, 5.0, 1 << 20)
    assert (one.clients, one.load_ms, one.peak_rss_bytes) == (1, None, None)
    assert one.first_call_ms == 1.0
    assert one.throughput_per_s == pytest.approx(1e9 / (329.5 * US), rel=1e-3)  # calls one after another
    assert four.throughput_per_s == pytest.approx(3e9 / (704.5 * US), rel=1e-3)  # six in two blocks of 704.5 µs
    assert four.throughput_ci[0] < four.throughput_per_s < four.throughput_ci[1]


def test_a_row_without_a_measurement_says_why():
    lost = Missing(FOUR.name, None, 0, "PARITY", "y is off", 1)
    row = overhead.rows([BASE, FOUR], measured(missing=(lost,)))[1]
    assert (row.verdict, row.reason, row.clients) == ("not_measured", "PARITY: y is off", 4)


def test_overlapping_calls_survive_the_file(tmp_path):
    found = measured(2)
    found.save(tmp_path / "raw")
    back = Measured.load(tmp_path / "raw")
    assert [[block.wall_ns for block in one.blocks] for one in back.series] == [
        [block.wall_ns for block in one.blocks] for one in found.series
    ]
    assert back.series[2].blocks[0].busy_ns == 700 * US
    assert back.series[1].blocks[0].busy_ns == 960 * US


def test_a_file_from_before_calls_overlapped_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SCHEMA", 2)
    monkeypatch.setattr(
        module, "_shape", lambda blocks: np.array([[len(b.ns), b.repeats, b.round] for b in blocks], np.int64)
    )
    found = measured(2)
    replace(found, series=found.series[:2]).save(tmp_path / "raw")
    monkeypatch.undo()
    back = Measured.load(tmp_path / "raw")
    assert [block.wall_ns for one in back.series for block in one.blocks] == [0] * 4
