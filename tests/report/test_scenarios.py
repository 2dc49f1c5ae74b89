from dataclasses import replace

import pytest

from deploykit.measurements import BenchReport, LatencyPercentile, Load, Probe, Sweep, SweepRow
from deploykit.report import text

ROWS = (
    SweepRow(1, 1000.0, (900.0, 1100.0), 0.75, 1e6, None, 3),
    SweepRow(2, 1900.0, None, None, 1.05e6, 0.9, 1),
    SweepRow(4, 1950.0, (1900.0, 2000.0), 0.75, 2.05e6, 0.026, 3),
)
SWEEPS = (
    Sweep("onnx", "CPUExecutionProvider", 1, "measured", "", ROWS, 2, 1900.0, True, "saturated: neither 4 nor 8 gains"),
    Sweep("onnx-fp16", "CPUExecutionProvider", 1, "not_measured", "WORKER_CRASHED: it is gone"),
)
LATENCY = (
    LatencyPercentile("p50", 1.5e6, (1.4e6, 1.6e6)),
    LatencyPercentile("p99", 4.5e6, (4.1e6, 4.9e6)),
    LatencyPercentile("p99.9", None, reason="6,000 calls, 10,000 are needed"),
)
CAPACITY = Load(
    "onnx", "CPUExecutionProvider", 1, 1, "met", "", "p99 ≤ 5 ms", 5e6, False, 512.0, True, False, LATENCY, 4e5, 3.9e5,
    1.1e6, 1e6, 0.56, 1000.0, 12, 8e4, 6000, 3, (Probe(512.0, "confirm", "met", 4.5e6),),
)  # fmt: skip
NONE = Load(
    "onnx-fp16", "CPUExecutionProvider", 1, 1, "missed", "a request alone takes 20 ms", "p99 ≤ 5 ms", 5e6, True,
    searched=True, single_ns=2e7, closed_loop_per_s=50.0,
)  # fmt: skip
LOST = Load("eager", "CPUExecutionProvider", 1, 1, "not_measured", "PARITY: off")


@pytest.fixture
def swept():
    return BenchReport("mlp", {}, {"scenario": "offline"}, (), sweeps=SWEEPS)


@pytest.fixture
def loaded():
    return BenchReport("mlp", {}, {"scenario": "server", "rate": None}, (), loads=(CAPACITY, NONE, LOST))


def row_of(page, name, *parts):
    return next(
        line for line in page.splitlines() if line.split()[:1] == [name] and all(part in line for part in parts)
    )


def test_a_sweep(swept):
    page = text.render_bench(swept)
    assert page.startswith("offline throughput of mlp")
    assert "1,000 [900, 1,100]" in page
    assert "saturates here" in row_of(page, "onnx", "+90%")
    assert page.count("saturates here") == 1
    assert "not measured: WORKER_CRASHED" in row_of(page, "onnx-fp16")
    assert "onnx: saturated: neither 4 nor 8 gains" in page
    assert "75% confidence, over 3 launches" in page


def test_a_sweep_that_did_not_saturate(swept):
    sweep = replace(SWEEPS[0], saturated=False, stopped="one call of batch 4 takes 1.4 s")
    page = text.render_bench(replace(swept, sweeps=(sweep,)))
    assert "fastest measured" in page
    assert "one call of batch 4 takes 1.4 s" in page


def test_a_capacity(loaded):
    page = text.render_bench(loaded)
    assert page.startswith("capacity of mlp as a server")
    row = row_of(page, "onnx", "met")
    for part in ("512", "56%", "1.5 ms", "4.5 ms", "400 µs", "390 µs", "1 ms"):
        assert part in row
    assert "onnx: capacity 512 requests per second with p99 ≤ 5 ms" in page
    assert "p99 interval [4.1, 4.9 ms]" in page
    assert "at most 1,000 one after another" in page
    assert "onnx: no p99.9: 6,000 calls, 10,000 are needed" in page
    assert "12 of 6,000 requests were sent late" in page
    assert "no capacity found with p99 ≤ 5 ms (assumed: 10 × the median alone)" in page
    assert "a request alone takes 20 ms" in page
    assert "not measured: PARITY: off" in row_of(page, "eager")


def test_a_given_rate(loaded):
    load = replace(CAPACITY, searched=False, verdict="inconclusive", reason="the interval of p99 holds the limit")
    page = text.render_bench(replace(loaded, protocol={"rate": 512.0, "quick": True}, loads=(load,)))
    assert page.startswith("latency of mlp under load, from the scheduled time of each request (quick")
    assert "onnx: inconclusive p99 ≤ 5 ms" in page
    assert "the interval of p99 holds the limit" in page


def test_hostile_names_stay_on_their_lines(swept, loaded, hostile):
    for report in (swept, loaded):
        sweeps = tuple(replace(one, name=hostile, reason=hostile, stopped=hostile) for one in report.sweeps)
        loads = tuple(replace(one, name=hostile, reason=hostile) for one in report.loads)
        page = text.render_bench(replace(report, bundle=hostile, sweeps=sweeps, loads=loads))
        assert "\x1b" not in page
        assert "\x07" not in page
        assert not [line for line in page.splitlines() if line.startswith("forged line")]


def test_rates_are_written_out(loaded):
    fast = replace(CAPACITY, rate_per_s=9e4, closed_loop_per_s=310_712.4)
    page = text.render_bench(replace(loaded, loads=(fast,)))
    assert "capacity 90,000 requests per second" in page
    assert "at most 310,712 one after another" in page
    assert "e+" not in page
