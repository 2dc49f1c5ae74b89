import json
import math

import pytest

from deploykit.benchmark import trace
from deploykit.session import CPU, CUDA


def span(name, ts, dur, cat="cpu_op", tid=7, **args):
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid, "args": args}


def node(name, ts, dur, op, provider=CPU, index=0):
    return span(f"{name}_kernel_time", ts, dur, "Node", op_name=op, provider=provider, node_index=str(index))


def run(ts, dur):
    return span(trace.RUN, ts, dur, "Session")


def test_only_sound_complete_and_metadata_events_are_taken():
    good = [span("a", 1.5, 2), {"ph": "M", "name": "process_name", "ts": 0, "pid": 1, "tid": 2, "args": {}}]
    bad = [
        {**good[0], "pid": "Spans"},
        {**good[0], "tid": True},
        {**good[0], "dur": -1},
        {**good[0], "dur": "1"},
        {**good[0], "ts": None},
        {**good[0], "name": 3},
        {"ph": "i", "name": "mark", "ts": 0, "pid": 1, "tid": 1},
        {key: value for key, value in good[0].items() if key != "dur"},
        "nonsense",
    ]
    assert trace.events_of({"traceEvents": [*bad, *good]}) == good
    assert trace.events_of([*bad, *good]) == good
    assert trace.events_of({}) == []


def test_cleaned_starts_at_zero_and_tells_no_folder():
    events = [
        span("/home/me/x.py", 5000.5, 2, where={"/home/me": ["/home/me/model.onnx", "/home/me/deep/y"]}),
        span("/fc1/Gemm", 5001.5, 1),
    ]
    found = trace.cleaned(events, ["/home/me", "/home/me/deep", "/"])
    first, second = found["traceEvents"]
    assert (first["ts"], second["ts"]) == (0.0, 1.0)
    assert (first["name"], second["name"]) == ("x.py", "/fc1/Gemm")
    assert first["args"] == {"where": {"": ["model.onnx", "y"]}}
    assert events[0]["ts"] == 5000.5
    assert set(found) == {"displayTimeUnit", "traceEvents"}


def test_cleaned_of_nothing():
    assert trace.cleaned([], [])["traceEvents"] == []


def test_self_time_leaves_out_what_an_operator_calls():
    events = [
        span("aten::linear", 0, 100),
        span("aten::t", 5, 10),
        span("aten::addmm", 20, 70),
        span("aten::copy_", 30, 30),
        span("aten::linear", 200, 50),
        span("aten::addmm", 250, 10),  # begins where the other ends: not inside it
        span("aten::t", 40, 5, tid=8),  # another thread
    ]
    found = trace.operators(events, 1, CPU)
    times = {one.name: (one.calls, one.total_us) for one in found.times}
    assert times == {
        "aten::linear": (2, 20 + 50),
        "aten::t": (2, 10 + 5),
        "aten::addmm": (2, 40 + 10),
        "aten::copy_": (1, 30),
    }
    assert found.total_us == 165
    assert [one.name for one in found.times] == ["aten::linear", "aten::addmm", "aten::copy_", "aten::t"]
    assert math.isclose(sum(one.share for one in found.times), 1)
    assert {(one.op_type, one.provider) for one in found.times} == {
        (name, CPU) for name in ("linear", "t", "addmm", "copy_")
    }
    assert found.nodes == {}


def test_only_the_last_calls_of_onnxruntime_count():
    events = [
        span("session_initialization", 0, 900, "Session"),
        node("gemm", 1000, 500, "Gemm"), run(999, 510),  # the warm-up
        node("gemm", 2000, 20, "Gemm"), node("relu", 2020, 4, "Relu", index=1), run(1999, 30),
        node("gemm", 3000, 22, "Gemm"), node("relu", 3022, 4, "Relu", index=1), run(2999, 30),
    ]  # fmt: skip
    found = trace.operators(events, 2, "ignored")
    assert [(one.name, one.op_type, one.calls, one.total_us) for one in found.times] == [
        ("gemm", "Gemm", 2, 42), ("relu", "Relu", 2, 8),
    ]  # fmt: skip
    assert found.times[0].share == 42 / 50
    assert {one.provider for one in found.times} == {CPU}
    assert found.nodes == {CPU: 2}
    assert trace.operators(events, 3, CPU).total_us == 550


def test_nodes_are_counted_by_provider_and_copies_apart():
    events = [run(0, 100)]
    events += [node(f"n{index}", index, 1, "Conv", CUDA, index) for index in range(41)]
    events += [node("shape", 50, 1, "Shape", CPU, 41), node("", 51, 1, "Gather", CPU, 42), node("", 52, 1, "Gather", CPU, 43)]  # fmt: skip  # noqa: E501
    events += [node("to", 60, 1, "MemcpyToHost", CUDA, 44), node("from", 61, 1, "MemcpyFromHost", CUDA, 45)]
    found = trace.operators([*events, *[{**event, "ts": event["ts"] + 200} for event in events]], 2, CUDA)
    assert found.nodes == {CUDA: 41, CPU: 3, trace.MEMCPY: 2}


def test_time_of_a_device_is_told_under_the_operator_that_launched_it():
    events = [
        span("aten::addmm", 0, 500, **{"External id": 4}),
        span("volta_sgemm", 600, 30, "kernel", tid=70, **{"External id": 4}),
        span("splitk", 630, 10, "kernel", tid=70, **{"External id": 4}),
        span("Memcpy HtoD", 640, 5, "gpu_memcpy", tid=70),
    ]
    found = trace.operators(events, 1, CUDA)
    assert [(one.name, one.calls, one.total_us, one.provider) for one in found.times] == [
        ("aten::addmm", 2, 40, CUDA), ("Memcpy HtoD", 1, 5, CUDA),
    ]  # fmt: skip
    assert found.total_us == 45


@pytest.mark.parametrize("events", [[], [run(0, 1)], [node("a", 0, 0, "Relu")]])
def test_nothing_to_share(events):
    found = trace.operators(events, 1, CPU)
    assert found.total_us == 0
    assert all(one.share == 0 for one in found.times)
    json.dumps(found.nodes)


def test_whoever_ran_while_the_machine_stalled_is_not_blamed():
    """The review's trace: a median of 4 us, a mean of 64.65, and one stall of 12 ms in 200 calls."""
    events = []
    for call in range(200):
        begin = 20_000 * call
        reshape = 12_059 if call == 77 else 4
        events += [node("gemm", begin + 1, 30, "Gemm"), node("reshape", begin + 40, reshape, "Reshape", index=1)]
        events += [run(begin, 60 + reshape)]
    found = trace.operators(events, 200, CPU)
    assert [(one.name, one.median_us) for one in found.times] == [("gemm", 30), ("reshape", 4)]
    assert [one.share for one in found.times] == [30 / 34, 4 / 34]
    assert found.times[1].total_us == 199 * 4 + 12_059
    assert (found.median_us, found.total_us) == (34, 200 * 30 + 199 * 4 + 12_059)


def test_an_operator_that_runs_twice_in_a_call_has_the_time_of_both():
    events = []
    for call in range(5):  # torch does not write down where a call begins
        stall = 5000 if call == 2 else 0
        events += [span("aten::addmm", 9000 * call, 10), span("aten::addmm", 9000 * call + 20, 7 + stall)]
    events.append(span("aten::once", 8000, 25))
    found = trace.operators(events, 5, CPU)
    assert {one.name: one.median_us for one in found.times} == {"aten::addmm": 17, "aten::once": 5}


def test_an_operator_of_some_calls_alone_takes_nothing_in_most():
    events = [run(100 * call, 90) for call in range(5)]
    events += [node("then", 110, 50, "If"), node("gemm", 111, 5, "Gemm"), node("gemm", 311, 5, "Gemm")]
    events += [node("gemm", 411, 5, "Gemm")]
    found = trace.operators(events, 5, CPU)
    assert {one.name: (one.calls, one.median_us) for one in found.times}["gemm"] == (3, 5)
    assert {one.name: one.median_us for one in found.times}["then"] == 0
