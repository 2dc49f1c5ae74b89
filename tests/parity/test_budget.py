import dataclasses
import math

import pytest

from deploykit.errors import UsageError
from deploykit.parity import budget
from deploykit.parity.budget import budget_for
from deploykit.session import CPU, CUDA


def test_the_table_of_limits():
    fp32, fp16, bf16, dynamic, static, int4 = (
        budget_for(p, CPU) for p in ("fp32", "fp16", "bf16", "int8-dynamic", "int8-static", "int4")
    )
    assert (fp32.max_r, fp32.warn_r, fp32.small_factor) == (4.0, 2.5, 2.0)
    assert (fp16.min_sqnr_db, fp16.warn_sqnr_db, fp16.not_applied_db, fp16.max_half_ratio) == (45, 55, 110, 3)
    assert (bf16.min_sqnr_db, bf16.warn_sqnr_db, bf16.not_applied_db) == (28, 34, 90)
    assert (dynamic.min_sqnr_db, dynamic.warn_sqnr_db, dynamic.not_applied_db) == (20, 28, 90)
    assert (static.min_sqnr_db, static.warn_sqnr_db, static.not_applied_db) == (15, 20, 90)
    assert (int4.min_sqnr_db, int4.warn_sqnr_db, int4.not_applied_db) == (10, 16, 80)
    assert [b.min_ratio for b in (fp32, fp16, bf16, dynamic, static, int4)] == [0.999] * 3 + [0.99] * 3
    assert {b.max_drop for b in (fp32, fp16, bf16, dynamic, static, int4)} == {0.005}


def test_fp32_on_cuda_sums_in_other_orders():
    assert budget_for("fp32", CUDA).max_r == 10.0
    assert budget_for("fp16", CUDA) == budget_for("fp16", CPU)


@pytest.mark.parametrize("precision", budget.BY_PRECISION)
def test_every_kind_has_a_reason_and_a_warning_before_the_limit(precision):
    limits = budget_for(precision, CPU)
    assert limits.reason
    assert limits.loosened == ()
    assert (limits.max_r is None) != (limits.min_sqnr_db is None)
    if limits.max_r is not None:
        assert limits.warn_r < limits.max_r
    else:
        assert limits.min_sqnr_db < limits.warn_sqnr_db < limits.not_applied_db


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="no budget") as caught:
        budget_for("fp12", CPU)
    assert "fp32" in caught.value.hint


@pytest.mark.parametrize("name", ["max_q", "reason", "loosened", "small", "not_applied_db", "strict_pattern", ""])
def test_what_is_no_limit_cannot_be_set(name):
    with pytest.raises(UsageError) as caught:
        budget_for("fp32", CPU, {name: 1.0})
    assert caught.value.code == "UNKNOWN_LIMIT"


@pytest.mark.parametrize(
    ("precision", "name", "looser", "tighter"),
    [
        ("fp32", "max_r", 8.0, 2.0),
        ("fp32", "warn_r", 3.0, 2.0),
        ("fp32", "max_drop", 0.01, 0.001),
        ("fp32", "min_ratio", 0.9, 1.0),
        ("fp16", "min_sqnr_db", 40.0, 50.0),
        ("fp16", "warn_sqnr_db", 50.0, 60.0),
        ("fp16", "max_half_ratio", 4.0, 2.0),
    ],
)
def test_only_a_loosened_limit_is_noted(precision, name, looser, tighter):
    loose, tight, same = (
        budget_for(precision, CPU, {name: value})
        for value in (looser, tighter, getattr(budget.BY_PRECISION[precision], name))
    )
    assert getattr(loose, name) == looser
    assert getattr(tight, name) == tighter
    (note,) = loose.loosened
    assert note.startswith(name)
    assert f"{looser:g}" in note
    assert tight.loosened == same.loosened == ()
    assert note in loose.reason  # every line of the report that gives the reason of a limit tells it
    assert tight.reason == same.reason == budget.BY_PRECISION[precision].reason


def test_a_limit_that_a_kind_is_not_held_to_stays_away():
    changed = budget_for("int8-static", CPU, {"max_r": 6.0, "min_sqnr_db": 12.0})
    assert changed.max_r is None
    assert changed.min_sqnr_db == 12.0
    assert len(changed.loosened) == 1
    assert len(budget_for("fp32", CPU, {"max_r": 6.0, "max_drop": 0.1}).loosened) == 2


@pytest.mark.parametrize("name", ["max_r", "warn_r", "max_drop", "min_ratio"])
def test_nan_is_no_limit_since_nothing_would_be_above_it(name):
    with pytest.raises(UsageError):
        budget_for("fp32", CPU, {name: math.nan})


def test_the_shared_tables_are_never_changed():
    before = [dataclasses.asdict(b) for b in budget.BY_PRECISION.values()]
    budget_for("fp32", CPU, {"max_r": 100.0})
    assert [dataclasses.asdict(b) for b in budget.BY_PRECISION.values()] == before


def test_a_limit_of_one_output_is_that_outputs_alone():
    changes = {"logits.max_r": 6.0}
    assert budget_for("fp32", CPU, changes, "logits").max_r == 6.0
    assert budget_for("fp32", CPU, changes, "logits").loosened == ("max_r 4 → 6",)
    for other in ("", "embedding", "log", "max_r"):
        assert budget_for("fp32", CPU, changes, other) == budget_for("fp32", CPU)
    assert budget.outputs_named(changes) == {"logits"}
    assert budget.outputs_named({"max_r": 1.0}) == set()


@pytest.mark.parametrize("turn", [1, -1])
def test_a_limit_of_one_output_goes_before_that_of_all_in_any_order(turn):
    changes = dict([("max_r", 8.0), ("logits.max_r", 3.0)][::turn])
    assert budget_for("fp32", CPU, changes, "logits").max_r == 3.0
    assert budget_for("fp32", CPU, changes, "logits").loosened == ()
    assert budget_for("fp32", CPU, changes, "embedding").max_r == 8.0


def test_an_output_whose_name_has_dots_keeps_its_limit():
    changes = {"block.0.scores.max_r": 6.0}
    assert budget_for("fp32", CPU, changes, "block.0.scores").max_r == 6.0
    assert budget.outputs_named(changes) == {"block.0.scores"}


def test_a_limit_of_an_output_is_checked_though_nobody_asks_for_that_output():
    with pytest.raises(UsageError) as caught:
        budget_for("fp32", CPU, {"logits.max_q": 6.0})
    assert caught.value.code == "UNKNOWN_LIMIT"
    with pytest.raises(UsageError) as caught:
        budget_for("fp32", CPU, {"logits.max_r": math.inf})
    assert caught.value.code == "BAD_LIMIT"
