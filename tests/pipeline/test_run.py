"""What is stored beside a bundle says nothing about the machine that stored it."""

import json

from deploykit.bundle import Bundle
from deploykit.pipeline.run import store_verify
from deploykit.results import Location, VariantReport, VerifyReport


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
