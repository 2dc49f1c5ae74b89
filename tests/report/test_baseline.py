"""What each form of a report says of a baseline."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from deploykit.report import baseline, junit, markdown, text
from deploykit.results import BaselineReport, Drift


def drift(verdict="fail", variant="onnx", name="real", before=1.2, after=3.9, reason="worse by more than its noise"):
    code = "" if verdict == "pass" else "BASELINE_DRIFT"
    return Drift(variant, name, "output", "R", verdict, code, before, after, reason)


@pytest.fixture
def drifted(verified):
    drifts = (
        drift(),
        Drift("", "real", "logits", "eager", "fail", "REFERENCE_DRIFT", 0.0, 3e3, "eager answers differently"),
        drift("warn", name="zeros", reason="pass → warn"),
        drift("pass", name="ones", before=3.0, after=1.0, reason="improved"),
    )
    changed = ("torch 2.14.0 → 2.15.0",)
    found = BaselineReport("fail", 1, "BASELINE_DRIFT", "2 worse than the baseline", drifts, changed)
    return replace(verified, baseline=found)


LINES = [
    "baseline: FAIL, BASELINE_DRIFT: 2 worse than the baseline",
    "baseline worse: onnx real output R 1.2 → 3.9: worse by more than its noise",
    "baseline worse: eager real logits 0 → 3000: eager answers differently",
    "baseline warning: onnx zeros output R 1.2 → 3.9: pass → warn",
    "baseline better: onnx ones output R 3 → 1: improved",
    "changed since the baseline: torch 2.14.0 → 2.15.0",
]


def test_the_lines(drifted):
    assert baseline.lines(drifted) == LINES


def test_text_and_markdown_have_every_line(drifted, verified):
    page = text.render_verify(drifted)
    assert [line for line in page.splitlines() if "baseline" in line] == LINES
    items = [line for line in markdown.render_verify(drifted).splitlines() if line.startswith("- ")]
    assert [item.removeprefix("- ").replace("\\_", "_") for item in items[-len(LINES) :]] == LINES
    assert "baseline" not in text.render_verify(verified)
    assert "baseline" not in markdown.render_verify(verified)


def test_a_long_list_is_cut_and_says_so(drifted):
    many = replace(drifted.baseline, drifts=tuple(drift(name=f"c{index}") for index in range(30)))
    found = baseline.lines(replace(drifted, baseline=many))
    assert len([line for line in found if line.startswith("baseline worse")]) == 13
    assert "baseline worse: and 18 more, see the JSON" in found


def test_junit_has_a_suite_with_a_failure_per_difference(drifted):
    root = ET.fromstring(junit.render_verify(drifted).encode())
    suite = root.find("testsuite[@name='baseline']")
    assert [suite.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["2", "2", "0", "0"]
    failures = list(suite.iter("failure"))
    assert [failure.get("type") for failure in failures] == ["BASELINE_DRIFT", "REFERENCE_DRIFT"]
    assert "1.2 → 3.9" in failures[0].get("message")
    assert all("torch 2.14.0 → 2.15.0" in failure.text for failure in failures)
    assert int(root.get("failures")) == len(list(root.iter("failure")))
    assert int(root.get("tests")) == len(list(root.iter("testcase")))


@pytest.mark.parametrize(("verdict", "skipped"), [("pass", "0"), ("skipped", "1")])
def test_junit_says_that_nothing_is_worse(verified, verdict, skipped):
    found = BaselineReport(verdict, 0, "", "written: 6 variants")
    root = ET.fromstring(junit.render_verify(replace(verified, baseline=found)).encode())
    suite = root.find("testsuite[@name='baseline']")
    assert [suite.get(key) for key in ("tests", "failures", "skipped")] == ["1", "0", skipped]
    assert "written: 6 variants" in suite.findtext(".//system-out")
    assert len(suite.findall(".//skipped")) == int(skipped)


def test_open_differences_fail_in_junit_too(verified):
    row = Drift("", "", "", "inputs", "inconclusive", "BASELINE_INPUTS", None, None, "other inputs")
    found = BaselineReport("inconclusive", 3, "BASELINE_INPUTS", "other inputs", (row,))
    root = ET.fromstring(junit.render_verify(replace(verified, baseline=found)).encode())
    assert root.find("testsuite[@name='baseline']").get("failures") == "1"


def test_hostile_names_stay_on_their_line(hostile, verified):
    row = Drift(hostile, hostile, hostile, hostile, "fail", hostile, 1.0, 2.0, hostile)
    found = BaselineReport("fail", 1, hostile, hostile, (row,), (hostile,))
    report = replace(verified, baseline=found)
    assert all(line.isprintable() for line in baseline.lines(report))
    assert all(line.isprintable() for line in text.render_verify(report).splitlines())
    assert "<" not in markdown.render_verify(report)
    root = ET.fromstring(junit.render_verify(report).encode())
    assert root.find("testsuite[@name='baseline']").get("failures") == "1"
