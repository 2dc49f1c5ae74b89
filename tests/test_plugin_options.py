from dataclasses import dataclass
from typing import ClassVar

import pytest

from deploykit import plan, plugin_options, registry
from deploykit.errors import UsageError


def refused(options, variants=None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        plugin_options.check(options, variants)
    return caught.value


def test_every_default_of_every_plugin_is_taken():
    for variant in plan.known().values():
        plugin_options.check({variant.name: plugin_options.effective(variant, {})})


def test_names_are_checked_with_the_close_one():
    error = refused({"onnx": {"opste": 18}})
    assert (error.code, error.subject, error.hint) == ("UNKNOWN_OPTION", "options.onnx.opste", "did you mean opset?")
    assert refused({"onnx-int8-statc": {}}).hint == "did you mean onnx-int8-static?"
    assert refused({"onnx-int8-static": {"per-channel": True}}).hint == "did you mean per_channel?"


@pytest.mark.parametrize(
    ("variant", "option", "value"),
    [
        ("onnx", "opset", "18"),
        ("onnx", "opset", 18.5),
        ("onnx", "opset", True),
        ("onnx", "optimize", 1),
        ("onnx-int8-static", "op_types", "MatMul"),
        ("onnx-int8-static", "op_types", ["MatMul", 3]),
        ("onnx-int8-static", "keep_float", {"node": 1}),
        ("onnx", "opset", float("nan")),
    ],
)
def test_types_are_checked(variant, option, value):
    error = refused({variant: {option: value}})
    assert (error.code, error.subject) == ("BAD_OPTION", f"options.{variant}.{option}")


@pytest.mark.parametrize("value", [["MatMul"], ("MatMul", "Gemm"), []])
def test_a_list_is_what_a_plugin_has_as_a_tuple(value):
    plugin_options.check({"onnx-int8-static": {"op_types": value}})


def test_options_of_a_variant_that_is_not_made_are_refused():
    assert refused({"onnx": {"opset": 18}}, "torchscript").code == "UNKNOWN_VARIANT"
    plugin_options.check({"onnx": {"opset": 18}}, "onnx-fp16")  # its base


@dataclass(frozen=True)
class Odd:
    """A plugin whose annotations only a type checker can read."""

    core: ClassVar[bool] = False
    base: ClassVar[str] = "onnx"
    precision: ClassVar[str] = "fp32"
    needs_calibration: ClassVar[bool] = False
    mode: "Unknown" = "a"  # noqa: F821


def test_a_plugin_whose_types_cannot_be_read_is_checked_by_name_only(monkeypatch):
    class Point:
        def load(self):
            return Odd

    monkeypatch.setattr(registry, "_outsiders", lambda kind: {"odd": Point()} if kind == "transforms" else {})
    plugin_options.check({"onnx-odd": {"mode": 3}})
    assert refused({"onnx-odd": {"mood": 3}}).hint == "did you mean mode?"
