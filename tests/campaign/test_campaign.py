"""The campaign as a whole: every class is there, every case fits, and the seed decides everything."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deploykit.campaign import draw, forms, values
from deploykit.campaign.plan import calibration, campaign
from deploykit.errors import UsageError
from deploykit.inputs import Samples
from deploykit.signature import DTYPES, Dim, Signature, TensorSpec

EXAMPLE = {"x": np.ones((2, 5), np.float32)}

INPUTS = (("ids", "int64", ("N", "L")), ("mask", "int64", ("N", "L")), ("x", "float32", ("N", 3)))
TOKENS = Signature(
    tuple(TensorSpec(*parts) for parts in INPUTS),
    (TensorSpec("best", "int64", ("N",)),),
    (Dim("N"), Dim("L", 2, 40)),
)  # fmt: skip
TOKEN_EXAMPLE = {
    "ids": np.array([[3, 9, 5, 1], [1, 2, 5, 8]]),
    "mask": np.ones((2, 4), np.int64),
    "x": np.ones((2, 3), np.float32),
}


def real(rows: int, labels: bool = True) -> Samples:
    rng = np.random.default_rng(0)
    drawn = rng.random((rows, 5), dtype=np.float32)
    return Samples({"x": drawn}, np.arange(rows) % 3 if labels else None, {"x": drawn[:9] + 1})


EXPECTED = {
    "example": ("example", "full", "", "", False),
    "gaussian": ("in range", "full", "", "", False),
    "uniform": ("in range", "full", "", "", False),
    **{f"batch-{n}": ("shapes", "full", "", "", False) for n in (1, 2, 3, 7, 64, 257)},
    **{f"L-{n}": ("shapes", "full", "", "", False) for n in (2, 3, 5, 16, 40)},
    **dict.fromkeys(("zeros", "ones", "constants", "one-hot"), ("constant", "full", "", "", True)),
    **dict.fromkeys(("times-1", "times0.5", "times3", "times10"), ("straddle", "accurate", "", "", True)),
    **dict.fromkeys(("example-times-1", "example-times10"), ("straddle", "accurate", "", "", True)),
    **dict.fromkeys(("min-max", "times1e4", "times1e-6", "subnormal"), ("extreme", "accurate", "", "", True)),
    **{f"{v}-{e}": ("non-finite", "pattern", "", "", True) for v in ("nan", "inf") for e in ("element", "row")},
    **{f"int-{name}": ("integers", "full", "", "", True) for name in ("highest", "negative")},
    "ties": ("ties", "full", "", "", True),
    **{f"mask-{kind}": ("masks", "full", "", "mask:mask", True) for kind in ("none", "right", "left", "row")},
    **{f"layout-{kind}": ("layout", "full", kind, "", True) for kind in ("transposed", "strided", "expanded")},
    "permuted": ("sequence", "full", "", "permutes:beside-mates", False),
    "alone": ("sequence", "full", "", "", False),
    "beside-mates": ("sequence", "full", "", "first-row-of:alone", False),
    "beside-outlier": ("outlier", "accurate", "", "first-row-of:alone", True),
    "batch-0": ("outside", "outside", "", "", False),
    "L-1": ("outside", "outside", "", "", False),
    "L-41": ("outside", "outside", "", "", False),
    "again": ("sequence", "full", "", "repeats:example", False),
}
"""Every case of a model with tokens, a mask, floats and an index output, that takes ids up to 99: class, gate, layout,
relation, and whether eager may refuse it."""


def test_every_input_class_is_asked_with_its_gate_layout_and_relation():
    found = list(campaign(TOKENS, TOKEN_EXAMPLE, None, 1, {"ids": 99}))
    asked = {case.id: (case.input_class, case.gate, case.layout, case.relation, case.optional) for case in found}
    assert asked == EXPECTED
    assert len(found) == len(asked)
    assert (found[0].id, found[-1].id) == ("example", "again")  # a session that remembers shows it at the end


def test_real_samples_are_a_class_of_their_own_and_come_before_everything_drawn(signature):
    found = list(campaign(signature, EXAMPLE, real(20), 1))
    assert [case.id for case in found[:4]] == ["example", "real", "gaussian", "uniform"]
    assert (found[1].input_class, found[1].gate, found[1].optional) == ("real", "full", False)


def test_relations_name_a_case_that_was_asked_before():
    seen = set()
    for case in campaign(TOKENS, TOKEN_EXAMPLE, None, 1):
        kind, _, other = case.relation.partition(":")
        assert not kind or (other in case.inputs if kind == "mask" else other in seen)
        seen.add(case.id)


def test_the_seed_decides_everything(signature):
    first, again, other = (list(campaign(signature, EXAMPLE, None, seed)) for seed in (1, 1, 2))
    assert [case.id for case in first] == [case.id for case in again] == [case.id for case in other]
    assert {case.seed for case in first} == {1}
    for one, same in zip(first, again, strict=True):
        assert np.array_equal(one.inputs["x"], same.inputs["x"], equal_nan=True)
    fixed = {"example", "example-times-1", "example-times10", "again", "zeros", "ones", "one-hot", "batch-0"}
    drawn = [(a, b) for a, b in zip(first, other, strict=True) if a.id not in fixed]
    assert all(not np.array_equal(a.inputs["x"], b.inputs["x"], equal_nan=True) for a, b in drawn)


def test_cases_are_drawn_apart_and_not_repeated(signature):
    found = {case.id: case.inputs["x"] for case in campaign(signature, EXAMPLE, None, 1)}
    rows = np.concatenate([found[name] for name in ("gaussian", "uniform", "batch-7", "layout-strided", "permuted")])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_real_samples_keep_their_labels_row_by_row(signature, monkeypatch):
    monkeypatch.setattr(values, "MAX_ELEMENTS", 50)  # ten rows a case
    given = real(27)
    parts = [case for case in campaign(signature, EXAMPLE, given, 1) if case.input_class == "real"]
    assert [case.rows for case in parts] == [10, 10, 7]
    assert [case.id for case in parts] == ["real-0", "real-1", "real-2"]
    assert np.array_equal(np.concatenate([case.inputs["x"] for case in parts]), given.real["x"])
    assert np.array_equal(np.concatenate([case.labels for case in parts]), given.labels)


def test_no_more_real_samples_than_anyone_needs(signature, monkeypatch):
    monkeypatch.setattr(values, "MAX_REAL", 11)
    (case,) = (case for case in campaign(signature, EXAMPLE, real(30), 1) if case.input_class == "real")
    assert np.array_equal(case.inputs["x"], real(30).real["x"][:11])
    assert len(case.labels) == 11


@pytest.mark.parametrize(("low", "high", "parts"), [(1, 10, [10, 10, 7]), (4, 8, [8, 8, 8]), (9, 9, [9, 9, 9])])
def test_real_samples_come_in_batches_that_were_promised(low, high, parts):
    ranged = Signature((TensorSpec("x", "float32", ("N", 5)),), dims=(Dim("N", low, high),))
    example = {"x": np.ones((low, 5), np.float32)}
    given = real(27)
    found = [case for case in campaign(ranged, example, given, 1) if case.input_class == "real"]
    assert [case.rows for case in found] == parts
    judged = sum(parts)
    assert np.array_equal(np.concatenate([case.labels for case in found]), given.labels[:judged])


def test_a_fixed_batch_stays_fixed():
    fixed = Signature((TensorSpec("x", "float32", (4, 5)),))
    found = list(campaign(fixed, {"x": np.ones((4, 5), np.float32)}, real(10), 1))
    assert {case.inputs["x"].shape for case in found} == {(4, 5)}
    assert all(case.rows is None for case in found)
    assert [case.id for case in found if case.input_class == "real"] == ["real-0", "real-1"]
    assert not {case.id for case in found} & {"alone", "beside-mates", "batch-0", "layout-expanded"}
    batches = calibration(fixed, {"x": np.ones((4, 5), np.float32)}, real(10), 1)
    assert [len(batch["x"]) for batch in batches] == [4, 4]  # of nine rows


def test_samples_that_do_not_fit_the_model_are_refused(signature):
    fixed = Signature((TensorSpec("x", "float32", (4, 5)),))
    with pytest.raises(UsageError, match="fewer") as caught:
        list(campaign(fixed, {"x": np.ones((4, 5), np.float32)}, real(3), 1))
    assert (caught.value.code, "symbolic" in caught.value.hint) == ("BAD_SAMPLES", True)
    ranged = Signature((TensorSpec("x", "float32", ("N", 5)),), dims=(Dim("N", 4, 8),))
    with pytest.raises(UsageError, match="fewer"):
        list(campaign(ranged, {"x": np.ones((4, 5), np.float32)}, real(3), 1))
    assert list(campaign(signature, EXAMPLE, real(3), 1))  # a free batch repeats what there is
    wrong = Samples({"x": np.zeros((9, 4), np.float32)}, None, {"x": np.zeros((9, 4), np.float32)})
    with pytest.raises(UsageError, match="shape"):
        list(campaign(signature, EXAMPLE, wrong, 1))


def test_nothing_is_larger_than_a_case_may_be(monkeypatch):
    for module in (draw, values, forms):
        monkeypatch.setattr(module, "MAX_ELEMENTS", 600)
    monkeypatch.setattr(draw, "SMALL_ELEMENTS", 150)
    images = Signature((TensorSpec("x", "float32", ("N", 5, "L")),), dims=(Dim("N", 1, 9), Dim("L", 1, 300)))
    example = {"x": np.ones((2, 5, 16), np.float32)}
    found = {case.id: case.inputs["x"] for case in campaign(images, example, None, 1)}
    assert max(array.size for array in found.values()) <= 600
    assert {len(array) for name, array in found.items() if name.startswith("times")} == {2}
    assert "L-64" not in found  # two rows of it would be too large
    assert "L-17" in found
    assert "batch-10" not in found  # one beyond the range is as large as any
    assert found["batch-7"].shape == (7, 5, 16)


def test_one_row_that_is_larger_than_a_case_may_be_is_asked_alone(monkeypatch):
    for module in (draw, values, forms):
        monkeypatch.setattr(module, "MAX_ELEMENTS", 30)
    monkeypatch.setattr(draw, "SMALL_ELEMENTS", 30)
    large = Signature((TensorSpec("x", "float32", ("N", 40)),), dims=(Dim("N"),))
    found = list(campaign(large, {"x": np.ones((1, 40), np.float32)}, None, 1))
    assert {case.rows for case in found} == {0, 1}
    assert [case.id for case in found if case.rows == 0] == ["batch-0"]


def test_calibration_is_disjoint_from_what_is_judged(signature):
    drawn = calibration(signature, EXAMPLE, None, 1)
    judged = np.concatenate([case.inputs["x"] for case in campaign(signature, EXAMPLE, None, 1)])
    rows = {row.tobytes() for batch in drawn for row in batch["x"]}
    assert len(rows) == 64
    assert not rows & {row.tobytes() for row in judged}
    given = calibration(signature, EXAMPLE, real(30), 1)
    assert sum(len(batch["x"]) for batch in given) == 9
    assert given[0]["x"].min() >= 1


# any signature

NAMES = st.sampled_from(["x", "ids", "attention_mask", "image", "mask_2"])
KINDS = st.sampled_from([name for name in DTYPES if not name.startswith("complex")])


@st.composite
def models(drawn):
    """A signature with one to three inputs of 0 to 4 dims, fixed and symbolic with any range, and an example of it."""
    ends = st.tuples(st.integers(1, 6), st.sampled_from([0, 1, 3, 90, 65_529])).map(lambda e: (e[0], e[0] + e[1]))
    dims = [Dim(name, *drawn(ends)) for name in drawn(st.lists(st.sampled_from("NLHW"), unique=True, max_size=3))]
    sizes = {dim.name: drawn(st.integers(dim.min, min(dim.max, dim.min + 4))) for dim in dims}
    lead = drawn(st.sampled_from([None, *sizes])) if dims else None
    size = st.one_of(st.integers(1, 5), st.sampled_from([*sizes])) if dims else st.integers(1, 5)
    specs, example = [], {}
    for name in drawn(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
        rest = drawn(st.lists(size, max_size=3 if lead else 4))
        shape = (lead, *rest) if lead else tuple(rest)
        spec = TensorSpec(name, "int64" if "mask" in name else drawn(KINDS), shape)
        specs.append(spec)
        elements = {"min_value": 0, "max_value": 1} if "mask" in name else _finite(spec.dtype)
        array = drawn(arrays.arrays(spec.dtype, spec.concrete(sizes), elements=elements, fill=st.nothing()))
        example[name] = array
    used = {dim for spec in specs for dim in spec.shape}
    output = drawn(st.sampled_from(["float32", "int64"]))
    kept = tuple(dim for dim in dims if dim.name in used)
    return Signature(tuple(specs), (TensorSpec("output", output, (3,)),), kept), example


def _finite(dtype):
    small = {"min_value": -100, "max_value": 100}
    return {**small, "allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None


@given(models(), st.integers(0, 3), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_signature_gets_a_campaign_whose_every_case_fits_it(model, seed, with_samples):
    signature, example = model
    whole = signature.batch_dim is not None
    samples = Samples(example, None, example) if with_samples and whole else None
    limits = {spec.name: 1 for spec in signature.inputs if spec.dtype == "int64"}
    ranges = {dim.name: (dim.min, dim.max) for dim in signature.dims}
    found = list(campaign(signature, example, samples, seed, limits))
    assert len({case.id for case in found}) == len(found)
    classes = {case.input_class for case in found}
    assert {"example", "in range", "constant", "sequence"} <= classes
    for case in found:
        sizes = signature.sizes_of(case.inputs)  # raises where a name, dtype, rank or dim does not fit
        off = [name for name, size in sizes.items() if not ranges[name][0] <= size <= ranges[name][1]]
        assert len(off) == (case.gate == "outside"), (case.id, sizes, ranges)
        assert case.rows == (sizes[signature.batch_dim] if whole else None)
        assert all(array.flags.c_contiguous for array in case.inputs.values())
        if case.gate != "pattern" and case.id != "times1e4":
            assert all(np.isfinite(array).all() for array in case.inputs.values() if array.dtype.kind == "f"), case.id
    for batch in calibration(signature, example, samples, seed):
        assert signature.sizes_of(batch).keys() == ranges.keys()
