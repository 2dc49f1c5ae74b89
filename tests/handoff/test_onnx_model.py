"""`onnx_model.py` of a folder: a real session with the settings it was given, and no request that does not fit."""

import json

import numpy as np
import onnxruntime
import pytest

from deploykit.handoff import _onnx_config, _onnx_model
from deploykit.handoff._onnx_model import OnnxModel, Sent, UnfitError
from deploykit.runtimes import onnxruntime as engine
from deploykit.session import SessionSettings
from deploykit.wire_tensors import DATATYPES
from tests.handoff.nets import build, given


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    build(path)
    return path


def config(settings):
    handed = given(settings)
    return json.loads(json.dumps(_onnx_config.config(handed, handed.latest)))  # as the folder's file has it


@pytest.fixture
def model(artifact):
    return OnnxModel(artifact, config(SessionSettings(threads=1)))


def sound():
    """What fits: two rows of three tokens."""
    return {
        "tokens": Sent("tokens", "INT64", (2, 3), [[1, 2, 3], [6, 5, 4]]),
        "scale": Sent("scale", "FP32", (), [0.5]),
        "mask": Sent("mask", "BOOL", (3,), [True, False, True]),
    }


def changed(**parts):
    """The sound request with other tensors; None leaves one out."""
    return [one for one in {**sound(), **parts}.values() if one is not None]


def test_it_computes_what_the_model_computes(model):
    answer = model.infer(sound().values())
    assert list(answer) == ["scores", "largest"]
    np.testing.assert_array_equal(answer["scores"], np.float32([[0.5, 0, 1.5], [3, 0, 2]]))
    np.testing.assert_array_equal(answer["largest"], [3, 6])
    assert (answer["scores"].dtype, answer["largest"].dtype) == (np.float32, np.int64)


def test_bytes_are_the_same_as_numbers(model):
    tokens = np.array([[1, 2, 3], [6, 5, 4]], "<i8").tobytes()
    sent = changed(
        tokens=Sent("tokens", "INT64", (2, 3), tokens),
        scale=Sent("scale", "FP32", (), np.array(0.5, "<f4").tobytes()),
        mask=Sent("mask", "BOOL", (3,), b"\1\0\1"),
    )
    as_numbers = model.infer(sound().values())
    for name, array in model.infer(sent).items():
        np.testing.assert_array_equal(array, as_numbers[name])


def test_outputs_may_be_chosen(model):
    assert list(model.infer(sound().values(), ["largest", "largest"])) == ["largest"]
    with pytest.raises(UnfitError, match="no output 'other'; there are scores, largest"):
        model.infer(sound().values(), ["largest", "other"])


UNFIT = {
    "missing": (changed(scale=None), "the inputs are tokens, scale, mask"),
    "more": ([*changed(), Sent("extra", "FP32", (), [1.0])], "sent were tokens, scale, mask, extra"),
    "twice": ([*changed(mask=None), sound()["scale"]], "sent were tokens, scale, scale"),
    "datatype": (changed(tokens=Sent("tokens", "INT32", (1, 2), [1, 2])), "tokens is INT64, not INT32"),
    "rank": (changed(tokens=Sent("tokens", "INT64", (3,), [1, 2, 3])), r"\[N, T\], not \[3\]"),
    "scalar": (changed(scale=Sent("scale", "FP32", (1,), [1.0])), r"shape \[\], not \[1\]"),
    "below": (changed(tokens=Sent("tokens", "INT64", (0, 3), [])), "N is one size from 1 to 16"),
    "above": (changed(tokens=Sent("tokens", "INT64", (17, 3), [1] * 51)), "N is one size from 1 to 16"),
    "negative": (changed(tokens=Sent("tokens", "INT64", (-1, -3), [1, 2, 3])), "N is one size"),
    "two sizes": (changed(mask=Sent("mask", "BOOL", (2,), [True, True])), "T is one size from 2 to 8"),
    "too few": (changed(tokens=Sent("tokens", "INT64", (2, 3), [1, 2, 3])), r"3 values, nested 1 deep, for \[2, 3\]"),
    "nested": (changed(tokens=Sent("tokens", "INT64", (2, 3), [[1, 2], [3, 4], [5, 6]])), "6 values, nested 2 deep"),
    "ragged": (changed(tokens=Sent("tokens", "INT64", (2, 3), [[1, 2, 3], [4, 5]])), "no list of numbers"),
    "bytes": (changed(scale=Sent("scale", "FP32", (), b"123")), r"3 bytes for the shape \[\] of FP32"),
    "fraction": (changed(tokens=Sent("tokens", "INT64", (1, 3), [1, 2.5, 3])), "not all of its data are INT64"),
    "whole float": (changed(tokens=Sent("tokens", "INT64", (1, 3), [1.0, 2.0, 3.0])), "not all of its data are INT64"),
    "text": (changed(scale=Sent("scale", "FP32", (), ["1.5"])), "not all of its data are FP32"),
    "null": (changed(scale=Sent("scale", "FP32", (), [None])), "not all of its data are FP32"),
    "object": (changed(scale=Sent("scale", "FP32", (), [{}])), "not all of its data are FP32"),
    "zero for false": (changed(mask=Sent("mask", "BOOL", (3,), [0, 1, 1])), "not all of its data are BOOL"),
    "true for one": (changed(tokens=Sent("tokens", "INT64", (1, 3), [True] * 3)), "not all of its data are INT64"),
    "beyond int64": (changed(tokens=Sent("tokens", "INT64", (1, 3), [2**63, 1, 1])), "outside INT64"),
    "beyond all": (changed(tokens=Sent("tokens", "INT64", (1, 3), [2**70, 1, 1])), "not all of its data are INT64"),
    "beyond float32": (changed(scale=Sent("scale", "FP32", (), [1e39])), "too large for FP32"),
}


@pytest.mark.parametrize(("sent", "said"), UNFIT.values(), ids=UNFIT.keys())
def test_what_does_not_fit_is_refused(model, sent, said):
    with pytest.raises(UnfitError, match=said):
        model.infer(sent)
    assert model.infer(sound().values())  # and nothing of it stays


@pytest.mark.parametrize("dtype", sorted(DATATYPES))
def test_the_ends_of_every_datatype_pass(dtype):
    info = np.finfo(dtype) if np.dtype(dtype).kind == "f" else None if dtype == "bool" else np.iinfo(dtype)
    ends = np.array([False, True] if info is None else [info.min, info.max], dtype)
    found = _onnx_model.array_of(Sent("x", DATATYPES[dtype], (2,), ends.tolist()))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, ends)
    if info is not None and dtype != "float64":
        with pytest.raises(UnfitError):
            _onnx_model.array_of(Sent("x", DATATYPES[dtype], (1,), [ends[1].item() * 2]))


def test_it_knows_the_datatypes_of_deploykit():
    assert DATATYPES == _onnx_model.DATATYPES


def test_metadata_says_minus_one_for_a_symbolic_dim(model):
    assert model.described("inputs")[0] == {"name": "tokens", "datatype": "INT64", "shape": [-1, -1]}
    assert model.described("inputs")[1] == {"name": "scale", "datatype": "FP32", "shape": []}
    assert [one["name"] for one in model.described("outputs")] == ["scores", "largest"]


SETTINGS = [
    SessionSettings(),
    SessionSettings(threads=1, graph_level="disable", spinning=False, arena=False),
    SessionSettings(threads=2, graph_level="basic", spinning=False),
    SessionSettings(threads=3, graph_level="extended", arena=False),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.words or "default")
def test_sessions_open_as_where_the_model_was_verified(artifact, settings):
    ours = OnnxModel(artifact, config(settings))
    theirs = engine.Runtime().open(artifact, (), settings)
    sides = [session._session.get_session_options() for session in (ours, theirs)]
    for name in (
        "intra_op_num_threads", "inter_op_num_threads", "graph_optimization_level", "enable_cpu_mem_arena",
        "enable_mem_pattern", "execution_mode", "log_severity_level",
    ):  # fmt: skip
        assert getattr(sides[0], name) == getattr(sides[1], name), name
    spinning = [side.get_session_config_entry("session.intra_op.allow_spinning") for side in sides]
    assert spinning[0] == spinning[1] == ("1" if settings.spinning else "0")
    assert f"threads={settings.threads or 'default'} " in ours.opened()


def test_another_provider_than_asked_for_is_no_session(artifact, monkeypatch):
    known = config(SessionSettings("XnnpackExecutionProvider"))
    plain = onnxruntime.InferenceSession

    def falling_back(path, options, providers):
        assert providers == ["XnnpackExecutionProvider"]
        return plain(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(_onnx_model.ort, "InferenceSession", falling_back)
    with pytest.raises(RuntimeError, match="opened on CPUExecutionProvider, not on Xnnpack"):
        OnnxModel(artifact, known)
