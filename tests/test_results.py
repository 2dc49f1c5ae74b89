import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deploykit import measurements, plan_results, profile_results, results, sweep_results, tune_results
from deploykit.measurements import (
    BenchReport,
    BenchRow,
    Choice,
    Comparison,
    GateMetric,
    GateReport,
    LatencyPercentile,
    Load,
    Probe,
    Recommendation,
    RunReport,
    Sweep,
    SweepRow,
)
from deploykit.plan_results import InitReport, PlannedStep, PlanReport
from deploykit.profile_results import OperatorTime, Profile
from deploykit.results import (
    BaselineReport,
    Check,
    Drift,
    HandoffReport,
    Location,
    Mutant,
    Ranked,
    SelfCheck,
    VariantReport,
    VerifyReport,
    from_data,
    to_data,
    to_json,
)
from deploykit.sweep_results import CellRecord, CellRow, Half, MatrixReport, table_of
from deploykit.tune_results import Tried, Tuned

CHECK = Check("batch-7", "shapes", "output", "fail", "SQNR_LOW", "centred_sqnr_db", 31.0, 45.0, "why", at_least=True)
LOCATION = Location("CONVERSION", "up", "Resize", "layer2.up (Upsample)", "m.py:88", True, "why", "reports/x", ("n",))
VARIANT = VariantReport(
    "onnx", "fail", "CPUExecutionProvider", (CHECK, CHECK), "SQNR_LOW", "why", "batch-7", 1, LOCATION
)  # fmt: skip
MUTANT = Mutant("weight x 1.01", "fc.weight", 12.5, 0.01, True, "VALUE_MISMATCH")
RANKED = Ranked("node_conv2d", "layer1.0.conv1", 31.5, 20.25, 0.01, 1.5, 0.02, ("node_conv2d", "node_relu"))
SELF_CHECK = SelfCheck("onnx", "pass", "", 12, 11, 9, 9, 2.0**-12, 138.0, "why", 1.5, (MUTANT,))
DRIFT = Drift("onnx", "real", "output", "R", "fail", "BASELINE_DRIFT", 1.0, 3.0, "why")
BASELINE = BaselineReport("fail", 1, "BASELINE_DRIFT", "why", (DRIFT,), ("torch 2.14 → 2.15",))
VERIFY = VerifyReport(
    "mlp", "fail", 1, {"cpus": 2, "packages": {"torch": "2.15"}}, (VARIANT,), (SELF_CHECK,), True, baseline=BASELINE
)  # fmt: skip
ROW = BenchRow(
    "onnx", "CPUExecutionProvider", 8, 2, "measured", "", 21_000.0, (20_000.0, 22_000.5), 0.95, None, 25_000.0, None,
    None, "only 90 calls", 47_000.5, 3.0, 0.2, 98_000_000, 410_000, 1.0, 2.0, 3.0, 90, 3,
    clients=4, throughput_ci=(46_000.0, 48_000.5),
)  # fmt: skip
COMPARISON = Comparison("eager", "onnx", 8, 0.25, (0.24, 0.26), 0.95, "faster", 3e5, (2.9e5, 3.1e5))
CHOICE = Choice("onnx", "4.0× faster")
TRIED = Tried("threads=1", 1, 0.9, "faster")
TUNED = Tuned(
    "onnx", "memory", "arena=off", "threads=2", 1, 0.8, (0.7, 0.9), 0.97, 1.05, (1.0, 1.09), (TRIED, TRIED), 28.5, "why"
)  # fmt: skip
OPERATOR = OperatorTime("/fc1/Gemm", "Gemm", "CPUExecutionProvider", 20, 44.0, 0.5, 2.1)
PROFILE = Profile(
    "onnx",
    "CPUExecutionProvider",
    1,
    20,
    100.0,
    0.88,
    (OPERATOR, OPERATOR),
    2,
    {"CPU": 2},
    "reports/p.json",
    call_us=4.8,
)
GATE_METRIC = GateMetric("p90", "fail", "why", 1.05, 1.03, 0.99, 1.07, 0.95, 0.001, 0.002, 2e4, 2.1e4)
GATE = GateReport("main/onnx", "onnx", 8, "fail", 1, "why", (GATE_METRIC,), 0.02, 0.05, 10, 80, 3, True, True, ("a",))
SWEEP_ROW = SweepRow(8, 12_000.5, (11_000.0, 13_000.0), 0.75, 660_000.0, 0.5, 3)
SWEEP = Sweep("onnx", "CPUExecutionProvider", 2, "measured", "", (SWEEP_ROW, SWEEP_ROW), 8, 12_000.5, True, "saturated")
PERCENTILE = LatencyPercentile("p99", 4.5e6, (4e6, 5e6), "why")
PROBE = Probe(500.0, "search", "overloaded")
LOAD = Load(
    "onnx", "CPUExecutionProvider", 1, 2, "met", "why", "p99 ≤ 5 ms", 5e6, True, 480.5, True, False, (PERCENTILE,),
    1e5, 1.1e5, 9e5, 8e5, 0.5, 1250.0, 3, 2e4, 6000, 3, (PROBE, PROBE), clients=8,
)  # fmt: skip
RECOMMENDATION = Recommendation(
    "onnx", "fast", (CHOICE,), (CHOICE, CHOICE), "size", ("size ≤ 1.0 MB",), False, ("onnx",), (CHOICE,)
)  # fmt: skip
BENCH = BenchReport("mlp", {"cpus": 2}, {"quick": True}, (ROW,), (COMPARISON,), RECOMMENDATION)
HANDED = HandoffReport(
    "triton", "out", "mlp", 2, "onnx", "pass", "40 checks", "asked for", "24.10", (1, 2), "threads=1", 9, 12, "run"
)  # fmt: skip
RUN = RunReport(
    "mlp", 1, {"loss": [1.0, 0.5]}, {"variants": 6}, VERIFY, BENCH, {"export": 1.5}, more=(BENCH,), handoffs=(HANDED,),
    not_handed={"kserve out": "why"},
)  # fmt: skip
STEP = PlannedStep("onnx-fp16", "fp16", "onnx", {"keep_float": []}, "made", "--no-reuse", "no package")
PLAN = PlanReport(
    "python:m.py:build", 3, "artifacts/m", True, (STEP, STEP), ("x:float32[N]",), "w.pt", "s.npz", None, "ort:1.19",
    None, ("max_r = 6",), ("table",), ("parity",), ("triton",),
)  # fmt: skip
INIT = InitReport("deploykit.toml", "mlp", ("x:float32[N]",), ("y:float32[N]",), 21)
CELL_ROW = CellRow(
    "onnx", "pass", "", "", 8, 2e4, (1e4, 3e4), 0.95, "eager", 0.5, (0.4, 0.6), 410_000, 65_000_000, "why"
)
HALF = Half(
    4, "TIME_LIMIT", "why", "what to do", (CELL_ROW,), 12.5, {"cpu": "x", "cores": {"usable": 2}}, True, "ab" * 32
)
CELL = CellRecord("ab" * 32, "mlp", "one thread", "mlp", HALF, HALF, "bundles/ab/mlp", "ray", True)
MATRIX = MatrixReport("m.toml", "local", 4, True, (CELL,), table_of((CELL,)), 1, 0, ("a note",), 12.5)

ALL = (
    CHECK, LOCATION, VARIANT, MUTANT, RANKED, SELF_CHECK, DRIFT, BASELINE, VERIFY, ROW, COMPARISON, CHOICE, TRIED,
    TUNED, RECOMMENDATION, BENCH, RUN, OPERATOR, PROFILE, GATE_METRIC, GATE, SWEEP_ROW, SWEEP, PERCENTILE, PROBE, LOAD,
    HANDED, STEP, PLAN, INIT, CELL_ROW, HALF, CELL, MATRIX, MATRIX.rows[0],
)  # fmt: skip


def named(value):
    return type(value).__name__


def test_every_result_class_is_tried_here():
    modules = (results, measurements, tune_results, profile_results, plan_results, sweep_results)
    named = [value for module in modules for value in vars(module).values()]
    classes = {c for c in named if dataclasses.is_dataclass(c) and isinstance(c, type)}
    assert {type(value) for value in ALL} == classes


@pytest.mark.parametrize("value", ALL, ids=named)
def test_a_result_survives_json(value):
    text = to_json(value)
    assert text.endswith("}\n")
    assert from_data(type(value), json.loads(text)) == value


@pytest.mark.parametrize("value", ALL, ids=named)
def test_json_has_every_field_in_the_order_of_the_class(value):
    assert list(to_data(value)) == [field.name for field in dataclasses.fields(value)]


def float_fields(value):
    return [f.name for f in dataclasses.fields(value) if f.type in {"float", "float | None"}]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("value", "name"),
    [pytest.param(value, name, id=f"{type(value).__name__}.{name}") for value in ALL for name in float_fields(value)],
)
def test_numbers_that_json_lacks_are_strings_and_come_back(value, name, number):
    changed = dataclasses.replace(value, **{name: number})
    document = json.loads(to_json(changed), parse_constant=pytest.fail)
    assert document[name] == {"nan": "nan", "inf": "inf", "-inf": "-inf"}[str(number)]
    back = getattr(from_data(type(value), document), name)
    assert isinstance(back, float)
    assert repr(back) == repr(number)


def test_infinite_intervals_and_seconds_come_back_as_well():
    row = dataclasses.replace(ROW, median_ci_ns=(-math.inf, math.inf))
    assert from_data(BenchRow, json.loads(to_json(row))) == row
    run = dataclasses.replace(RUN, seconds={"export": math.inf})
    assert json.loads(to_json(run))["seconds"]["export"] == "inf"
    assert from_data(RunReport, json.loads(to_json(run))) == run


def test_numpy_floats_are_plain_numbers_in_json():
    check = dataclasses.replace(CHECK, value=np.float64(1.5), limit=np.float64(np.nan))
    document = json.loads(to_json(check))
    assert (document["value"], document["limit"]) == (1.5, "nan")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    )
)
def test_whatever_is_in_the_free_fields_is_strict_json(free):
    report = dataclasses.replace(VERIFY, environment={"free": free})
    json.loads(to_json(report), parse_constant=pytest.fail)


def test_text_stays_readable():
    assert "4.0× faster" in to_json(CHOICE)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (VerifyReport, {"verdict": "fine"}),
        (VerifyReport, {"exit_code": "one"}),
        (VerifyReport, {"variants": [{"name": "onnx"}]}),
        (BenchReport, {"variants": None}),
        (BenchReport, {"comparisons": [{"base": 3}]}),
    ],
)
def test_data_that_describe_something_else_are_refused(kind, change):
    value = next(value for value in ALL if type(value) is kind)
    with pytest.raises(ValidationError):
        from_data(kind, {**to_data(value), **change})
    with pytest.raises(ValidationError):
        from_data(kind, {})


@pytest.mark.parametrize(
    ("metric", "value", "limit", "at_least", "room"),
    [
        ("R", 2.0, 4.0, False, 2.0),
        ("R", 8.0, 4.0, False, 0.5),
        ("R", 0.0, 4.0, False, math.inf),
        ("centred_sqnr_db", 57.0, 45.0, True, 12.0),
        ("centred_sqnr_db", 30.0, 45.0, True, -15.0),
        ("centred_sqnr_db", 95.0, 90.0, False, -5.0),
        ("ratio", 0.995, 0.99, True, 0.995 / 0.99),
        ("ratio", 0.5, 0.0, True, math.inf),
        ("R", None, 4.0, False, None),
        ("R", 2.0, None, False, None),
    ],
)
def test_head_room_is_a_ratio_or_decibels_and_positive_when_the_limit_holds(metric, value, limit, at_least, room):
    check = Check("real", "real", "y", "pass", "", metric, value, limit, "", at_least)
    assert check.headroom == (None if room is None else pytest.approx(room))


def test_verdicts_have_the_contracts_exit_codes():
    assert results.EXIT_OF == {
        "pass": 0, "warn": 0, "skipped": 0, "fail": 1, "inconclusive": 3, "error": 4, "refused": 5,
    }  # fmt: skip


def test_results_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CHECK.verdict = "pass"
