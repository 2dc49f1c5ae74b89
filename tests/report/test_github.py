"""Workflow commands, read back as GitHub's runner reads them."""

import re
from dataclasses import replace

import pytest

from deploykit.diagnosis import CODES
from deploykit.report import github
from deploykit.results import BaselineReport, Check, Location, SelfCheck, VariantReport, VerifyReport

COMMAND = re.compile(r"::(?P<name>[^ :]+)( (?P<properties>[^:]*))?::(?P<data>[^\n]*)")
"""The runner splits at the first `::` after the command, and the properties at `,` and the first `=`."""


def read(page):
    """(level, properties, message) of each line, unescaped as the runner does it."""
    found = []
    for line in page.splitlines():
        match = COMMAND.fullmatch(line)
        assert match, line
        pairs = [pair.split("=", 1) for pair in (match["properties"] or "").split(",") if pair]
        data = match["data"].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
        properties = {
            key: value.replace("%0D", "\r").replace("%0A", "\n").replace("%3A", ":").replace("%2C", ",")
            for key, value in pairs
        }
        found.append((match["name"], {key: value.replace("%25", "%") for key, value in properties.items()}, data))
    return found


def located(source="net/model.py:88", **more):
    place = Location(
        "CONVERSION", "up", "Resize", "layer2.up (Upsample)", source, True, "the operator alone is wrong", **more
    )
    return VariantReport("onnx", "fail", None, (), "VALUE_MISMATCH", "real: 50% off", None, 1, place)


def report(*variants, **more):
    return VerifyReport("mlp", "fail", 1, {}, variants, **more)


def test_a_failure_is_an_error_on_the_line_of_the_model():
    ((level, properties, message),) = read(github.render_verify(report(located())))
    assert level == "error"
    assert properties == {"file": "net/model.py", "line": "88", "title": "mlp onnx: VALUE_MISMATCH"}
    told, place, evidence, advice = message.split("\n")
    assert told == "fail: real: 50% off"
    assert place.startswith(
        "FAIL VALUE_MISMATCH stage=CONVERSION first_bad=layer2.up (Resize) net/model.py:88 born here"
    )
    assert evidence == "the operator alone is wrong"
    assert advice == f"what to do: {CODES['VALUE_MISMATCH'].remedy}"


def test_the_line_itself_is_escaped_as_the_toolkit_does_it():
    line = github.render_verify(report(located("a,b%c:d.py:7")))
    assert line.startswith(
        "::error file=a%2Cb%25c%3Ad.py,line=7,title=mlp onnx%3A VALUE_MISMATCH::fail: real: 50%25 off%0A"
    )
    assert line.count("\n") == 1


@pytest.mark.parametrize(("source", "file"), [("", None), ("model.py", "model.py"), ("C:model.py", "C:model.py")])
def test_a_place_without_a_line_number(source, file):
    ((_, properties, _),) = read(github.render_verify(report(located(source))))
    assert properties.get("file") == file
    assert "line" not in properties


def test_every_verdict_that_stops_the_job_is_an_error_and_passes_are_not(verified):
    found = read(github.render_verify(verified))
    assert [(level, properties["title"]) for level, properties, _ in found] == [
        ("error", "mlp onnx-fp16: SQNR_LOW"),
        ("error", "mlp onnx-int8-static: SAMPLE_SIZE"),
        ("error", "mlp torchscript: WORKER_DIED"),
        ("error", "mlp torch-export: UNTRUSTED_CODE"),
        ("warning", "mlp onnx-int8-static"),
    ]
    assert found[-1][2] == "SQNR_LOW: outside the calibrated range (ones)"


def test_a_baseline_and_a_self_check_that_failed_are_errors():
    mutants = SelfCheck("onnx", "inconclusive", "PROBE_POWER", 12, 3, 4, 4, None, None, "too few can be seen", 1.0)
    drifted = BaselineReport("fail", 1, "REFERENCE_DRIFT", "1 worse than the baseline", (), ("torch 1 → 2",))
    found = read(github.render_verify(report(self_check=(mutants,), baseline=drifted)))
    assert [(level, properties["title"]) for level, properties, _ in found] == [
        ("error", "mlp onnx: PROBE_POWER"),
        ("error", "mlp: REFERENCE_DRIFT"),
    ]
    assert "too few can be seen" in found[0][2]
    assert found[1][2].splitlines()[-1] == "changed since the baseline: torch 1 → 2"


def test_nothing_to_say_is_nothing():
    fine = VariantReport("onnx", "pass", None)
    found = BaselineReport("pass", 0, "", "none is worse")
    assert github.render_verify(report(fine, baseline=found)) == ""


def test_github_shows_ten_of_a_kind_and_the_tenth_says_how_many_more():
    checks = tuple(Check(f"c{i}", "constant", "y", "warn", f"CODE{i}", "R", 1.0, 1.0, f"reason {i}") for i in range(14))
    variants = [replace(located(), name=f"v{i}") for i in range(12)]
    found = read(github.render_verify(report(*variants, VariantReport("w", "pass", None, checks))))
    levels = [level for level, _, _ in found]
    assert levels == ["error"] * 10 + ["warning"] * 10
    assert found[8][2].endswith(CODES["VALUE_MISMATCH"].remedy)
    assert found[9][2].endswith("\nand 2 more of this kind: see the log and the job summary")
    assert found[19][2].endswith("\nand 4 more of this kind: see the log and the job summary")


def test_hostile_names_can_neither_end_the_command_nor_start_one(hostile_verify, hostile):
    place = Location("CAPTURE", hostile, hostile, hostile, f"{hostile}::error::x\n::set-env name=X::y:1", None, hostile)
    variants = tuple(replace(variant, location=place) for variant in hostile_verify.variants)
    page = github.render_verify(replace(hostile_verify, variants=variants))
    found = read(page)
    assert {level for level, _, _ in found} == {"error", "warning"}
    assert all(set(properties) <= {"file", "line", "title"} for _, properties, _ in found)
    assert all(line.isprintable() for line in page.splitlines())
    assert all(line.startswith(("::error ", "::warning ")) for line in page.splitlines())
