"""Masked inputs: valid positions are judged, hidden ones are told, and a fully masked row has to be answered alike."""

import numpy as np
import pytest

from deploykit.parity import masking
from deploykit.parity.budget import budget_for
from deploykit.parity.judge import Judge, conclude
from deploykit.parity.scale import Scale
from deploykit.reference import Case, Noise
from deploykit.session import CPU

ROWS, LENGTH, WIDTH = 6, 9, 4
MASKS = {
    "mask-none": np.ones((ROWS, LENGTH), np.int64),
    "mask-right": np.tile(np.arange(LENGTH) < 6, (ROWS, 1)).astype(np.int64),
    "mask-left": np.tile(np.arange(LENGTH) >= 3, (ROWS, 1)),
    "mask-row": np.tile(np.arange(ROWS)[:, None] < ROWS - 1, (1, LENGTH)).astype(np.int64),
}
HIDDEN = {name: ~mask.astype(bool) for name, mask in MASKS.items()}


def masked(name, shape=(ROWS, LENGTH, WIDTH), exact=None, noise=1e-6, kind="masks"):
    exact = np.random.default_rng(1).standard_normal(shape) if exact is None else exact
    return Case(
        name, kind, "full", ROWS, 3, {"key_mask": MASKS[name]}, {"y": exact.astype(np.float32)}, {"y": exact},
        {"y": Noise(noise)}, relation="mask:key_mask",
    )  # fmt: skip


def judged(case, change, precision="fp32"):
    actual = case.expected["y"].copy()
    change(actual)
    judge = Judge(Scale.of([case]), budget_for(precision, CPU), masks=("key_mask",))
    judge.add(case, {"y": actual})
    report = conclude("onnx", CPU, judge)
    return report, {check.metric: check for check in report.checks}


def nothing(actual):
    pass


def test_the_same_answer_passes_and_says_nothing_of_hidden_positions():
    for name in MASKS:
        report, checks = judged(masked(name), nothing)
        assert (report.verdict, list(checks)) == ("pass", ["R"])


@pytest.mark.parametrize("name", ["mask-right", "mask-left"])
def test_valid_positions_are_judged(name):
    def change(actual):
        actual[~HIDDEN[name]] += 1e-4

    report, checks = judged(masked(name), change)
    assert (report.verdict, report.code, checks["R"].verdict) == ("fail", "VALUE_MISMATCH", "fail")
    assert "hidden_differences" not in checks


@pytest.mark.parametrize("name", ["mask-right", "mask-left"])
@pytest.mark.parametrize("value", [-7.0, np.nan, np.inf])
def test_hidden_positions_that_differ_are_told_and_counted(name, value):
    def change(actual):
        actual[HIDDEN[name]] = value

    report, checks = judged(masked(name), change)
    assert (report.verdict, checks["R"].verdict) == ("pass", "pass")
    told = checks["hidden_differences"]
    assert (told.verdict, told.code, told.reason) == ("warn", "MASKED_ROW_SEMANTICS", "hidden positions differ")
    assert told.value == ROWS * 3 * WIDTH


def test_nan_in_hidden_positions_of_eager_alone_is_told():
    exact = np.random.default_rng(1).standard_normal((ROWS, LENGTH, WIDTH))
    exact[HIDDEN["mask-right"]] = np.nan
    report, checks = judged(masked("mask-right", exact=exact), nothing)
    assert report.verdict == "pass"
    assert list(checks) == ["R"]

    def change(actual):
        actual[HIDDEN["mask-right"]] = 0.0

    report, checks = judged(masked("mask-right", exact=exact), change)
    assert (report.verdict, checks["hidden_differences"].verdict) == ("pass", "warn")


@pytest.mark.parametrize(
    ("kind", "value", "verdict"),
    [("real", 0.0, "fail"), ("real", np.nan, "fail"), ("masks", np.nan, "fail"), ("masks", 0.0, "warn")],
)
def test_a_fully_masked_row_that_is_answered_otherwise(kind, value, verdict):
    """Rows of the user's own are held to eager; one that only the campaign made may differ, but not be NaN."""

    def change(actual):
        actual[-1] = value

    report, checks = judged(masked("mask-row", kind=kind), change)
    assert checks["hidden_differences"].verdict == verdict
    assert checks["hidden_differences"].code == "MASKED_ROW_SEMANTICS"
    assert checks["R"].verdict == "pass"
    if verdict == "fail":
        assert (report.verdict, report.code) == ("fail", "MASKED_ROW_SEMANTICS")
        assert "fully masked row" in report.reason


def test_eagers_own_nan_in_a_fully_masked_row_is_the_answer_there():
    exact = np.random.default_rng(1).standard_normal((ROWS, LENGTH, WIDTH))
    exact[-1] = np.nan
    assert judged(masked("mask-row", exact=exact), nothing)[0].verdict == "pass"

    def change(actual):
        actual[-1] = 0.0

    assert judged(masked("mask-row", exact=exact), change)[0].code == "MASKED_ROW_SEMANTICS"


def test_a_row_that_padding_hides_whole_is_held_to_eager_in_every_case():
    case = masked("mask-right", kind="real")
    case.inputs["key_mask"] = np.zeros((ROWS, LENGTH), np.int64)

    def change(actual):
        actual += 1.0

    report, checks = judged(case, change)
    assert checks["hidden_differences"].verdict == "fail"
    assert (report.verdict, report.code) == ("fail", "MASKED_ROW_SEMANTICS")


def test_an_output_without_positions_is_judged_by_row():
    """Pooled answers [N, 3]: a row that is hidden in part is a whole answer, one that is hidden wholly is none."""

    def first(actual):
        actual[0] += 1e-3

    def last(actual):
        actual[-1] += 1e-3

    for name in ("mask-right", "mask-left"):
        for change in (first, last):
            assert judged(masked(name, (ROWS, 3)), change)[0].code == "VALUE_MISMATCH"
    assert judged(masked("mask-row", (ROWS, 3)), first)[0].code == "VALUE_MISMATCH"
    assert judged(masked("mask-row", (ROWS, 3), kind="real"), last)[0].code == "MASKED_ROW_SEMANTICS"


def test_an_output_that_has_no_rows_of_the_mask_is_judged_whole():
    def change(actual):
        actual[-1] += 1e-3

    assert judged(masked("mask-row", (11, 3)), change)[0].code == "VALUE_MISMATCH"


def test_a_mask_for_an_output_of_more_axes_covers_them():
    """Channels last: [N, L, C, D] with a mask of [N, L]."""

    def change(actual):
        actual[HIDDEN["mask-left"]] = 5.0

    report, checks = judged(masked("mask-left", (ROWS, LENGTH, 2, 2)), change)
    assert report.verdict == "pass"
    assert checks["hidden_differences"].value == ROWS * 3 * 4


def test_a_rounding_in_hidden_positions_is_none():
    def change(actual):
        actual[HIDDEN["mask-right"]] += 1e-6

    report, checks = judged(masked("mask-right", noise=1e-6), change)
    assert list(checks) == ["R"]
    assert report.verdict == "pass"


def test_hidden_positions_do_not_lend_their_noise():
    """Eager's answer where nothing is valid may be garbage: that must not widen the limits of what is valid."""
    exact = np.random.default_rng(1).standard_normal((ROWS, LENGTH, WIDTH))
    case = masked("mask-right", exact=exact, noise=1e3)
    case.expected["y"][HIDDEN["mask-right"]] += 1e3

    def change(actual):
        actual[~HIDDEN["mask-right"]] += 1e-3

    report, checks = judged(case, change)
    assert checks["R"].verdict == "fail"
    assert report.code == "VALUE_MISMATCH"


def test_a_mask_of_an_empty_batch_shows_nothing():
    """Eager may answer a batch of none, and what it answers is judged as any other answer."""
    empty = np.zeros((0, 5), bool)
    assert masking.valid(empty, (0, 3)).shape == (0, 3)
    assert masking.hidden_rows(empty, (0, 3)).shape == (0, 3)
