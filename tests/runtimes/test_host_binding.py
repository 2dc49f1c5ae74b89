"""ONNX Runtime's settings on the CPU: whatever is set, the answers are those of the default. Real sessions."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from deploykit.errors import WorkError
from deploykit.runtimes._host_binding import shape_of
from deploykit.runtimes.onnxruntime import Runtime
from deploykit.session import SessionSettings

EVERY = [
    SessionSettings(threads=threads, graph_level=level, spinning=spinning, arena=arena, binding=binding)
    for threads, level, spinning, arena, binding in product(
        (1, 2), ("disable", "all"), (True, False), (True, False), (True, False)
    )
]
BOUND = SessionSettings(threads=1, binding=True)


def declared(name, kind, dims):
    return helper.make_tensor_value_info(name, kind, dims)


def model(path: Path, nodes, inputs, outputs, constants=()) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in constants])
    save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture
def several(tmp_path):
    """Outputs of several kinds: float32 and int64, of known shape, without dims, the input itself, and a constant."""
    weight = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
        helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Identity", ["w"], ["weight"]),
        helper.make_node("Greater", ["y", "product"], ["above"]),
    ]
    outputs = [
        declared("y", TensorProto.FLOAT, ["N", 4]),
        declared("total", TensorProto.FLOAT, []),
        declared("best", TensorProto.INT64, ["N"]),
        declared("same", TensorProto.FLOAT, ["N", 6]),
        declared("weight", TensorProto.FLOAT, [6, 4]),
        declared("above", TensorProto.BOOL, ["N", 4]),
    ]
    return model(
        tmp_path / "m.onnx", nodes, [declared("x", TensorProto.FLOAT, ["N", 6])], outputs, [("w", weight)]
    )  # fmt: skip


@pytest.fixture
def counting(tmp_path):
    """An output as long as the input has positive values: no shape of an input tells it."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("NonZero", ["positive"], ["places"]),
        helper.make_node("Neg", ["x"], ["y"]),
    ]
    outputs = [declared("places", TensorProto.INT64, [2, "count"]), declared("y", TensorProto.FLOAT, ["N", 6])]
    constants = [("zero", np.zeros((), np.float32))]
    return model(tmp_path / "c.onnx", nodes, [declared("x", TensorProto.FLOAT, ["N", 6])], outputs, constants)


def opened(path, settings):
    return Runtime().open(path, (), settings)


def drawn(rows, seed=1):
    return np.random.default_rng(seed).standard_normal((rows, 6)).astype(np.float32)


def same(actual, expected, exact=True):
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert (actual[name].shape, actual[name].dtype) == (array.shape, array.dtype)
        if exact:
            np.testing.assert_array_equal(actual[name], array)
        else:
            np.testing.assert_allclose(actual[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", EVERY, ids=lambda settings: settings.words)
def test_every_setting_gives_the_same_answers(several, counting, settings):
    for path in (several, counting):
        plain, session = opened(path, SessionSettings(threads=1)), opened(path, settings)
        assert session.threads == settings.threads
        for rows in (2, 1, 0, 7, 2):  # sizes change between calls, and one holds nothing
            feeds = {"x": drawn(rows, rows)}
            same(session.run(feeds), plain.run(feeds), exact=False)
            answer = session.prepare(feeds)()
            same(dict(zip(plain.run(feeds), answer, strict=True)), plain.run(feeds), exact=False)


@pytest.mark.parametrize("layout", ["strided", "transposed", "reversed", "read-only"])
@pytest.mark.parametrize("binding", [False, True])
def test_inputs_may_lie_in_any_way(several, layout, binding):
    x = drawn(4)
    given = {
        "strided": np.repeat(x, 2, axis=1)[:, ::2],
        "transposed": np.asfortranarray(x),
        "reversed": x[:, ::-1].copy()[:, ::-1],
        "read-only": x.copy(),
    }[layout]
    given.flags.writeable = layout != "read-only"
    session = opened(several, SessionSettings(threads=1, binding=binding))
    expected = opened(several, SessionSettings(threads=1)).run({"x": x})
    same(session.run({"x": given}), expected)
    same(dict(zip(expected, session.prepare({"x": given})(), strict=True)), expected)


def test_a_prepared_call_sees_new_values_and_keeps_its_buffers(several):
    session, x = opened(several, BOUND), drawn(3)
    call = session.prepare({"x": x})
    first = call()
    before = [array.copy() for array in first]
    x[:] = drawn(3, 9)  # the caller's own array: bound where it lies
    second = call()
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert not np.array_equal(before[0], second[0])
    same(dict(zip("ytbswa", second, strict=True)), dict(zip("ytbswa", session.run({"x": x}).values(), strict=True)))


def test_the_rotation_shares_buffers_and_every_call_answers_for_its_own_set(several):
    session = opened(several, BOUND)
    sets = [{"x": drawn(3, seed)} for seed in range(4)]
    calls = [session.prepare(one) for one in sets]
    plain = opened(several, SessionSettings(threads=1))
    for _ in range(3):
        for one, call in zip(sets, calls, strict=True):
            same(dict(zip(plain.run(one), call(), strict=True)), plain.run(one))
    assert calls[0]()[0] is calls[3]()[0]


def test_an_answer_of_run_is_the_callers_own(several):
    session = opened(several, BOUND)
    first = session.run({"x": drawn(3, 1)})
    kept = {name: array.copy() for name, array in first.items()}
    session.run({"x": drawn(3, 2)})
    same(first, kept)


def test_a_shape_that_the_data_decide_is_left_to_the_engine(counting):
    session, x = opened(counting, BOUND), drawn(3)
    call = session.prepare({"x": x})
    for seed in (1, 2, 3):
        x[:] = drawn(3, seed)
        places, negative = call()
        np.testing.assert_array_equal(places, np.nonzero(x > 0))
        np.testing.assert_array_equal(negative, -x)


def test_outputs_that_are_no_tensors_are_not_bound(tmp_path):
    value = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, ["N", 1])
    nodes = [helper.make_node("SplitToSequence", ["x"], ["parts"], axis=1)]
    path = model(tmp_path / "s.onnx", nodes, [declared("x", TensorProto.FLOAT, ["N", 6])], [value])
    session = opened(path, BOUND)
    assert len(session.run({"x": drawn(2)})["parts"]) == 6
    assert len(session.prepare({"x": drawn(2)})()[0]) == 6


def test_a_declared_shape_that_is_not_true_is_an_error_and_no_wrong_answer(tmp_path):
    nodes = [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)]
    outputs = [declared("y", TensorProto.FLOAT, ["N", 6])]  # in truth 2 N
    path = model(tmp_path / "l.onnx", nodes, [declared("x", TensorProto.FLOAT, ["N", 6])], outputs)
    with pytest.raises(WorkError) as caught:
        opened(path, BOUND).run({"x": drawn(2)})
    assert caught.value.code == "RUN_ERROR"


def test_wrong_feeds_are_one_clean_error(several):
    session = opened(several, BOUND)
    for feeds in ({}, {"z": drawn(2)}, {"x": drawn(2)[:, :3]}, {"x": drawn(2).astype(np.int64)}):
        with pytest.raises(WorkError) as caught:
            session.run(feeds)
        assert caught.value.code == "RUN_ERROR"


def test_settings_reach_the_session(several):
    for spinning, arena in product((True, False), repeat=2):
        settings = SessionSettings(threads=2, spinning=spinning, arena=arena)
        options = opened(several, settings)._session.get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == str(int(spinning))
        assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (arena, arena)


def test_shape_of():
    assert shape_of(("N", 3), {"N": 2}) == (2, 3)
    assert shape_of((), {}) == ()
    assert shape_of(("N", 3), {"N": 0}) == (0, 3)
    assert shape_of(("M", 3), {"N": 2}) is None
    assert shape_of((None, 3), {"": 2}) is None or shape_of((None, 3), {"N": 2}) is None
