"""The place of a fault in every form of a report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploykit.report import html, junit, markdown, text
from deploykit.results import Check, Location, VariantReport, VerifyReport, from_data, to_data

PLACE = Location(
    "CONVERSION",
    "upsample",
    "Resize",
    "layer2.up (Upsample)",
    "model.py:88",
    born=True,
    evidence="mode is 'nearest'",
    reproducer="reports/reproduce/onnx",
    keep_float=("node_conv", "node_fc"),
)
HEAD = (
    "FAIL VALUE_MISMATCH logits R=5300 stage=CONVERSION first_bad=layer2.up (Resize) model.py:88 born here "
    "as value upsample"
)


def report(place: Location | None) -> VerifyReport:
    check = Check("real", "real", "logits", "fail", "VALUE_MISMATCH", "R", 5300.0, 4.0, "far off")
    variant = VariantReport(
        "onnx", "fail", "CPUExecutionProvider", (check,), "VALUE_MISMATCH", "far off", None, 1, place
    )
    return VerifyReport("made", "fail", 1, {"packages": {}}, (variant,))


@pytest.mark.parametrize("render", [text.render_verify, lambda r: html.render("made", r, None), junit.render_verify])
def test_place_evidence_and_what_to_do_are_told(render):
    told = render(report(PLACE))
    for part in (
        HEAD,
        "nearest",
        "keep in float first: node_conv, node_fc",
        "python reports/reproduce/onnx/reproduce.py",
    ):
        assert part in told


def test_markdown_tells_it_escaped():
    assert HEAD.replace("_", "\\_") in markdown.render_verify(report(PLACE))


def test_a_place_without_names_is_a_stage_and_its_evidence():
    told = text.render_verify(report(Location("CAPTURE", evidence="what was captured is not what eager computes")))
    assert "logits R=5300 stage=CAPTURE\n" in told
    assert "onnx: what was captured is not what eager computes" in told
    assert "reproduce.py" not in told


def test_an_error_that_passes_by_is_propagated():
    told = text.render_verify(report(replace(PLACE, born=False, module="", source="")))
    assert "first_bad=upsample (Resize) propagated\n" in told


def test_without_a_place_nothing_is_added():
    assert "stage=" not in text.render_verify(report(None))


def test_json_brings_it_back():
    variant = report(PLACE).variants[0]
    assert from_data(VariantReport, to_data(variant)) == variant
