"""The steps themselves, called in this process: what children run, on real models and real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from deploykit.errors import InternalError, RefusedError, UsageError, WorkError
from deploykit.inputs import Samples
from deploykit.isolation import Inline
from deploykit.reference import load_arrays
from deploykit.steps import live

SOURCE = """
import torch
from torch import nn

def build():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), torch.randn(2, 6)
"""
CPU = {"provider": "CPUExecutionProvider", "threads": 1, "graph_level": "all"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A stage as export leaves it: reference, weights, and three variants, made step by step."""
    folder = tmp_path_factory.mktemp("stage")
    (folder / "net.py").write_text(SOURCE)
    source = {"kind": "python", "target": f"{folder / 'net.py'}:build", "inputs": []}
    places = {"stage": str(folder), "scratch": str(folder), "asked": str(folder / "asked")}
    captured = Inline().call("capturing:capture", source=source, samples=None, seed=0, without={}, **places)
    weights = str(folder / "source" / "weights.safetensors")
    shared = {"source": source, "weights": weights, "signature": captured["signature"], "options": {}}
    for exporter, file in (("torchscript", "m.ts"), ("torch-export", "m.pt2"), ("onnx", "m.onnx")):
        Inline().call("exporting:export", exporter=exporter, target=str(folder / file), **shared)
    yield folder, captured, shared
    live.release()


def names(captured, side):
    return [spec["name"] for spec in captured["signature"][side]]


def answer(made, file, runtime, **changes):
    folder, captured, _ = made
    wanted = {case["id"]: str(folder / case["file"]) for case in captured["reference"]["cases"] if case["rows"] == 3}
    answers = folder / f"answers-{file}"
    answers.mkdir(exist_ok=True)
    arguments = {
        "runtime": runtime, "artifact": str(folder / file), "input_names": names(captured, "inputs"),
        "output_names": names(captured, "outputs"), "settings": CPU, "cases": wanted, "answers": str(answers),
    }  # fmt: skip
    return Inline().call("sessions:answer", **{**arguments, **changes}), wanted, answers


@pytest.mark.parametrize(
    ("file", "runtime"), [("m.ts", "torchscript"), ("m.pt2", "torch-export"), ("m.onnx", "onnxruntime")]
)
def test_a_session_answers_every_case_as_eager_did(made, file, runtime):
    told, wanted, answers = answer(made, file, runtime)
    assert told["provider"] == CPU["provider"]
    assert told["errors"] == {}
    assert wanted
    for case, path in wanted.items():
        stored = load_arrays(Path(path))
        given = load_arrays(answers / f"{case}.safetensors")
        assert told["order"][case] == ["output"]
        assert np.allclose(given["output"], stored["expected/output"], atol=1e-5)


def test_the_eager_runtime_builds_the_source_and_takes_the_recorded_weights(made):
    folder, _, shared = made
    (folder / "eager.json").write_text(json.dumps({"source": shared["source"], "weights": shared["weights"]}))
    told, wanted, answers = answer(made, "eager.json", "eager")
    assert told["errors"] == {}
    for case, path in wanted.items():
        exact = load_arrays(Path(path))["expected/output"]
        assert np.array_equal(load_arrays(answers / f"{case}.safetensors")["output"], exact)


def test_a_case_that_fails_is_that_cases_error_and_the_others_go_on(made):
    folder, captured, _ = made
    cases = {
        case["id"]: str(folder / case["file"]) for case in captured["reference"]["cases"] if case["rows"] in (2, 3)
    }
    spoiled = dict(load_arrays(Path(cases["batch-2"])))
    spoiled["inputs/input"] = spoiled.pop("inputs/input")[:, :5].copy()
    from deploykit.reference import save_arrays

    save_arrays(spoiled, folder / "spoiled.safetensors")
    told, _, _ = answer(made, "m.onnx", "onnxruntime", cases={**cases, "batch-2": str(folder / "spoiled.safetensors")})
    assert set(told["errors"]) == {"batch-2"}
    assert told["errors"]["batch-2"]["code"] == "RUN_ERROR"
    assert "batch-3" in told["order"]


def test_a_process_that_replaced_a_dead_one_loads_the_model_again_with_the_recorded_weights(made):
    folder, _, shared = made
    live.release()
    again = Inline().call("exporting:export", exporter="onnx", target=str(folder / "again.onnx"), **shared)
    assert again["options"]["opset"] == again["facts"]["opset"] == 20
    assert (folder / "again.onnx").read_bytes() == (folder / "m.onnx").read_bytes()
    live.release()
    with pytest.raises(InternalError):
        Inline().call("exporting:export", exporter="onnx", target=str(folder / "x"), **{**shared, "source": None})
    live.load(shared["source"])


@pytest.mark.parametrize(("name", "smaller"), [("fp16", 0.8), ("int8-dynamic", 1.2), ("int8-static", 2.0)])
def test_a_transform_writes_another_file_and_leaves_its_base(made, name, smaller):
    folder, captured, _ = made
    before = (folder / "m.onnx").read_bytes()
    told = Inline().call(
        "transforming:transform", name=name, artifact=str(folder / "m.onnx"), target=str(folder / name / "m.onnx"),
        calibration=captured["calibration"], input_names=names(captured, "inputs"), options={},
    )  # fmt: skip
    made_size = (folder / name / "m.onnx").stat().st_size
    assert made_size != len(before)
    assert made_size < smaller * len(before) + 4096  # a tiny graph: the nodes weigh more than the weights
    assert isinstance(told["options"], dict)
    assert (folder / "m.onnx").read_bytes() == before


def test_the_summary_of_an_onnx_file_names_what_is_in_it(made):
    folder, _, _ = made
    summary = Inline().call("inspecting:onnx_summary", artifact=str(folder / "m.onnx"))
    assert summary["inputs"] == ["input:float32[N,6]"]
    assert summary["outputs"] == ["output:float32[N,4]"]
    assert summary["opset"] == {"ai.onnx": 20}
    assert summary["operators"]["Gemm"] == 2
    assert summary["elements_by_type"]["float"] == 6 * 16 + 16 + 16 * 4 + 4


@pytest.mark.parametrize("content", [b"text", b"\x08\x0a\x12\x00", b""])
def test_what_is_no_onnx_model_is_refused(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(RefusedError):
        Inline().call("inspecting:onnx_summary", artifact=str(tmp_path / "x.onnx"))


def test_an_edited_weight_is_found_by_name_and_place(made, tmp_path):
    folder, _, shared = made
    assert Inline().call("inspecting:weights", artifact=str(folder / "m.onnx"), weights=shared["weights"]) == []
    model = onnx.load(folder / "m.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == "2.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[1, 5] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "edited.onnx")
    (found,) = Inline().call("inspecting:weights", artifact=str(tmp_path / "edited.onnx"), weights=shared["weights"])
    assert found.startswith("weight 2.weight[1, 5] is not the source's")
    assert "1 of 64 differ" in found


def test_plugins_say_what_they_can_do_here():
    assert Inline().call("facts:unavailable", kind="exporters", name="onnx") is None
    for runtime in ("onnxruntime", "torchscript"):
        told = Inline().call("facts:runtime", name=runtime)
        assert CPU["provider"] in told["providers"]
        assert set(told["missing"]) == {"CUDAExecutionProvider"} - set(told["providers"])
        assert all(told["missing"].values())


def test_training_writes_a_checkpoint_and_the_samples_it_never_saw(tmp_path):
    request = {
        "data": "digits", "root": "data", "download": False, "epochs": 2, "optimizer": "sgd", "lr": None, "seed": 1,
    }  # fmt: skip
    heard: list[str] = []
    record = Inline().call(
        "training:train", request=request, checkpoint=str(tmp_path / "c.safetensors"),
        samples=str(tmp_path / "s.npz"), note=heard.append,
    )  # fmt: skip
    assert len(record["losses"]) == 2
    assert record["losses"][1] < record["losses"][0]
    assert [line.split()[0] for line in heard] == ["epoch", "epoch", "test"]
    assert load_arrays(tmp_path / "c.safetensors")["hidden.weight"].shape == (128, 784)
    given = Samples.load(tmp_path / "s.npz")
    assert (len(given.labels), len(given.calibration["image"])) == (700, 160)
    assert "digits" in given.origin
    Inline().call("training:held_out", request=request, samples=str(tmp_path / "again.npz"))
    assert np.array_equal(Samples.load(tmp_path / "again.npz").real["image"], given.real["image"])
    with pytest.raises(UsageError):
        Inline().call("training:train", request={**request, "optimizer": "no"}, checkpoint="x", samples=None)


def test_a_plugin_that_cannot_work_here_says_so(made, monkeypatch):
    from deploykit.exporters.onnx import Exporter

    _, _, shared = made
    monkeypatch.setattr(Exporter, "unavailable", lambda self: "the package onnxscript is not installed")
    with pytest.raises(WorkError) as caught:
        Inline().call("exporting:export", exporter="onnx", target="x", **shared)
    assert caught.value.code == "PACKAGE_MISSING"


def test_an_adopted_module_is_the_live_one():
    with torch.no_grad():
        assert live.current().module.training is False
