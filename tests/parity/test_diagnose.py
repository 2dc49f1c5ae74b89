"""The rules of thumb: each fires on the pattern it describes, and not on one that is nearly it."""

from dataclasses import replace

import numpy as np
import pytest

from deploykit.parity.budget import budget_for
from deploykit.parity.diagnose import Evidence, diagnosed
from deploykit.parity.judge import Judge, conclude
from deploykit.parity.scale import Scale
from deploykit.reference import Case, Noise
from deploykit.results import Check, VariantReport
from deploykit.session import CPU

CLASSES = {
    "example": "example",
    "gaussian": "in range",
    "uniform": "in range",
    "batch-2": "shapes",  # the example's own size
    "batch-1": "shapes",
    "batch-7": "shapes",
    "batch-64": "shapes",
    "zeros": "constant",
    "ones": "constant",
    "times10": "straddle",
    "min-max": "extreme",
    "nan-row": "non-finite",
    "int-wide": "integers",
    "int-max": "integers",
    "mask-left": "masks",
    "mask-row": "masks",
    "layout-strided": "layout",
    "layout-transposed": "layout",
    "permuted": "sequence",
    "batch-65": "outside",
    "again": "sequence",
}
ROWS = {
    "batch-1": 1,
    "batch-7": 7,
    "batch-64": 64,
    "batch-65": 65,
    "gaussian": 64,
    "uniform": 64,
    "permuted": 8,
    "zeros": 8,
}
FORMS = {name: ((ROWS.get(name, 2), 5),) for name in CLASSES}
SMALLER = dict.fromkeys(CLASSES, ((2, 5),))
"""All cases at the example's sizes."""


def checks(wrong, code="VALUE_MISMATCH"):
    """A check per case; `wrong` gives R of those that fail, None for a pattern."""
    for name, kind in CLASSES.items():
        if name not in wrong:
            yield Check(name, kind, "y", "pass", "", "R", 1.0, 4.0, "")
        elif wrong[name] is None:
            yield Check(name, kind, "y", "fail", "NAN_PATTERN", "non_finite_differences", 3.0, 0.0, "other NaN")
        elif code in {"RUN_ERROR", "SHAPE_MISMATCH"}:
            yield Check(name, kind, "", "fail", code, "runs", None, None, "the engine says no")
        else:
            yield Check(name, kind, "y", "fail", code, "R", wrong[name], 4.0, f"{name} is off")


def report(wrong, code="VALUE_MISMATCH", verdict="fail"):
    wrong = wrong if isinstance(wrong, dict) else dict.fromkeys(wrong, 1e6)
    return VariantReport("onnx", verdict, CPU, tuple(checks(wrong, code)), code, "gaussian: off", "gaussian", 1)


def found(wrong, forms=FORMS, precision="fp32", code="VALUE_MISMATCH", **evidence):
    before = report(wrong, code)
    after = diagnosed(before, precision, Evidence(forms, **evidence))
    assert replace(after, code=before.code, reason=before.reason) == before  # checks, verdict and exit code stay
    assert after.reason.endswith(before.reason) or after.code == "CONSTANT_DROPPED"
    return after.code


ALL = set(CLASSES) - {"example", "again"}
ORDINARY = {n for n in ALL if CLASSES[n] not in {"constant", "extreme", "non-finite"}}


# what is left alone


def test_a_sound_variant_and_one_whose_cause_is_known_are_left_alone():
    sound = report({}, "", "pass")
    assert diagnosed(sound, "fp32", Evidence(FORMS, swapped="a carries b")) is sound
    for code in ("STATE_LOST", "OUTPUT_MISSING", "DTYPE_MISMATCH", "SQNR_LOW", "METRIC_INFERIOR", "GUARD_LOST"):
        known = report(ALL, code)
        assert diagnosed(known, "fp32", Evidence(FORMS, swapped="a carries b")) is known


def test_wrong_everywhere_is_a_wrong_value():
    assert found({*ALL, "example"}) == "VALUE_MISMATCH"
    assert found({"example"}) == "VALUE_MISMATCH"


def test_rules_about_cases_are_about_full_precision():
    for wrong in ({"mask-left"}, {"layout-strided"}, {"zeros"}, ALL):
        assert found(wrong) != "VALUE_MISMATCH"
        assert found(wrong, precision="int8-static") == "VALUE_MISMATCH"


# evidence


@pytest.mark.parametrize(
    ("evidence", "code"),
    [
        ({"swapped": "a carries b"}, "OUTPUT_ORDER"),
        ({"inputs_swapped": "q carries k"}, "INPUT_ORDER"),
        ({"stage": "RUNTIME"}, "RUNTIME_FUSION"),
        ({"narrowed": "int32"}, "INT_NARROWING"),
        ({"stage": "CONVERSION"}, "VALUE_MISMATCH"),
        ({"swapped": "a carries b", "inputs_swapped": "q carries k", "stage": "RUNTIME"}, "OUTPUT_ORDER"),
        ({"inputs_swapped": "q carries k", "stage": "RUNTIME"}, "INPUT_ORDER"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
def test_evidence_goes_before_rules(evidence, code, precision):
    assert found({*ALL, "example"}, precision=precision, **evidence) == code


def test_evidence_is_named_in_the_reason():
    after = diagnosed(report(ALL), "fp32", Evidence(FORMS, swapped="a carries b"))
    assert after.reason == "outputs fit when they change places: a carries b; gaussian: off"
    baked = diagnosed(report({"gaussian"}), "fp32", Evidence(SMALLER, baked="bool at model.py:12"))
    assert "model.py:12" in baked.reason


# one class alone


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"mask-left", "mask-row"}, "MASKED_ROW_SEMANTICS"),
        ({"layout-strided"}, "LAYOUT_UNCHECKED"),
        ({"layout-strided", "layout-transposed"}, "LAYOUT_UNCHECKED"),
        ({"int-wide"}, "INT_NARROWING"),
        ({"batch-65"}, "OUT_OF_RANGE"),
    ],
)
def test_what_is_wrong_in_one_class_only_is_named_after_it(wrong, code):
    assert found(wrong) == code
    assert found(wrong, SMALLER) == code
    assert found({*wrong, "example"}) != code
    assert found({*wrong, "gaussian"}) != code


@pytest.mark.parametrize("code", ["SHAPE_MISMATCH", "RUN_ERROR", "NAN_PATTERN"])
def test_forms_and_errors_are_diagnosed_like_values(code):
    assert found({"layout-strided"}, code=code) == "LAYOUT_UNCHECKED"


# constants


@pytest.mark.parametrize(
    ("wrong", "dropped"),
    [
        ({"zeros": None}, True),
        ({"zeros": 50.0}, True),
        ({"zeros": 1e3, "gaussian": 10.0}, True),
        ({"zeros": 1e3, "gaussian": 10.1}, False),
        ({"zeros": 1e3, "ones": 20.0, "gaussian": 10.0}, False),  # the mildest of the constants counts
        ({"zeros": None, "gaussian": 50.0}, True),
        ({"zeros": None, "ones": 20.0, "gaussian": 10.0}, True),  # but for NaN where eager has a number
        ({"zeros": None, "gaussian": None}, False),  # NaN everywhere
        ({"zeros": 1e3, "nan-row": None, "min-max": 1e3}, True),  # these are degenerate as well
        ({"nan-row": None}, False),
        ({"min-max": 1e9}, False),
    ],
)
def test_a_dropped_constant_is_wrong_where_it_decides(wrong, dropped):
    assert (found(wrong) == "CONSTANT_DROPPED") == dropped
    assert (found({**wrong, "example": 1e-3}) == "CONSTANT_DROPPED") == dropped  # an example may be anything


def test_an_engine_that_refuses_everything_has_dropped_no_constant():
    assert found({*ALL, "example"}, code="RUN_ERROR") == "RUN_ERROR"
    assert found({*ALL, "example"}, code="SHAPE_MISMATCH") == "SHAPE_MISMATCH"


def test_the_reason_names_the_constant_case():
    after = diagnosed(report({"ones": 1e6, "gaussian": 5.0}), "fp32", Evidence(FORMS))
    assert after.reason == "wrong on constant and degenerate inputs above all; ones: ones is off"


# what the example left in the artifact

OTHER = {name for name in ALL if FORMS[name] != FORMS["example"]}


def test_every_other_size_is_wrong_so_a_dim_is_fixed():
    assert found(OTHER) == "DYNAMIC_DIM_FIXED"
    assert found(OTHER, code="RUN_ERROR") == "DYNAMIC_DIM_FIXED"


def test_some_other_sizes_are_right_so_a_guard_was_lost():
    assert found(OTHER - {"batch-7"}) == "GUARD_LOST"
    assert found({"batch-64", "gaussian", "uniform"}) == "GUARD_LOST"
    assert found({"batch-7"}) == "GUARD_LOST"


def test_a_size_that_is_right_with_some_values_and_wrong_with_others_is_not_to_blame():
    assert found({"batch-64"}) == found({"batch-64", "gaussian"}) == "CONTROL_FLOW_BAKED"


def test_sizes_are_to_blame_only_when_the_examples_size_is_right_on_other_values():
    codes = {"GUARD_LOST", "DYNAMIC_DIM_FIXED"}
    assert found({*OTHER, "batch-2"}) not in codes  # the example's size with other values is wrong, too
    assert found({*OTHER, "example"}) not in codes
    assert found(OTHER - {n for n in OTHER if CLASSES[n] == "shapes"}) not in codes  # no size was really tried
    lonely = {n: ((9, 5),) if n not in {"example", "again"} else FORMS[n] for n in CLASSES}
    assert found(ALL, lonely) not in codes  # nothing else has the example's sizes


@pytest.mark.parametrize(
    ("baked", "code"),
    [("bool at model.py:12", "CONTROL_FLOW_BAKED"), ("float at model.py:12", "SCALAR_BAKED"), ("int", "SCALAR_BAKED")],
)
def test_what_the_exporter_saw_python_read_decides(baked, code):
    for wrong in ({"gaussian", "batch-2"}, ALL):
        assert found(wrong, baked=baked) == code
    assert found({*ALL, "example"}, baked=baked) == "VALUE_MISMATCH"


def test_a_number_is_wrong_nearly_everywhere_and_a_branch_on_its_other_side_only():
    assert found(ALL, SMALLER) == "SCALAR_BAKED"
    mostly = sorted(ORDINARY)
    enough = int(np.ceil(0.8 * len(mostly)))
    assert found(mostly[:enough], SMALLER) == "SCALAR_BAKED"
    assert found(mostly[: enough - 1], SMALLER) == "CONTROL_FLOW_BAKED"
    assert found({"gaussian"}, SMALLER) == "CONTROL_FLOW_BAKED"


def test_a_branch_is_no_guess_where_only_degenerate_inputs_are_wrong():
    assert found({"nan-row": None, "min-max": 1e3}, SMALLER) == "VALUE_MISMATCH"


# outputs that change places, as the judge sees them


def three(seed=0, rows=400):
    rng = np.random.default_rng(seed)
    exact = {name: rng.standard_normal((rows, 3)) for name in "abc"}
    expected = {name: array.astype(np.float32) for name, array in exact.items()}
    return Case("gaussian", "in range", "full", rows, 0, {}, expected, exact, {n: Noise(1e-7) for n in exact})


def swapped(answer, case=None):
    case = case or three()
    judge = Judge(Scale.of([case]), budget_for("fp32", CPU))
    judge.add(case, answer)
    before = conclude("onnx", CPU, judge)
    after = diagnosed(before, "fp32", Evidence(judge.forms, swapped=judge.swapped))
    return judge.swapped, after.code


def test_two_outputs_that_carry_each_other_are_recognized():
    y = three().expected
    evidence, code = swapped({"a": y["b"], "b": y["a"], "c": y["c"]})
    assert (set(evidence.split("; ")), code) == ({"a carries b", "b carries a"}, "OUTPUT_ORDER")


def test_three_outputs_that_went_round_are_recognized():
    y = three().expected
    evidence, code = swapped({"a": y["b"], "b": y["c"], "c": y["a"]})
    assert (set(evidence.split("; ")), code) == ({"a carries b", "b carries c", "c carries a"}, "OUTPUT_ORDER")


@pytest.mark.parametrize("kind", ["one is lost", "twice the same", "nearly", "other shapes", "only one"])
def test_outputs_that_are_wrong_in_any_other_way_are_no_swap(kind):
    y = three().expected
    answer = {
        "one is lost": {"a": y["b"], "b": np.zeros_like(y["a"]), "c": y["c"]},
        "twice the same": {"a": y["b"], "b": y["b"] + 1, "c": y["c"]},
        "nearly": {"a": y["b"] * np.float32(1.001), "b": y["a"], "c": y["c"]},
        "other shapes": {"a": y["b"][:, :2], "b": y["a"], "c": y["c"]},
        "only one": {"a": y["b"], "b": y["b"], "c": y["c"]},
    }[kind]
    evidence, code = swapped(answer)
    assert evidence == ""
    assert code in {"VALUE_MISMATCH", "SHAPE_MISMATCH"}


def test_integer_outputs_change_places_too():
    case = replace(three(), expected={"a": np.arange(6), "b": np.arange(6)[::-1].copy()}, expected64={}, noise={})
    assert swapped({"a": case.expected["b"], "b": case.expected["a"]}, case)[1] == "OUTPUT_ORDER"


def test_a_mild_fault_that_the_example_does_not_show_is_no_baked_value():
    everything = set(CLASSES) - {"example", "again"}
    assert found(dict.fromkeys(everything, 1e6), SMALLER) == "SCALAR_BAKED"
    assert found(dict.fromkeys(everything, 15_000.0), SMALLER) == "VALUE_MISMATCH"
    assert found(dict.fromkeys(everything, 1e6), SMALLER, edited=True) == "VALUE_MISMATCH"


def refused(names):
    text = "Got invalid dimensions for input: x index: 0 Got: 64 Expected: 4 Please fix either the inputs or the model."
    checks_ = tuple(
        Check(name, CLASSES[name], "", "fail", "RUN_ERROR", "runs", None, None, text)
        if name in names
        else Check(name, CLASSES[name], "y", "pass", "", "R", 1.0, 4.0, "")
        for name in CLASSES
    )
    before = VariantReport("onnx", "fail", CPU, checks_, "RUN_ERROR", "gaussian: no", "gaussian", 1)
    return diagnosed(before, "int8-static", Evidence(FORMS)).code


def test_a_size_that_the_engine_refuses_is_a_fixed_dim_in_every_precision():
    assert refused(CLASSES) == "DYNAMIC_DIM_FIXED"
    assert refused(set(CLASSES) - {"nan-row"}) == "DYNAMIC_DIM_FIXED"
