"""What the gate says when there is nothing to judge, or no way to: without torch, on a small bundle."""

import json

import pytest

from deploykit.bundle import MANIFEST
from deploykit.errors import RefusedError, UsageError
from deploykit.pipeline.verify import VerifyRequest, verify
from deploykit.progress import Silent


def edited(bundle, change):
    data = json.loads((bundle / MANIFEST).read_text())
    change(data)
    (bundle / MANIFEST).write_text(json.dumps(data))
    return bundle


def none_made(status):
    def change(data):
        for record in data["variants"]:
            record.update(status=status, file=None, code="PACKAGE_MISSING", reason="the package x is not installed")

    return change


def test_a_gate_in_which_nothing_ran_is_inconclusive_and_never_a_pass(made):
    report = verify(VerifyRequest(edited(made, none_made("unavailable"))), Silent())
    assert (report.verdict, report.exit_code) == ("inconclusive", 3)
    assert {variant.verdict for variant in report.variants} == {"skipped"}
    assert "the package x is not installed" in report.variants[0].reason


def test_a_variant_that_could_not_be_made_is_an_error_of_the_gate(made):
    report = verify(VerifyRequest(edited(made, none_made("failed"))), Silent())
    assert (report.verdict, report.exit_code) == ("error", 4)


def test_a_bundle_without_variants_cannot_pass(made):
    with pytest.raises(UsageError, match="no variant to verify"):
        verify(VerifyRequest(edited(made, lambda data: data.update(variants=[]))), Silent())


def test_a_file_that_no_engine_can_open_is_that_variants_verdict(made):
    """`made` holds nonsense where an ONNX file should be; the others are judged nevertheless."""
    told = []

    class Ears(Silent):
        def step(self, text):
            told.append(text)

    report = verify(VerifyRequest(made, ("onnx", "broken")), Ears())
    assert [variant.name for variant in report.variants] == ["onnx", "broken"]
    assert {variant.verdict for variant in report.variants} <= {"error", "refused"}
    assert all(variant.reason and variant.code for variant in report.variants if variant.name == "onnx")
    assert len(told) == 2


def test_what_is_not_proven_is_never_opened(made, monkeypatch):
    monkeypatch.setattr("deploykit.pipeline.verify.Pool", None)  # it would fail differently if it came so far
    (made / "variants/onnx/model.onnx").write_bytes(b"other")
    with pytest.raises(RefusedError, match="TAMPERED"):
        verify(VerifyRequest(made), Silent())
