import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from deploykit.report import junit
from deploykit.results import VariantReport, VerifyReport


def parsed(report):
    return ET.fromstring(junit.render_verify(report).encode())


def test_every_check_is_a_case_and_the_counts_are_those_of_the_elements(verified):
    root = parsed(verified)
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == [v.name for v in verified.variants]
    for variant in verified.variants:
        suite = suites[variant.name]
        assert int(suite.get("tests")) == len(suite.findall("testcase")) == max(1, len(variant.checks))
    for element in (root, *root):
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(element.get(key)) == len(element.findall(f".//{tag}")), (element.get("name"), key)
        assert int(element.get("tests")) == len(element.findall(".//testcase"))
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "11", "failures": "2", "errors": "2", "skipped": "1",
    }  # fmt: skip


def test_inconclusive_is_a_failure(verified):
    suite = parsed(verified).find("testsuite[@name='onnx-int8-static']")
    assert suite.get("failures") == "1"
    failure = suite.find(".//failure")
    assert failure.get("type") == "SAMPLE_SIZE"
    assert "539 samples" in failure.get("message")


@pytest.mark.parametrize(
    ("verdict", "tag"),
    [
        ("fail", "failure"),
        ("inconclusive", "failure"),
        ("error", "error"),
        ("refused", "error"),
        ("skipped", "skipped"),
    ],
)
def test_a_variant_without_checks_is_one_case_with_its_reason(verdict, tag):
    variant = VariantReport("onnx", verdict, None, (), "CODE", "because")
    (case,) = parsed(VerifyReport("mlp", "error", 4, {}, (variant,))).iter("testcase")
    (element,) = case
    assert element.tag == tag
    assert element.get("message") == "because"
    assert element.get("type") == (None if tag == "skipped" else "CODE")


def test_value_limit_and_head_room_are_told_for_what_passed_and_what_failed(verified):
    root = parsed(verified)
    passed = root.find(".//testcase[@name='real output R']/system-out").text
    assert passed == "R 1.25 ≤ 4, head-room 3.2×"
    failed = root.find(".//testsuite[@name='onnx-fp16']//failure")
    assert failed.text == "centred_sqnr_db 31 ≥ 45, head-room -14.0 dB"
    assert failed.get("type") == "SQNR_LOW"
    assert "output[3, 1]" in failed.get("message")


def test_a_skipped_check_is_counted_as_skipped(verified):
    skipped = replace(verified.variants[0].checks[0], verdict="skipped")
    root = parsed(replace(verified, variants=(replace(verified.variants[0], checks=(skipped,)),)))
    assert (root.get("tests"), root.get("skipped"), root.get("failures")) == ("1", "1", "0")
    assert root.find(".//skipped") is not None


def test_hostile_names_cannot_break_the_document(hostile_verify):
    page = junit.render_verify(hostile_verify)
    assert "<script>" not in page
    assert all(c.isprintable() or c == "\n" for c in page)
    root = ET.fromstring(page.encode())
    assert {e.tag for e in root.iter()} == {
        "testsuites", "testsuite", "testcase", "failure", "error", "skipped", "system-out", "system-err",
    }  # fmt: skip
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == ("8", "2", "1", "1")


def test_a_report_of_nothing_is_a_document(verified):
    assert parsed(replace(verified, variants=())).get("tests") == "0"


def test_where_the_outputs_part_is_in_the_document(verified):
    lost = replace(verified.variants[0], first_divergence="real: weight 2.weight[1, 5] is not the source's")
    (suite,) = parsed(replace(verified, variants=(lost,)))
    assert suite.findtext("system-err") == lost.first_divergence
