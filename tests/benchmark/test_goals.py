import numpy as np
import pytest

from deploykit.benchmark import goals
from deploykit.benchmark.series import Block, Measured, Series
from deploykit.measurements import BenchRow
from deploykit.session import CPU


def series(name, launch, ns, rss, batch=4):
    return Series(name, batch, launch, (Block(np.array(ns, np.int64), 2),), 5.0, 2.0, rss, True, CPU, 2)


LAUNCHES = 10
MEASURED = Measured(
    tuple(
        one
        for k in range(LAUNCHES)
        for one in (
            series("slow", k, [2000 + k, 2000, 9000], 1000 + k),
            series("fast", k, [1000 + k, 1000, 1000], 1005 + k),  # half the median, and without the slow third call
            series("unknown", k, [1000], None),
            series("heavy", k, [1000], 1500),
        )
    )
)
ROWS = [
    BenchRow(name, CPU, 4, 2, "measured", file_bytes=size)
    for name, size in (("slow", 1000), ("fast", 250), ("heavy", 1015), ("unknown", None))
]


def ratio(base, candidate, goal):
    return goals.compare(MEASURED, ROWS, base, candidate, 4, goal)


def test_throughput_counts_every_call_and_latency_the_middle_one():
    latency, throughput = ratio("slow", "fast", "latency"), ratio("slow", "fast", "throughput")
    assert latency.ratio == pytest.approx(0.5, rel=0.01)
    assert throughput.ratio == pytest.approx(3000 / 13000, rel=0.01)
    assert (latency.verdict, throughput.verdict) == ("faster", "faster")
    assert throughput.ci_level >= 0.95
    assert throughput.ci[0] <= throughput.ratio <= throughput.ci[1]


def test_memory_is_compared_by_launch_and_small_differences_are_none():
    assert ratio("slow", "fast", "memory").verdict == "indistinguishable"
    found = ratio("slow", "heavy", "memory")
    assert found.verdict == "slower"
    assert found.ratio == pytest.approx(1.5, rel=0.01)
    assert ratio("slow", "unknown", "memory").verdict == "not_measured"


def test_sizes_are_exact_and_need_no_launches():
    found = ratio("slow", "fast", "size")
    assert (found.verdict, found.ratio, found.ci) == ("faster", 0.25, None)
    assert ratio("fast", "slow", "size").verdict == "slower"
    assert ratio("slow", "heavy", "size").verdict == "indistinguishable"
    assert ratio("slow", "unknown", "size").verdict == "not_measured"
    assert ratio("slow", "nobody", "throughput").verdict == "not_measured"
