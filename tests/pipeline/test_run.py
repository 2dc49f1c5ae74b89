"""`deploykit run`: what it stores names no machine, what it hands over passed every gate."""

import json
import shutil
from pathlib import Path

import pytest

from deploykit.bundle import Bundle
from deploykit.errors import StorageError
from deploykit.pipeline.run import _objection, _unchanged, store_verify
from deploykit.results import BaselineReport, Location, SelfCheck, VariantReport, VerifyReport


def stored(bundle, reproducer):
    location = Location("CONVERSION", reproducer=str(reproducer) if reproducer else None)
    report = VariantReport("onnx", "fail", None, (), "VALUE_MISMATCH", "off", None, 1, location)
    store_verify(Bundle(bundle), VerifyReport("made", "fail", 1, {}, (report,)))
    text = (bundle / "reports/verify.json").read_text()
    return text, json.loads(text)["variants"][0]["location"]["reproducer"]


def test_reproducers_are_named_from_the_bundle_on(made, tmp_path):
    text, reproducer = stored(made, made / "reports/reproduce/onnx")
    assert reproducer == "reports/reproduce/onnx"
    assert str(tmp_path) not in text
    assert stored(made, tmp_path / "elsewhere/onnx")[1] == "onnx"
    assert stored(made, None)[1] is None


def judged(**more):
    return VerifyReport("made", "pass", 0, {}, (), **more)


def blind(verdict):
    return SelfCheck("onnx", verdict, "GATE_BLIND", 3, 2, 3, 2, None, None, "one got through", 0.1)


@pytest.mark.parametrize(
    ("verified", "said"),
    [
        (judged(), ""),
        (judged(baseline=BaselineReport("pass", 0, "", "none is worse")), ""),
        (judged(baseline=BaselineReport("fail", 1, "BASELINE_DRIFT", "worse")), "the baseline says fail: worse"),
        (judged(self_check=(blind("pass"), blind("skipped"))), ""),
        (judged(self_check=(blind("fail"),)), "the self-check of onnx says fail: one got through"),
        (judged(self_check=(blind("inconclusive"),)), "the self-check of onnx says inconclusive: one got through"),
    ],
)
def test_nothing_is_handed_over_that_some_gate_refused(verified, said):
    assert _objection(verified, [], open_is_fine=False) == said


def test_what_is_open_may_be_fine():
    assert _objection(judged(self_check=(blind("inconclusive"),)), [], open_is_fine=True) == ""
    assert _objection(judged(self_check=(blind("fail"),)), [], open_is_fine=True)


def test_a_bundle_that_another_run_replaced_gets_no_verdict(tiny_bundle, tmp_path):
    bundle = Bundle(Path(shutil.copytree(tiny_bundle, tmp_path / "b")))
    assert _unchanged(bundle) is bundle
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    manifest["files"][0]["sha256"] = "0" * 64
    (tmp_path / "b/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match="replaced by another run"):
        _unchanged(bundle)
