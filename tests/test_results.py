import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deploykit import measurements, results
from deploykit.measurements import BenchReport, BenchRow, Choice, Comparison, Recommendation, RunReport
from deploykit.results import (
    BaselineReport,
    Check,
    Drift,
    Location,
    Mutant,
    SelfCheck,
    VariantReport,
    VerifyReport,
    from_data,
    to_data,
    to_json,
)

CHECK = Check("batch-7", "shapes", "output", "fail", "SQNR_LOW", "centred_sqnr_db", 31.0, 45.0, "why", at_least=True)
LOCATION = Location("CONVERSION", "up", "Resize", "layer2.up (Upsample)", "m.py:88", True, "why", "reports/x", ("n",))
VARIANT = VariantReport(
    "onnx", "fail", "CPUExecutionProvider", (CHECK, CHECK), "SQNR_LOW", "why", "batch-7", 1, LOCATION
)  # fmt: skip
MUTANT = Mutant("weight x 1.01", "fc.weight", 12.5, 0.01, True, "VALUE_MISMATCH")
SELF_CHECK = SelfCheck("onnx", "pass", "", 12, 11, 9, 9, 2.0**-12, 138.0, "why", 1.5, (MUTANT,))
DRIFT = Drift("onnx", "real", "output", "R", "fail", "BASELINE_DRIFT", 1.0, 3.0, "why")
BASELINE = BaselineReport("fail", 1, "BASELINE_DRIFT", "why", (DRIFT,), ("torch 2.14 → 2.15",))
VERIFY = VerifyReport(
    "mlp", "fail", 1, {"cpus": 2, "packages": {"torch": "2.15"}}, (VARIANT,), (SELF_CHECK,), True, baseline=BASELINE
)  # fmt: skip
ROW = BenchRow(
    "onnx", "CPUExecutionProvider", 8, 2, "measured", "", 21_000.0, (20_000.0, 22_000.5), 0.95, None, 25_000.0, None,
    None, "only 90 calls", 47_000.5, 3.0, 0.2, 98_000_000, 410_000, 1.0, 2.0, 3.0, 90, 3,
)  # fmt: skip
COMPARISON = Comparison("eager", "onnx", 8, 0.25, (0.24, 0.26), 0.95, "faster")
CHOICE = Choice("onnx", "4.0× faster")
RECOMMENDATION = Recommendation("onnx", "fast", (CHOICE,), (CHOICE, CHOICE))
BENCH = BenchReport("mlp", {"cpus": 2}, {"quick": True}, (ROW,), (COMPARISON,), RECOMMENDATION)
RUN = RunReport("mlp", 1, {"loss": [1.0, 0.5]}, {"variants": 6}, VERIFY, BENCH, {"export": 1.5})

ALL = (
    CHECK, LOCATION, VARIANT, MUTANT, SELF_CHECK, DRIFT, BASELINE, VERIFY, ROW, COMPARISON, CHOICE, RECOMMENDATION,
    BENCH, RUN,
)  # fmt: skip


def named(value):
    return type(value).__name__


def test_every_result_class_is_tried_here():
    named = (*vars(results).values(), *vars(measurements).values())
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
