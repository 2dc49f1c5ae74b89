import json
import math
from dataclasses import replace

import pytest

from deploykit.parity.baseline import Baseline
from deploykit.parity.scale import Scale
from deploykit.parity.sketch import sketches
from deploykit.results import Check, VariantReport, VerifyReport


def check(verdict="pass", value=1.25, metric="R", reason="", name="real"):
    return Check(name, "real", "output", verdict, "", metric, value, 4.0, reason)


@pytest.fixture
def baseline(cases) -> Baseline:
    variants = (
        VariantReport("onnx", "pass", "CPUExecutionProvider", (check(value=1.23456789), check(name="zeros"))),
        VariantReport("odd", "fail", None, (check("fail", math.nan), check("fail", -math.inf, "centred_sqnr_db"))),
        VariantReport("missing", "skipped", None, (), "PACKAGE_MISSING"),
    )
    environment = {"packages": {"torch": "2.15.0", "absent": None}, "cpu": "a cpu", "kernel": "6.1"}
    report = VerifyReport("mlp", "fail", 1, environment, variants)
    return Baseline.of(report, "ab" * 32, {"torch": "2.14.0"}, sketches(cases, Scale.of(cases)))


def test_it_comes_back_as_it_was(baseline):
    text = baseline.to_json()
    again = Baseline.from_json(text)
    assert again.to_json() == text
    assert again.reference == baseline.reference
    assert again.variants[0] == baseline.variants[0]
    assert math.isnan(again.variants[1].checks[0].value)
    assert (again.packages, again.made_with, again.cpu) == (baseline.packages, {"torch": "2.14.0"}, "a cpu")


def test_the_file_has_a_line_per_check_and_says_nothing_of_the_machine(baseline):
    text = baseline.to_json()
    lines = [line for line in text.splitlines() if '"metric"' in line]
    assert len(lines) == sum(len(variant.checks) for variant in baseline.variants)
    assert all(json.loads(line.strip().rstrip(",")) for line in lines)
    assert '"value": 1.23457' in lines[0]
    assert "6.1" not in text
    assert "/" not in text


def test_two_checks_of_one_place_and_metric_keep_the_graver():
    checks = (check("pass", 1.0), check("fail", 9.0), check("warn", 3.0))
    report = VerifyReport("mlp", "fail", 1, {}, (VariantReport("onnx", "fail", None, checks),))
    (kept,) = Baseline.of(report, "", {}, ()).variants[0].checks
    assert (kept.verdict, kept.value) == ("fail", 9.0)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"schema": 2}',
        '{"schema": "1"}',
        '{"schema": 1}',
        '{"schema": 1, "schema": 1}',
        "[" * 100_000,
    ],
)
def test_another_text_is_refused(broken):
    with pytest.raises((ValueError, RecursionError)):
        Baseline.from_json(broken)


@pytest.mark.parametrize(
    "change",
    [
        lambda item: item.update(noise="nan"),
        lambda item: item.update(noise=-1.0),
        lambda item: item.update(rms="inf"),
        lambda item: item["projections"].pop(),
        lambda item: item["projections"].__setitem__(3, "nan"),
        lambda item: item.pop("inputs"),
        lambda item: item.update(elements="many"),
    ],
)
def test_a_sketch_with_which_every_comparison_would_hold_is_refused(baseline, change):
    data = json.loads(baseline.to_json())
    change(data["reference"][0])
    with pytest.raises(ValueError, match=r"sketch|reference"):
        Baseline.from_json(json.dumps(data))


def test_a_verdict_that_does_not_exist_is_refused(baseline):
    data = json.loads(replace(baseline).to_json())
    data["variants"][0]["checks"][0]["verdict"] = "splendid"
    with pytest.raises(ValueError, match="verdict"):
        Baseline.from_json(json.dumps(data))
