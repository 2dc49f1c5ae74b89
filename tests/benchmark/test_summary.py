from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploykit.benchmark import summary
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.series import Block, Measured, Missing, Series
from deploykit.results import from_data, to_data
from deploykit.session import CPU, SessionSettings

NAMES = ("eager", "onnx", "onnx-fp16")


def subject(name, batches=(1,)):
    feeds = dict.fromkeys(batches, Path("feeds"))
    return Subject(name, "toy", Path(name), SessionSettings(threads=2), ("x",), ("y",), feeds, 100)


def series(name, launch, ns, batch=1, steady=True, repeats=1, rss=1000, **more):
    blocks = (Block(np.array(ns, np.int64), repeats), Block(np.array(ns, np.int64), repeats))
    return Series(name, batch, launch, blocks, 5.0 + launch, 2.0, rss, steady, CPU, 2, **more)


def launches(name, factor, count=10, **more):
    random = np.random.default_rng(len(name))
    return [series(name, k, (factor * random.normal(1e5, 500, 60)).astype(int), **more) for k in range(count)]


def test_a_row_in_full():
    (row,) = summary.rows([subject("onnx")], Measured(tuple(launches("onnx", 1.0))))
    assert (row.name, row.provider, row.batch, row.threads, row.verdict, row.reason) == (
        "onnx", CPU, 1, 2, "measured", "",
    )  # fmt: skip
    assert row.median_ns == pytest.approx(1e5, rel=0.01)
    assert row.median_ci_ns[0] <= row.median_ns <= row.median_ci_ns[1]
    assert row.median_ci_level == pytest.approx(0.978515625)
    assert (row.calls, row.launches) == (1200, 10)
    assert row.throughput_per_s == pytest.approx(1e4, rel=0.01)
    assert (row.load_ms, row.first_call_ms, row.peak_rss_bytes, row.file_bytes) == (9.5, 2.0, 1000, 100)
    assert row.median_ns < row.p90_ns < row.p99_ns
    assert (row.h2d_ns, row.compute_ns, row.d2h_ns) == (None, None, None)
    assert from_data(type(row), to_data(row)) == row


def test_what_cannot_be_had_says_why():
    found = Measured((series("onnx", 0, [700, 710, 720], repeats=7, rss=None),))
    (row,) = summary.rows([subject("onnx")], found)
    assert row.median_ns == pytest.approx(710 / 7)
    assert row.median_ci_ns is row.median_ci_level is row.p90_ns is row.p99_ns is row.peak_rss_bytes is None
    assert row.median_ci_ns_reason
    assert "7 to a reading" in row.p90_ns_reason
    assert row.calls == 42


def test_phases_are_medians():
    phases = np.array([[1, 10, 3], [2, 20, 3], [3, 30, 9]], np.int64)
    (row,) = summary.rows([subject("onnx")], Measured((series("onnx", 0, [5, 6], phases=phases),)))
    assert (row.h2d_ns, row.compute_ns, row.d2h_ns) == (2, 20, 3)


def test_one_restless_launch_is_a_note_and_most_are_a_verdict():
    steady, restless = launches("onnx", 1, 3), launches("onnx", 1, 3, steady=False)
    (row,) = summary.rows([subject("onnx")], Measured((*steady[:2], restless[2])))
    assert (row.verdict, row.reason) == ("measured", "the warm-up did not settle in 1 of 3 launches")
    (row,) = summary.rows([subject("onnx")], Measured((steady[0], *restless[1:])))
    assert row.verdict == "not_steady"


def test_rows_go_batch_by_batch_and_name_what_is_missing():
    found = Measured((series("eager", 0, [5]),), (Missing("onnx", 8, 0, "RUN_ERROR", "no", 4),))
    table = summary.rows([subject("eager", (1, 8)), subject("onnx", (8,))], found)
    assert [(row.name, row.batch, row.reason) for row in table] == [
        ("eager", 1, ""), ("eager", 8, "nothing was measured"), ("onnx", 8, "RUN_ERROR: no"),
    ]  # fmt: skip


def test_comparisons_with_eager():
    found = Measured((*launches("eager", 1), *launches("onnx", 0.5), *launches("onnx-fp16", 1.001)))
    first, second = summary.comparisons([subject(name) for name in NAMES], found)
    assert (first.base, first.candidate, first.batch, first.verdict) == ("eager", "onnx", 1, "faster")
    assert first.ratio == pytest.approx(0.5, rel=0.01)
    assert first.ci[0] <= first.ratio <= first.ci[1]
    assert first.ci_level == pytest.approx(0.951171875)
    assert second.verdict == "indistinguishable"


def test_the_base_line_is_the_first_that_was_measured():
    found = Measured((*launches("onnx", 1), *launches("onnx-fp16", 2)))
    names = ("eager", "onnx-fp16", "onnx")
    assert [(one.base, one.candidate, one.verdict) for one in summary.comparisons([*map(subject, names)], found)] == [
        ("onnx", "eager", "not_measured"),
        ("onnx", "onnx-fp16", "slower"),
    ]
    only = Measured(tuple(launches("mine", 1)))
    assert [one.base for one in summary.comparisons([subject("eager"), subject("mine")], only)] == ["mine"]
    assert summary.comparisons([subject("eager")], Measured(())) == []


def test_launches_are_paired():
    drift = [1.0, 3.0, 9.0, 2.0, 5.0, 4.0]  # each launch has its own speed; within one, b takes 10 % longer
    both = [series(name, k, [int(f * d * 1e6)]) for k, d in enumerate(drift) for name, f in (("a", 1), ("b", 1.1))]
    found = summary.compare(Measured((*both, series("a", 6, [1]))), "a", "b", 1)
    assert found.verdict == "slower"
    assert found.ratio == pytest.approx(1.1)


def test_one_launch_compares_without_limits():
    found = summary.compare(Measured((series("a", 0, [10]), series("b", 0, [90]))), "a", "b", 1)
    assert (found.ratio, found.ci, found.ci_level, found.verdict) == (
        pytest.approx(9.0),
        None,
        None,
        "indistinguishable",
    )


def test_what_decides_is_every_ratio_that_is_known_to_count_before():
    origins = {"onnx": "", "onnx-fp16": "onnx", "onnx-int8": "onnx", "gone-fp16": "gone"}
    subjects = [subject(name) for name in ("eager", "onnx", "onnx-fp16", "onnx-int8", "gone-fp16")]
    subjects.append(subject("torchscript", (8,)))
    assert summary.deciding(subjects, 1, origins) == [
        ("eager", "onnx", 1), ("eager", "onnx-fp16", 1), ("eager", "onnx-int8", 1), ("eager", "gone-fp16", 1),
        ("onnx", "onnx-fp16", 1), ("onnx", "onnx-int8", 1),
    ]  # fmt: skip
    assert summary.deciding(subjects[1:3], 1, origins) == [("onnx", "onnx-fp16", 1)]  # once, with no eager


def test_a_variant_under_settings_is_held_against_its_origin_under_the_same():
    def graph(variant):
        return replace(subject(f"{variant}@device_graph=on"), variant=variant)

    subjects = [subject("onnx"), graph("onnx"), graph("onnx-fp16")]
    wanted = summary.deciding(subjects, 1, {"onnx-fp16": "onnx"})
    assert ("onnx@device_graph=on", "onnx-fp16@device_graph=on", 1) in wanted


def test_sampling_goes_on_while_a_variant_and_its_origin_are_not_told_apart():
    """Both are known well against eager, launch by launch; against each other they are not."""
    rng = np.random.default_rng(0)
    scatter = rng.normal(0, 0.016, 10)
    found = []
    for k, own in enumerate(scatter):
        for name, factor in (("eager", 1.0), ("onnx", 1 + own), ("onnx-fp16", 1 - own)):
            found.append(series(name, k, [int(factor * 1e6)]))
    subjects, origins = [subject(name) for name in NAMES], {"onnx-fp16": "onnx"}
    measured, plan = Measured(tuple(found)), Protocol()
    assert summary.narrow(plan, summary.deciding(subjects, 1, {}))(measured)
    assert not summary.narrow(plan, summary.deciding(subjects, 1, origins))(measured)


def test_a_p90_that_is_refused_has_an_upper_limit_from_whole_readings():
    random = np.random.default_rng(4)
    calls = random.lognormal(9.5, 0.6, (10, 60, 7))
    many = tuple(series("onnx", k, one.sum(axis=1).astype(int), repeats=7) for k, one in enumerate(calls))
    (row,) = summary.rows([subject("onnx")], Measured(many))
    assert row.p90_ns is None
    assert np.quantile(calls, 0.9) <= row.p90_at_most_ns <= calls.sum(axis=2).max()
    assert np.mean(calls.sum(axis=2).astype(int) <= row.p90_at_most_ns) >= 0.9
    (single,) = summary.rows([subject("onnx")], Measured(tuple(launches("onnx", 1.0))))
    assert single.p90_at_most_ns is None  # it has the p90 itself
