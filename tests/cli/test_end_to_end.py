"""The whole program on the seed model, for real: one run, and everything a user or their CI does with what it left."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

CORE = ["torchscript", "torch-export", "onnx", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static"]
CPU = "CPUExecutionProvider"


def strict(text: str):
    """JSON without the tokens that JSON does not have."""

    def refuse(token):
        raise AssertionError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def copy(seed_bundle, tmp_path) -> Path:
    """A copy of the bundle, made here, to break."""
    return Path(shutil.copytree(seed_bundle, tmp_path / "mlp"))


# --- deploykit run ---------------------------------------------------------------------------------------------------


def test_run_trains_exports_verifies_measures_and_recommends(seed_run):
    bundle, done = seed_run
    assert "test accuracy 9" in done.stdout
    assert "PASS" in done.stdout
    assert re.search(r"^recommended: \S+: .+", done.stdout, re.MULTILINE)
    result = strict((bundle.parent / "run.json").read_text())
    assert result["exit_code"] == 0
    assert result["training"]["test_accuracy"] >= 0.95
    assert len(result["training"]["losses"]) == result["training"]["epochs"]
    assert result["training"]["losses"][-1] < result["training"]["losses"][0]
    assert result["export"] == dict.fromkeys(CORE, "ready")
    assert {(v["name"], v["verdict"], v["provider"]) for v in result["verify"]["variants"]} == {
        (name, "pass", CPU) for name in CORE
    }
    rows = result["bench"]["variants"]
    assert {row["name"] for row in rows} == {"eager", *CORE}
    assert all(row["median_ns"] > 0 and row["peak_rss_bytes"] > 1 << 24 and row["launches"] == 3 for row in rows)
    assert all(row["file_bytes"] > 10_000 for row in rows if row["name"] != "eager")
    chosen = result["bench"]["recommendation"]
    assert chosen["variant"] in CORE
    assert {choice["variant"] for choice in chosen["ranking"] + chosen["rejected"]} == {"eager", *CORE}
    assert all(choice["reason"] for choice in chosen["ranking"] + chosen["rejected"])


def test_run_tells_its_progress_on_stderr_and_every_epoch(seed_run):
    said = seed_run[1].stderr
    assert "epoch  1/40" in said
    assert "epoch 40/40" in said
    assert all(f"{name}: pass" in said for name in CORE)
    assert "Warning" not in said


def test_the_bundle_is_as_the_contract_draws_it(seed_bundle):
    manifest = strict((seed_bundle / "manifest.json").read_text())
    assert manifest["schema"] == 1
    recorded = {record["path"]: record for record in manifest["files"]}
    found = {p.relative_to(seed_bundle).as_posix(): p for p in seed_bundle.rglob("*") if p.is_file()}
    assert {p for p in found if p != "manifest.json" and not p.startswith("reports/")} == set(recorded)
    for path, record in recorded.items():
        assert sha256(found[path].read_bytes()).hexdigest() == record["sha256"]
        assert found[path].stat().st_size == record["size"]
    assert {p.split("/")[1] for p in found if p.startswith("variants/")} == set(CORE)
    assert {"verify.json", "bench.json", "report.html", "junit.xml"} <= {
        p.removeprefix("reports/") for p in found if p.startswith("reports/")
    }
    assert not [p for p in seed_bundle.rglob("*") if p.is_symlink()]
    assert all(p.stat().st_nlink == 1 for p in found.values())
    assert [p.name for p in seed_bundle.parent.iterdir() if "staging" in p.name] == []


def test_the_reference_holds_labels_and_both_precisions_and_the_promised_batches(seed_bundle):
    from safetensors.numpy import load_file

    manifest = strict((seed_bundle / "manifest.json").read_text())
    cases = {case["id"]: case for case in manifest["reference"]["cases"]}
    assert {1, 2, 3, 7, 64} <= {case["rows"] for case in cases.values() if case["input_class"] == "shapes"}
    assert {"real", "constant", "non-finite"} <= {case["input_class"] for case in cases.values()}
    real = [case for case in cases.values() if case["input_class"] == "real"]
    stored = [load_file(seed_bundle / case["file"]) for case in real]
    assert sum(len(arrays["labels"]) for arrays in stored) == 700
    for arrays in stored:
        assert arrays["expected/output"].dtype == np.float32
        assert arrays["expected64/output"].dtype == np.float64
        accuracy = (arrays["expected/output"].argmax(axis=1) == arrays["labels"]).mean()
        assert accuracy > 0.9


# --- deploykit verify ------------------------------------------------------------------------------------------------


def test_verify_writes_every_form_and_says_the_same_in_each(cli, copy, tmp_path):
    (tmp_path / "summary.md").write_text("before\n")
    done = cli(
        "verify", copy, "--json", "-", "--junit", tmp_path / "junit.xml", "--summary", tmp_path / "summary.md"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = strict(done.stdout)
    assert (report["schema"], report["verdict"], report["exit_code"]) == (1, "pass", 0)
    assert [variant["name"] for variant in report["variants"]] == CORE
    for variant in report["variants"]:
        assert variant["provider"] == CPU
        classes = {check["input_class"] for check in variant["checks"]}
        assert {"real", "shapes", "constant", "non-finite"} <= classes
        assert all({"id", "output", "verdict", "code", "metric", "value", "limit", "reason"} <= set(check)
                   for check in variant["checks"])  # fmt: skip
        assert "top1-drop" in {check["id"] for check in variant["checks"]}
    suites = ET.parse(tmp_path / "junit.xml").getroot()
    total = sum(len(variant["checks"]) for variant in report["variants"])
    assert len(list(suites.iter("testcase"))) >= len(CORE)
    assert not list(suites.iter("failure")) + list(suites.iter("error"))
    assert total > 60
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("before\n")
    assert all(name in summary for name in CORE)
    assert strict((copy / "reports/verify.json").read_text())["verdict"] == "pass"


def test_verify_appends_to_the_job_summary_of_ci(cli, seed_bundle, tmp_path):
    summary = tmp_path / "summary.md"
    for _ in range(2):
        assert cli("verify", seed_bundle, "--variants", "onnx", GITHUB_STEP_SUMMARY=str(summary)).returncode == 0
    text = summary.read_text()
    assert text[: len(text) // 2] == text[len(text) // 2 :]
    assert "onnx" in text


def test_the_text_table_has_value_limit_headroom_and_reason(cli, seed_bundle):
    done = cli("verify", seed_bundle, "--variants", "onnx,onnx-int8-static", "--quiet")
    assert done.stderr == ""
    head, *_ = [line for line in done.stdout.splitlines() if "verdict" in line]
    assert all(title in head for title in ("variant", "value", "limit", "head-room", "reason"))
    assert f"ran on {CPU}" in done.stdout


def test_a_tighter_limit_fails_and_a_looser_one_is_printed(cli, seed_bundle):
    tight = cli("verify", seed_bundle, "--variants", "onnx", "--set", "budget.max_r=0.0001")
    assert tight.returncode == 1, tight.stderr
    assert "FAIL" in tight.stdout
    assert "VALUE_MISMATCH" in tight.stdout
    # with the self-check, which CI turns on, so wide a gate is called blind
    arguments = ("verify", seed_bundle, "--variants", "onnx", "--set", "budget.max_r=1000", "--no-self-check")
    loose = cli(*arguments)
    assert loose.returncode == 0
    assert "loosened" in loose.stdout
    assert "loosened: max_r 4 → 1000" in cli(*arguments, "--json", "-").stdout


def test_a_provider_that_is_not_here_is_a_failed_gate_and_never_the_cpu(cli, copy):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has a CUDA provider")
    done = cli("verify", copy, "--on", "cuda", "--json", "-")
    assert done.returncode == 1, done.stderr
    report = strict(done.stdout)
    assert {(v["verdict"], v["code"], v["provider"]) for v in report["variants"]} == {
        ("fail", "PROVIDER_FALLBACK", None)
    }
    measured = cli("bench", copy, "--on", "cuda", "--quick", "--json", "-")
    assert measured.returncode == 1, measured.stderr
    assert {row["median_ns"] for row in strict(measured.stdout)["variants"]} == {None}


# --- a broken artifact -----------------------------------------------------------------------------------------------


def rewrite_digest(bundle: Path, path: str) -> None:
    """What somebody does who repairs the manifest after changing a file."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    content = (bundle / path).read_bytes()
    for record in manifest["files"]:
        if record["path"] == path:
            record.update(size=len(content), sha256=sha256(content).hexdigest())
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def edit_one_weight(path: Path) -> str:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 2)
    values = numpy_helper.to_array(tensor).copy()
    values[3, 5] += 0.25
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return tensor.name


def test_one_edited_weight_fails_the_gate_and_the_message_names_it(cli, copy, tmp_path):
    name = edit_one_weight(copy / "variants/onnx/model.onnx")
    rewrite_digest(copy, "variants/onnx/model.onnx")
    done = cli("verify", copy, "--variants", "onnx", "--junit", tmp_path / "junit.xml")
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stdout.split())
    assert "VALUE_MISMATCH" in said
    assert f"weight {name}[3, 5]" in said
    assert "1 of " in said
    failures = list(ET.parse(tmp_path / "junit.xml").getroot().iter("failure"))
    assert {failure.get("type") for failure in failures} == {"VALUE_MISMATCH"}
    assert done.stderr.count("error[") == 0


def test_a_variant_that_fails_is_not_measured_and_the_others_are(cli, copy):
    edit_one_weight(copy / "variants/onnx/model.onnx")
    rewrite_digest(copy, "variants/onnx/model.onnx")
    done = cli("bench", copy, "--quick", "--variants", "onnx,torchscript", "--trust-code", "--json", "-")
    assert done.returncode == 1, done.stderr
    report = strict(done.stdout)
    assert {row["name"] for row in report["variants"]} == {"eager", "torchscript"}
    rejected = {choice["variant"]: choice["reason"] for choice in report["recommendation"]["rejected"]}
    assert "verify" in rejected["onnx"]


def test_the_same_edit_without_repairing_the_manifest_is_tampering(cli, copy):
    edit_one_weight(copy / "variants/onnx/model.onnx")
    for arguments in (["verify", copy], ["bench", copy, "--quick"], ["inspect", copy]):
        done = cli(*arguments)
        assert done.returncode == 5, done.stderr
        assert done.stderr.startswith("error[TAMPERED]: mlp/variants/onnx/model.onnx: ")
        assert done.stdout == ""


def test_a_file_made_elsewhere_is_judged_by_the_same_reference(cli, seed_bundle, copy):
    sound = cli("verify", seed_bundle, "--artifact", seed_bundle / "variants/onnx/model.onnx")
    assert sound.returncode == 0, sound.stderr
    edit_one_weight(copy / "variants/onnx/model.onnx")
    assert cli("verify", seed_bundle, "--artifact", copy / "variants/onnx/model.onnx").returncode == 1
    code = cli("verify", seed_bundle, "--artifact", seed_bundle / "variants/torchscript/model.pt")
    assert code.returncode == 5
    assert "UNTRUSTED_CODE" in code.stderr
    int8 = seed_bundle / "variants/onnx-int8-static/model.onnx"
    assert cli("verify", seed_bundle, "--artifact", int8).returncode == 1
    assert cli("verify", seed_bundle, "--artifact", int8, "--precision", "int8-static").returncode == 0


# --- another machine -------------------------------------------------------------------------------------------------


def test_code_from_another_machine_is_refused_until_it_is_trusted(cli, seed_bundle, tmp_path):
    subprocess.run(["cp", "-r", seed_bundle, tmp_path / "given"], check=True)
    there = {"XDG_STATE_HOME": str(tmp_path / "other-state")}
    done = cli("verify", tmp_path / "given", "--json", "-", **there)
    assert done.returncode == 5, done.stderr
    verdicts = {v["name"]: (v["verdict"], v["code"]) for v in strict(done.stdout)["variants"]}
    refused = {name for name, verdict in verdicts.items() if verdict == ("refused", "UNTRUSTED_CODE")}
    assert refused == {"torchscript", "torch-export"}
    assert {verdict for name, verdict in verdicts.items() if name not in refused} == {("pass", "")}
    assert cli("verify", tmp_path / "given", "--variants", "onnx,onnx-int8-static", **there).returncode == 0
    assert cli("verify", tmp_path / "given", "--variants", "torchscript", **there).returncode == 5
    assert cli("verify", tmp_path / "given", "--variants", "torchscript", "--trust-code", **there).returncode == 0
    assert cli("verify", tmp_path / "given", "--variants", "torchscript").returncode == 0  # this machine made it


def test_a_read_only_bundle_can_be_verified(cli, copy):
    subprocess.run(["mount", "--bind", copy, copy], check=False, capture_output=True)
    if subprocess.run(["mount", "-o", "remount,bind,ro", copy], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        done = cli("verify", copy)
    finally:
        subprocess.run(["umount", copy], check=True)
    assert done.returncode == 0, done.stderr


# --- report, inspect, doctor, bench ----------------------------------------------------------------------------------


def test_report_renders_what_was_measured_in_every_form(cli, seed_bundle, tmp_path):
    text = cli("report", seed_bundle).stdout
    markdown = cli("report", seed_bundle, "--format", "markdown").stdout
    page = cli("report", seed_bundle, "--format", "html").stdout
    for form in (text, markdown, page):
        assert all(name in form for name in ("eager", *CORE))
    assert re.search(r"^\|.*\|$", markdown, re.MULTILINE)
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert "http" not in page
    assert (seed_bundle / "reports/report.html").read_text().count("<tr") == page.count("<tr")
    assert cli("report", seed_bundle, "--format", "html", "-o", tmp_path / "r.html").stdout == ""
    assert (tmp_path / "r.html").read_text() == page


def test_inspect_tells_a_bundle_and_a_file_without_running_them(cli, seed_bundle):
    bundle = strict(cli("inspect", seed_bundle, "--json", "-").stdout)
    assert bundle["signature"]["inputs"][0]["shape"] == ["N", 1, 28, 28]
    assert "image:float32[N,1,28,28]" in cli("inspect", seed_bundle).stdout
    file = strict(cli("inspect", seed_bundle / "variants/onnx-int8-static/model.onnx", "--json", "-").stdout)
    assert file["format"] == "onnx"
    assert file["opset"]["ai.onnx"] >= 18
    assert file["elements_by_type"]["int8"] > 100_000
    assert file["sha256"] == sha256((seed_bundle / "variants/onnx-int8-static/model.onnx").read_bytes()).hexdigest()
    code = cli("inspect", seed_bundle / "variants/torchscript/model.pt")
    assert code.returncode == 0
    assert "can run code" in code.stdout


def test_doctor_says_what_can_be_made_and_run_and_why_not_the_rest(cli):
    done = cli("doctor", "--json", "-")
    assert done.returncode == 0, done.stderr
    found = strict(done.stdout)
    assert all(found["variants"][name] is None for name in CORE)
    assert CPU in found["runtimes"]["onnxruntime"]["providers"]
    assert found["sources"]["mlp"] is None
    for runtime in found["runtimes"].values():
        missing = set(runtime.get("missing", {}))
        assert "CUDAExecutionProvider" in set(runtime["providers"]) | missing
    assert "packages: " in cli("doctor").stdout


def test_bench_of_two_batches_and_a_subset(cli, copy):
    done = cli("bench", copy, "--quick", "--batch", "1,8", "--variants", "onnx", "--json", "-")
    assert done.returncode == 0, done.stderr
    report = strict(done.stdout)
    rows = {(row["name"], row["batch"]): row for row in report["variants"]}
    assert set(rows) == {("eager", 1), ("eager", 8), ("onnx", 1), ("onnx", 8)}
    for row in rows.values():
        assert row["verdict"] in {"measured", "not_steady"}
        assert row["provider"] == CPU
        assert row["threads"] == report["protocol"]["threads"]
        assert row["p99_ns"] is not None or row["p99_ns_reason"]
        low, high = row["median_ci_ns"]
        assert low <= row["median_ns"] <= high
    assert rows["onnx", 8]["throughput_per_s"] > rows["onnx", 1]["throughput_per_s"]
    assert {(c["base"], c["candidate"], c["batch"]) for c in report["comparisons"]} >= {
        ("eager", "onnx", 1),
        ("eager", "onnx", 8),
    }


def test_a_model_of_two_inputs_and_two_outputs_gets_a_verdict_per_variant(cli, builder, tmp_path):
    source = f"python:{builder / 'two_inputs.py'}:build"
    made = cli("export", source, "-o", tmp_path / "two")
    assert made.returncode == 0, made.stderr
    done = cli("verify", tmp_path / "two", "--json", "-")
    assert done.returncode in {0, 3}, done.stderr
    report = strict(done.stdout)
    assert [v["name"] for v in report["variants"]] == CORE
    assert {v["verdict"] for v in report["variants"]} <= {"pass", "inconclusive"}
    assert {check["output"] for v in report["variants"] for check in v["checks"]} >= {"output_0", "output_1"}


@pytest.mark.slow
@pytest.mark.timeout(900)  # resnet18 at full size takes four minutes on two busy cores
@pytest.mark.parametrize("source", ["torchvision:resnet18", "python:two_inputs.py:build"])
def test_run_of_other_sources_ends_with_a_verdict_per_variant(cli, builder, tmp_path, source):
    arguments = ("run", source, "--quick", "-o", tmp_path / "b", "--json", tmp_path / "run.json")
    done = cli(*arguments, cwd=builder, timeout=850)
    assert done.returncode in {0, 1, 3}, done.stderr
    result = strict((tmp_path / "run.json").read_text())
    assert set(result["export"]) == {v["name"] for v in result["verify"]["variants"]} == set(CORE)
    assert "eager" in {row["name"] for row in result["bench"]["variants"]}
