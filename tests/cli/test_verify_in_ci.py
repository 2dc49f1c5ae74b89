"""verify as a CI runs it, for real: baselines over an upgrade, annotations, and the job summary under its cap."""

from __future__ import annotations

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def baseline(cli, tiny_bundle, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("baseline") / "baseline.json"
    done = cli("verify", tiny_bundle, "--baseline", path, "--update-baseline", "--quiet")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^baseline: written: 3 variants, \d+ checks, \d answers of eager$", done.stdout, re.MULTILINE)
    return path


def edited(bundle: Path, target: Path, factor: float) -> Path:
    """A copy whose ONNX variant has all weights times `factor`, with a manifest that says so."""
    import onnx
    from onnx import numpy_helper

    shutil.copytree(bundle, target)
    path = target / "variants/onnx/model.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f":
            tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), tensor.name))
    path.write_bytes(model.SerializeToString())
    manifest = json.loads((target / "manifest.json").read_text())
    content = path.read_bytes()
    for record in manifest["files"]:
        if record["path"] == "variants/onnx/model.onnx":
            record.update(size=len(content), sha256=sha256(content).hexdigest())
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def test_the_same_bundle_is_no_worse_and_the_stored_answer_knows_no_baseline(cli, tiny_bundle, baseline):
    done = cli("verify", tiny_bundle, "--baseline", baseline, "--quiet")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^baseline: \d+ checks and \d answers of eager: none is worse$", done.stdout, re.MULTILINE)
    assert json.loads((tiny_bundle / "reports/verify.json").read_text())["baseline"] is None


def test_an_artifact_within_its_budget_and_worse_than_it_was_fails_only_with_the_baseline(
    cli, tiny_bundle, baseline, tmp_path
):
    worse = edited(tiny_bundle, tmp_path / "tiny", 1 + 2.5e-7)
    assert cli("verify", worse, "--variants", "onnx").returncode == 0
    done = cli("verify", worse, "--variants", "onnx", "--baseline", baseline, "--junit", tmp_path / "junit.xml")
    assert done.returncode == 1, done.stdout
    assert "FAIL" in done.stdout.splitlines()[0]
    assert "baseline: FAIL, BASELINE_DRIFT: " in done.stdout
    assert re.search(r"^baseline worse: onnx \S+ output R [\d.]+ → [\d.]+: ", done.stdout, re.MULTILINE)
    assert 'type="BASELINE_DRIFT"' in (tmp_path / "junit.xml").read_text()


def test_eager_that_changed_under_the_same_weights_is_found_though_every_variant_follows_it(
    cli, tiny_source, baseline, tmp_path
):
    """What an upgrade of torch could do: the exporters agree with the new eager, so verify alone sees nothing."""
    old = Path(tiny_source.split(":")[1]).read_text()
    (tmp_path / "tiny.py").write_text(
        old.replace("torch.relu(", "torch.nn.functional.leaky_relu(negative_slope=1e-4, input=")
    )
    bundle = tmp_path / "bundle"
    source = f"python:{tmp_path / 'tiny.py'}:build"
    assert cli("export", source, "-o", bundle, "--variants", "onnx").returncode == 0
    assert cli("verify", bundle).returncode == 0
    done = cli("verify", bundle, "--variants", "onnx", "--baseline", baseline, "--json", "-")
    assert done.returncode == 1, done.stdout
    found = json.loads(done.stdout)
    assert (found["verdict"], found["exit_code"], found["baseline"]["code"]) == ("fail", 1, "REFERENCE_DRIFT")
    assert {variant["verdict"] for variant in found["variants"]} == {"pass"}
    drifts = [drift for drift in found["baseline"]["drifts"] if drift["verdict"] == "fail"]
    assert {drift["code"] for drift in drifts} == {"REFERENCE_DRIFT"}
    assert all(drift["after"] > 10 for drift in drifts)


def test_packages_that_changed_since_are_named(cli, tiny_bundle, baseline, tmp_path):
    data = json.loads(baseline.read_text())
    data["packages"]["onnxruntime"] = "1.0.0"
    (tmp_path / "old.json").write_text(json.dumps(data))
    done = cli("verify", tiny_bundle, "--variants", "onnx", "--baseline", tmp_path / "old.json")
    assert done.returncode == 0
    assert re.search(r"^changed since the baseline: onnxruntime 1\.0\.0 → \S+$", done.stdout, re.MULTILINE)


def test_other_weights_and_a_malformed_baseline_end_before_the_work(cli, tiny_bundle, baseline, tmp_path):
    data = json.loads(baseline.read_text())
    data["source"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(data))
    done = cli("verify", tiny_bundle, "--baseline", tmp_path / "other.json")
    assert done.returncode == 2
    assert done.stderr.startswith("error[BASELINE_OTHER_MODEL]: ")
    (tmp_path / "broken.json").write_text("{")
    done = cli("verify", tiny_bundle, "--baseline", tmp_path / "broken.json")
    assert done.returncode == 5
    assert done.stderr.startswith("error[MALFORMED]: ")
    assert len(done.stderr.splitlines()) == 1
    assert cli("verify", tiny_bundle, "--update-baseline").returncode == 2


def test_annotations_come_on_stderr_in_a_job_of_github_and_stdout_stays_one_document(cli, tiny_bundle, tmp_path):
    broken = edited(tiny_bundle, tmp_path / "tiny", 1.1)
    arguments = ("verify", broken, "--variants", "onnx", "--quiet", "--json", "-")
    done = cli(*arguments, GITHUB_ACTIONS="true")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("::error ")
    assert "title=tiny onnx%3A VALUE_MISMATCH::fail: " in line
    assert json.loads(done.stdout)["verdict"] == "fail"
    assert cli(*arguments).stderr == ""
    assert cli(*arguments, "--annotations", "github").stderr == done.stderr
    assert cli(*arguments, "--annotations", "none", GITHUB_ACTIONS="true").stderr == ""
    assert cli("verify", tiny_bundle, "--variants", "onnx", "--quiet", GITHUB_ACTIONS="true").stderr == ""


CAP = 1 << 20


@pytest.mark.parametrize(("there", "left"), [(0, True), (CAP - 3000, True), (CAP - 1200, False), (CAP + 5, False)])
def test_a_job_summary_stays_under_githubs_cap_with_what_it_holds_already(cli, tiny_bundle, tmp_path, there, left):
    summary = tmp_path / "summary.md"
    summary.write_text("x" * there)
    assert cli("verify", tiny_bundle, "--variants", "onnx", GITHUB_STEP_SUMMARY=str(summary)).returncode == 0
    text = summary.read_text()
    assert text.startswith("x" * there)
    assert len(text.encode()) <= max(CAP - 1024, there)
    assert ("onnx" in text) == left


def test_what_stops_the_gate_is_in_every_form_and_nothing_stale_is_left(cli, tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    (tmp_path / "tiny/variants/onnx/model.onnx").write_bytes(b"other")
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    junit.write_text('<testsuites tests="3" failures="0"/>')
    done = cli(
        "verify", tmp_path / "tiny", "--junit", junit, "--summary", summary, "--quiet", GITHUB_ACTIONS="true"
    )  # fmt: skip
    assert done.returncode == 5
    assert 'type="TAMPERED"' in junit.read_text()
    assert "TAMPERED" in summary.read_text()
    assert re.search(r"^::error title=tiny bundle%3A TAMPERED::refused", done.stderr, re.MULTILINE)


def test_a_folder_for_reproducers_that_cannot_be_written_is_said_before_the_work(cli, tiny_bundle, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli("verify", tiny_bundle, "--reproducers", tmp_path / "file", "--quiet")
    assert done.returncode == 6
    assert "--reproducers" in done.stderr


def test_a_folder_that_only_has_a_variants_name_is_left_alone(cli, tiny_bundle, tmp_path):
    own = tmp_path / "onnx"
    own.mkdir()
    (own / "thesis.txt").write_text("mine")
    done = cli("verify", tiny_bundle, "--reproducers", tmp_path, "--quiet")
    assert done.returncode == 2
    assert "EXISTS" in done.stderr
    assert (own / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ["budget.max_r=0", "budget.max_r=-1", "budget.nothing.max_r=6"])
def test_limits_that_nothing_could_keep_or_nobody_has_are_refused(cli, tiny_bundle, text):
    done = cli("verify", tiny_bundle, "--set", text, "--quiet")
    assert done.returncode == 2
    assert "error[" in done.stderr


def test_a_file_of_another_model_is_said_in_one_line(cli, tiny_bundle, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 6]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "sum", values[:2], values[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "s.onnx")
    done = cli("verify", tiny_bundle, "--artifact", tmp_path / "s.onnx", "--quiet")
    assert done.returncode == 4
    assert "INPUT_MISSING" in done.stdout
    assert "the file takes a, b, the bundle x" in " ".join(done.stdout.split())
