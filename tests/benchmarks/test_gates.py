"""benchmarks/gates.py: the artifacts are real files with the fault that they promise, and the table counts truly."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime
import pytest


def answers(file, feeds):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gates")


@pytest.fixture
def artifacts():
    import gate_artifacts

    return gate_artifacts


def made(artifacts, name, folder):
    (artifact,) = artifacts.by_name(name)
    subject = artifacts.SUBJECTS[artifact.subject]
    feeds = {key: tensor.numpy() for key, tensor in subject.example().items()}
    return artifact, artifacts.make(artifact, folder), feeds


@pytest.mark.parametrize(
    "name",
    [
        "weight-x1.01",
        "sign-flip",
        "channel-zeroed",
        "classes-swapped",
        "bias-dropped",
        "relu-identity",
        "head-in-fp16",
        "inputs-swapped",
        "outputs-swapped",
        "faint-wrong",
        "label-plus-1",
        "layernorm-eps",
        "two-words",
    ],
)
def test_an_altered_file_loads_and_answers_otherwise_than_its_sound_export(artifacts, folder, name):
    artifact, file, feeds = made(artifacts, name, folder)
    onnx.checker.check_model(onnx.load(file))
    wrong, right = answers(file, feeds), answers(folder / artifact.subject / "base.onnx", feeds)
    assert [array.shape for array in wrong] == [array.shape for array in right]
    assert any(not np.array_equal(a, b) for a, b in zip(wrong, right, strict=True))


def test_the_relu_that_hides_nan_is_right_on_numbers_and_wrong_on_nan(artifacts, folder):
    artifact, file, feeds = made(artifacts, "relu-hides-nan", folder)
    base = folder / artifact.subject / "base.onnx"
    np.testing.assert_allclose(answers(file, feeds)[0], answers(base, feeds)[0], rtol=1e-6)
    feeds["x"][0, 0] = np.nan
    assert np.isfinite(answers(file, feeds)[0][0]).all()


@pytest.mark.parametrize("name", ["input-clipped", "rows-over-100"])
def test_a_fault_out_of_sight_is_no_fault_on_the_example(artifacts, folder, name):
    artifact, file, feeds = made(artifacts, name, folder)
    base = folder / artifact.subject / "base.onnx"
    np.testing.assert_array_equal(answers(file, feeds)[0], answers(base, feeds)[0])
    far = {"x": np.tile(feeds["x"], (30, 1)) * np.float32(5)}
    wrong, right = answers(file, far)[0], answers(base, far)[0]
    assert wrong.shape == right.shape
    assert not np.array_equal(wrong, right)


def test_the_ignored_mask_shows_only_with_padding(artifacts, folder):
    artifact, file, feeds = made(artifacts, "mask-ignored", folder)
    base = folder / artifact.subject / "base.onnx"
    np.testing.assert_allclose(answers(file, feeds)[0], answers(base, feeds)[0], atol=1e-5)
    feeds["mask"][:, 8:] = 0
    assert np.abs(answers(file, feeds)[0] - answers(base, feeds)[0]).max() > 1e-2


def test_the_baked_batch_takes_no_other(artifacts, folder):
    _, file, feeds = made(artifacts, "batch-baked", folder)
    answers(file, feeds)
    with pytest.raises(Exception, match="invalid dimensions"):
        answers(file, {"x": feeds["x"][:2]})


def test_a_traced_branch_answers_as_the_example_decided(artifacts, folder):
    artifact, file, feeds = made(artifacts, "branch-baked", folder)
    import torch

    module = artifacts.SUBJECTS[artifact.subject].build()
    torch.testing.assert_close(torch.from_numpy(answers(file, feeds)[0]), module(torch.from_numpy(feeds["x"])))
    other = -feeds["x"]
    assert not np.allclose(answers(file, {"x": other})[0], module(torch.from_numpy(other)).detach(), atol=1e-3)


def test_a_fault_that_changes_nothing_is_refused(artifacts, folder):
    artifact, _, _ = made(artifacts, "mlp", folder)
    subject, base = artifacts.SUBJECTS[artifact.subject], folder / "mlp" / "base.onnx"
    with pytest.raises(ValueError, match="did not change"):
        artifacts.weight("fc2.weight", lambda w: w)(subject, base, folder / "same.onnx")
    with pytest.raises(LookupError, match="0 initializers"):
        artifacts.weight("fc9.weight", lambda w: -w)(subject, base, folder / "none.onnx")


def test_an_unknown_artifact_is_named(artifacts):
    with pytest.raises(SystemExit, match="no artifact nonsense"):
        artifacts.by_name("mlp,nonsense")


def test_names_are_unique_and_every_broken_artifact_has_a_sound_twin_or_a_reason(artifacts):
    names = [artifact.name for artifact in (*artifacts.BROKEN, *artifacts.HEALTHY)]
    assert len(names) == len(set(names))
    sound = {artifact.subject for artifact in artifacts.HEALTHY}
    assert {a.subject for a in artifacts.BROKEN if a.born != "traced"} <= sound
    assert all(a.twin for a in artifacts.BROKEN if a.precision != "fp32")


def test_cells_and_totals(artifacts):
    import gates

    chosen = artifacts.by_name("sign-flip,branch-baked,mlp")
    said = {
        "deploykit": [gates.Answer(alarm=True, said="VALUE_MISMATCH zeros: far"), gates.Answer(), gates.Answer()],
        "other": [gates.Answer(warned=True), gates.Answer(why_not="cannot"), gates.Answer(alarm=True)],
    }
    found = {tool: dict(zip((a.name for a in chosen), given, strict=True)) for tool, given in said.items()}
    table = gates.rows(chosen, found)
    assert [row[2:] for row in table[1:]] == [
        ["caught (VALUE_MISMATCH)", "warned"],
        ["missed", "n/a"],
        ["ok", "false alarm"],
    ]
    counted = gates.totals(chosen, found)
    assert counted == {
        "deploykit": {"caught": 1, "missed": 1, "ok": 1},
        "other": {"false alarm": 1, "n/a": 1, "warned": 1},
    }
    text = gates.markdown(table, counted)
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_who_complains_of_the_sound_twin_too_has_caught_nothing(artifacts):
    import gates

    (wrong,) = artifacts.by_name("int8-scale")
    alarm, quiet = gates.Answer(alarm=True), gates.Answer()
    assert gates.cell(wrong, {"int8-scale": alarm, "mlp-int8-static": alarm}) == "either way"
    assert gates.cell(wrong, {"int8-scale": alarm, "mlp-int8-static": quiet}) == "caught"
    assert gates.cell(wrong, {"int8-scale": quiet, "mlp-int8-static": alarm}) == "missed"
    every = {artifact.name for artifact in artifacts.HEALTHY}
    assert all(artifact.twin in every for artifact in artifacts.BROKEN if artifact.twin)


def test_no_path_of_this_machine_stays(tmp_path):
    import gates

    assert gates.plain(f"cannot open {tmp_path}/model.onnx\n twice", tmp_path) == "cannot open /model.onnx twice"


def test_questions_are_answered_and_a_dead_process_is_an_alarm(artifacts, folder, tmp_path, monkeypatch):
    import gates

    artifact, _, _ = made(artifacts, "sign-flip", folder)
    bench = gates.Bench(folder, tmp_path)
    arguments = [bench.file(artifact), bench.weights(artifact)]
    sound = [str(folder / "mlp" / "base.onnx"), bench.weights(artifact)]
    questions = [
        gates._question("allclose", "broken", "mlp", arguments),
        gates._question("allclose", "sound", "mlp", sound),
    ]
    found = bench.asked(sys.executable, questions)
    assert found["broken"].alarm
    assert "Not equal to tolerance" in found["broken"].said
    assert not found["sound"].alarm
    (tmp_path / "gate_ask.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.setattr(gates, "HERE", tmp_path)
    assert bench.asked(sys.executable, questions[:1]) == {
        "broken": gates.Answer(alarm=True, said="the process ended with 7")
    }
