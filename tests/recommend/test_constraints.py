import math

import pytest

from deploykit.errors import UsageError
from deploykit.measurements import BenchRow
from deploykit.parity import statistics
from deploykit.recommend.constraints import Constraints, missed, samples_for
from deploykit.results import Check, VariantReport
from deploykit.session import CPU

ROW = BenchRow(
    "onnx", CPU, 1, 2, "measured", median_ns=1.0e6, median_ci_ns=(0.9e6, 1.2e6), median_ci_level=0.95, p90_ns=2e6,
    throughput_per_s=990.0, load_ms=120.0, peak_rss_bytes=64_000_000, file_bytes=410_000,
)  # fmt: skip


def task(value, reason="accuracy 97.57% → 97.43% on 700 labelled samples", name="top1-drop"):
    return Check(name, "task", "y", "pass", "", "accuracy_drop_upper", value, 0.005, reason)


def report(*checks):
    return VariantReport("onnx", "pass", CPU, checks)


def test_every_option_reads_its_unit():
    found = Constraints.parse(
        {
            "max_accuracy_drop": "0.5%", "latency_p90": "5ms", "latency_median": "250us", "min_throughput": "1000/s",
            "memory": "500MB", "size": "10 MiB", "load": "1.5s",
        }
    )  # fmt: skip
    assert found == Constraints(0.005, 250e3, 5e6, 1000.0, 500_000_000, 10 * 2**20, 1.5e9)
    assert found.words == (
        "accuracy drop ≤ 0.5 %", "median latency ≤ 250 µs", "p90 latency ≤ 5 ms", "throughput ≥ 1,000/s",
        "peak memory ≤ 500.0 MB", "size ≤ 10.5 MB", "load time ≤ 1.5 s",
    )  # fmt: skip


def test_nothing_asked_for_is_nothing():
    assert not Constraints.parse({"memory": None})
    assert Constraints(size_bytes=1)
    assert Constraints().words == ()
    assert Constraints().findings(ROW, None) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("latency_p90", "5"), ("latency_p90", "ms"), ("latency_p90", "-5ms"), ("latency_p90", "0ms"),
        ("latency_p90", "nanms"), ("latency_p90", "infs"), ("latency_p90", "5 m"), ("latency_p90", "5MB"),
        ("latency_p90", ""), ("latency_p90", "1e3ms"), ("latency_p90", "1_0ms"), ("latency_p90", "٥ms"),
        ("latency_p90", "9" * 400 + "s"), ("latency_median", "5%"),
        ("memory", "500"), ("memory", "0.4B"), ("memory", "500Mbit"), ("memory", "5ms"), ("size", "ten MB"),
        ("max_accuracy_drop", "0.5"), ("max_accuracy_drop", "0%"), ("max_accuracy_drop", "100%"),
        ("max_accuracy_drop", "-1%"), ("max_accuracy_drop", "nan%"),
        ("min_throughput", "0/s"), ("min_throughput", "1000/min"), ("min_throughput", "nan"),
        ("min_throughput", "9" * 400), ("price", "1"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_an_example(name, text):
    with pytest.raises(UsageError) as refused:
        Constraints.parse({name: text})
    assert refused.value.exit_code == 2
    assert refused.value.code == "BAD_CONSTRAINT"
    assert name == "price" or f"for example --{name.replace('_', '-')} " in refused.value.hint


@pytest.mark.parametrize(
    ("asked", "holds", "said"),
    [
        (Constraints(latency_median_ns=1.3e6), True, "1.2 ms"),
        (Constraints(latency_median_ns=1.1e6), False, "1.2 ms"),  # the median is below, its upper limit is not
        (Constraints(latency_p90_ns=2e6), True, "2 ms"),
        (Constraints(latency_p90_ns=1.9e6), False, "2 ms"),
        (Constraints(min_throughput_per_s=990.0), True, "990/s"),
        (Constraints(min_throughput_per_s=1000.0), False, "990/s"),
        (Constraints(memory_bytes=64_000_000), True, "64.0 MB"),
        (Constraints(memory_bytes=63_000_000), False, "64.0 MB"),
        (Constraints(size_bytes=410_000), True, "410 kB"),
        (Constraints(size_bytes=1000), False, "410 kB"),
        (Constraints(load_ns=120e6), True, "120 ms"),
        (Constraints(load_ns=100e6), False, "120 ms"),
    ],
)
def test_a_limit_holds_up_to_itself(asked, holds, said):
    (found,) = asked.findings(ROW, None)
    assert (found.holds, found.said) == (holds, said)
    assert (found.excess <= 1) == holds


def test_a_hair_beyond_is_told_although_the_digits_are_the_same():
    (found,) = Constraints(latency_p90_ns=1.9999e6).findings(ROW, None)
    assert not found.holds
    assert found.said == "2 ms (0.005 % more)"
    (found,) = Constraints(min_throughput_per_s=990.2).findings(ROW, None)
    assert found.said == "990/s (0.02 % less)"


def test_what_was_not_measured_is_not_shown_to_hold():
    bare = BenchRow(
        "onnx", CPU, 1, 2, "measured", median_ns=1.0, p90_ns_reason="90 calls, 100 are needed",
        median_ci_ns_reason="one launch says nothing about the next",
    )  # fmt: skip
    asked = Constraints(None, 9e9, 9e9, 0.1, 10**12, 10**12, 9e9)
    found = asked.findings(bare, None)
    assert [one.holds for one in found] == [False] * 6
    assert {one.excess for one in found} == {math.inf}
    assert found[0].said == "one launch says nothing about the next"
    assert found[1].said == "90 calls, 100 are needed"
    assert "not shown to hold p90 latency ≤ 9 s: 90 calls, 100 are needed" in missed(found)


def test_accuracy_goes_by_the_upper_limit():
    asked = Constraints(max_accuracy_drop=0.005)
    (found,) = asked.findings(ROW, report(task(0.0039)))
    assert found.holds
    (found,) = asked.findings(ROW, report(task(0.0039), task(0.0061)))
    assert not found.holds
    assert found.excess == pytest.approx(1.22)
    assert found.said == (
        "up to 0.61 % (95 %), accuracy 97.57% → 97.43% on 700 labelled samples, "
        "about 539 can show it where no decision changes"
    )
    assert missed([found]).startswith("not shown to hold accuracy drop ≤ 0.5 %: ")


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ((task(1.0, name="top1-agreement"),), "there are no labels: export with --samples FILE.npz, about 539 rows "),
        ((), "verify found no output that decides between classes"),
        (None, "verify found no output that decides between classes"),
    ],
)
def test_accuracy_without_labels_is_open_and_says_what_is_needed(checks, said):
    (found,) = Constraints(max_accuracy_drop=0.005).findings(ROW, None if checks is None else report(*checks))
    assert not found.holds
    assert found.said.startswith(said)
    assert found.excess == math.inf


@pytest.mark.parametrize("limit", [0.05, 0.005, 0.0025, 0.001])
def test_the_samples_named_are_those_that_verifys_own_interval_needs(limit):
    needed = samples_for(limit)
    assert statistics.drop_bounds(statistics.Paired(needed, 0, 0, needed))[1] <= limit
    assert statistics.drop_bounds(statistics.Paired(needed - 2, 0, 0, needed - 2))[1] > limit


@pytest.mark.parametrize(
    ("limit", "said"), [(1.3e6, ""), (1.1e6, "not shown to hold median latency"), (0.8e6, "misses median latency")]
)
def test_a_median_misses_when_its_whole_interval_does(limit, said):
    told = missed(Constraints(latency_median_ns=limit).findings(ROW, None))
    assert told.startswith(said)
    assert bool(told) == bool(said)


SHORT = BenchRow(
    "onnx", CPU, 1, 2, "measured", median_ns=13_000.0, p90_at_most_ns=91_000.0,
    p90_ns_reason="calls are too short to time one by one: 7 to a reading",
)  # fmt: skip


@pytest.mark.parametrize(("limit", "holds"), [(5e6, True), (91_000.0, True), (50_000.0, False)])
def test_a_p90_that_nobody_timed_has_an_upper_limit(limit, holds):
    (found,) = Constraints(latency_p90_ns=limit).findings(SHORT, None)
    assert found.holds is holds
    assert found.said == "at most 91 µs, calls are too short to time one by one: 7 to a reading"
    assert not found.broken  # above the limit it may still be below
    if not holds:
        assert str(found).startswith("not shown to hold p90 latency ≤ 50 µs: at most 91 µs")
