"""Decisions without labels, and McNemar's p, which is shown and decides nothing."""

import numpy as np
import pytest

from deploykit.parity.budget import budget_for
from deploykit.parity.judge import Judge, conclude
from deploykit.parity.scale import Scale
from deploykit.reference import Case, Noise
from deploykit.session import CPU


def case_of(rows, input_class="real", labels=None):
    """Two classes a wide margin apart; eager always says class 1."""
    scores = np.random.default_rng(0).standard_normal((rows, 2)) * 0.3 + [0.0, 40.0]
    return Case(
        "real", input_class, "full", rows, 3, {}, {"y": scores.astype(np.float32)}, {"y": scores}, {"y": Noise(1e-6)},
        labels,
    )  # fmt: skip


def judged(case, turned, precision="int8-dynamic", changes=None):
    """The check of the decisions when the variant turns those in `turned`."""
    limits = budget_for(precision, CPU, {"min_sqnr_db": -200.0, "max_r": 1e12, **(changes or {})})
    judge = Judge(Scale.of([case]), limits)
    actual = case.expected["y"].copy()
    actual[turned] = actual[turned, ::-1]
    judge.add(case, {"y": actual})
    report = conclude("onnx", CPU, judge)
    return report, {check.id: check for check in report.checks if check.id.startswith("top1")}


@pytest.mark.parametrize(
    ("rows", "flips", "verdict", "code", "said"),
    [
        (299, 0, "pass", "", "0 of 299 decisions on real samples differ"),
        (298, 0, "inconclusive", "SAMPLE_SIZE", "about 299 samples like these would decide"),
        (1000, 4, "pass", "", "4 of 1000"),
        (1000, 7, "inconclusive", "SAMPLE_SIZE", "samples like these would decide"),
        (1000, 12, "inconclusive", "SAMPLE_SIZE", "labels would say what it costs"),
        (1000, 30, "fail", "METRIC_INFERIOR", "surely more than 1.0%"),
        (5, 5, "fail", "METRIC_INFERIOR", "5 of 5"),
    ],
)
def test_disagreement_on_real_samples_without_labels(rows, flips, verdict, code, said):
    report, checks = judged(case_of(rows), slice(0, flips))
    check = checks["top1-disagreement"]
    assert (check.verdict, check.code, check.limit) == (verdict, code, 0.01)
    assert said in check.reason
    assert (check.value > 0.01) == (verdict != "pass")
    if verdict == "inconclusive":
        assert "at most" in check.reason
        assert report.verdict in {"inconclusive", "fail"}


def test_the_number_that_is_named_decides():
    _, checks = judged(case_of(1000), slice(0, 7))
    needed = int(checks["top1-disagreement"].reason.split("about ")[1].split()[0])
    _, checks = judged(case_of(needed), slice(0, int(np.ceil(0.007 * needed))))
    assert checks["top1-disagreement"].verdict == "pass"


@pytest.mark.parametrize(("precision", "limit"), [("int8-dynamic", 0.01), ("int8-static", 0.01), ("int4", 0.02)])
def test_each_precision_has_its_own_limit(precision, limit):
    assert judged(case_of(500), slice(0, 0), precision)[1]["top1-disagreement"].limit == limit


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_close_precisions_are_held_to_explained_flips_instead(precision):
    _, checks = judged(case_of(500), slice(0, 1), precision, {"max_r": 4.0})
    assert "top1-disagreement" not in checks
    assert "top1-flips" in checks


def test_a_single_flip_that_nothing_explains_fails_full_precision():
    _, checks = judged(case_of(500), slice(0, 1), "fp32", {"max_r": 4.0})
    assert (checks["top1-flips"].verdict, checks["top1-flips"].value) == ("fail", 1)


def test_what_drawn_inputs_decide_is_nobodys_task():
    _, checks = judged(case_of(50, "in range"), slice(0, 50))
    assert list(checks) == ["top1-agreement"]


def test_labels_say_what_it_costs_instead():
    case = case_of(900, labels=np.ones(900, np.int64))
    _, checks = judged(case, slice(0, 0))
    assert set(checks) == {"top1-agreement", "top1-drop"}


def accuracy(rows, lost, won, **changes):
    """Eager is right where the label is 1; the variant turns `lost` right and `won` wrong decisions."""
    labels = np.ones(rows, np.int64)
    labels[: rows // 10] = 0
    turned = np.r_[np.arange(won), rows // 10 + np.arange(lost)].astype(int)
    return judged(case_of(rows, labels=labels), turned, changes=changes)[1]["top1-drop"]


@pytest.mark.parametrize(
    ("rows", "lost", "won", "verdict", "p"),
    [
        (900, 0, 20, "pass", "1.9e-06"),  # surely another classifier, and a better one
        (5000, 6, 6, "pass", "1"),
        (300, 2, 2, "inconclusive", "1"),  # no significant difference is no parity
        (600, 5, 0, "fail", "0.062"),  # nor does a p above 0.05 excuse a loss that is real
    ],
)
def test_mcnemars_p_is_shown_and_decides_nothing(rows, lost, won, verdict, p):
    check = accuracy(rows, lost, won, min_ratio=0.999 if verdict == "fail" else 0.5)
    assert check.verdict == verdict
    assert f"(McNemar p = {p}, for information)" in check.reason


def test_without_a_discordant_pair_there_is_no_p_to_show():
    assert "McNemar" not in accuracy(900, 0, 0).reason
