"""The self-check in every form of the report."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from deploykit.report import html, junit, markdown, text
from deploykit.report.proof import percent, proof_line, proof_lines
from deploykit.results import Mutant, SelfCheck

SOUND = SelfCheck(
    "onnx", "pass", "", 12, 11, 9, 9, 0.0001234, 143.5, "11 of 12 are seen", 1.0,
    (Mutant("weight x 1.01", "fc2.weight", 3e4, 0.01, True, "VALUE_MISMATCH"),), 1, "fc2.weight",
)  # fmt: skip
BLIND = replace(
    SOUND, variant="onnx-fp16", verdict="fail", code="GATE_BLIND", killed=8, smallest=None, reason="bias dropped passes"
)
EMPTY = SelfCheck("web", "inconclusive", "PROBE_POWER", 0, 0, 0, 0, None, None, "no mutant could be made", 0.1)


def test_a_line_per_variant():
    assert proof_line(SOUND) == (
        "self-check onnx: 11 of 12 mutants seen (1 within rounding), 9 of 9 killable caught; "
        "smallest weight change seen 0.012 % of fc2.weight"
    )
    assert proof_line(BLIND).endswith("8 of 9 killable caught: FAIL, GATE_BLIND: bias dropped passes")
    assert proof_line(EMPTY) == "self-check web: INCONCLUSIVE, PROBE_POWER: no mutant could be made"


@pytest.mark.parametrize(
    ("share", "told"), [(0.01, "1 %"), (4.7568e-07, "0.000048 %"), (0.0625, "6.2 %"), (1.0, "100 %"), (0.0, "0 %")]
)
def test_percent(share, told):
    assert percent(share) == told


def test_every_form_shows_it(verified):
    report = replace(verified, self_check=(SOUND, BLIND))
    assert proof_lines(verified) == []
    for page in (text.render_verify(report), markdown.render_verify(report), html.render("mlp", report, None)):
        assert "self-check onnx: 11 of 12 mutants seen" in page
        assert "bias dropped passes" in page
    for page in (text.render_verify(verified), markdown.render_verify(verified)):
        assert "self-check" not in page


def test_junit_has_a_case_per_variant_and_a_hole_is_a_failure(verified):
    root = ET.fromstring(junit.render_verify(replace(verified, self_check=(SOUND, BLIND))))
    (suite,) = [suite for suite in root if suite.get("name") == "self-check"]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.find("failure") is not None for case in suite] == [False, True]
    before = ET.fromstring(junit.render_verify(verified))
    assert int(root.get("failures")) == int(before.get("failures")) + 1


def test_hostile_places_cannot_forge_a_line(hostile, verified):
    bad = replace(BLIND, variant=hostile, smallest=0.5, smallest_place=hostile, reason=hostile, code=hostile)
    report = replace(verified, self_check=(bad,))
    assert "\nforged line" not in text.render_verify(report)
    assert "<script>" not in html.render("mlp", report, None)
    assert "<script>" not in markdown.render_verify(report)
    ET.fromstring(junit.render_verify(report))
