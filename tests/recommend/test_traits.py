from deploykit.bundle import VariantRecord
from deploykit.recommend import traits
from deploykit.recommend.traits import Traits, simplicity


def record(name, made_by=None, precision="fp32", runtime="onnxruntime"):
    return VariantRecord(name=name, status="ready", made_by=made_by or name, precision=precision, runtime=runtime)


def test_traits_come_from_the_record():
    found = traits.of(
        [
            record("torchscript", runtime="torchscript"),
            record("onnx"),
            record("onnx-int8-static", "int8-static", "int8-static"),
            record("onnx-mine", "mine", "fp8"),
            record("openvino-int8", precision="int8", runtime="openvino"),
            record("gone-fp16", "fp16", "fp16"),
        ]
    )
    assert found == {
        "torchscript": Traits("fp32", "torchscript"),
        "onnx": Traits("fp32", "onnxruntime"),
        "onnx-int8-static": Traits("int8-static", "onnxruntime", "onnx"),
        "onnx-mine": Traits("fp8", "onnxruntime", "onnx"),
        "openvino-int8": Traits("int8", "openvino"),
        "gone-fp16": Traits("fp16", "onnxruntime"),
    }


def test_exactness_is_a_rank_and_the_unknown_is_last():
    ranks = [Traits(name).exactness for name in ("fp32", "bf16", "fp16", "int8", "int8-static", "int4", "fp8")]
    assert ranks == sorted(ranks)
    assert ranks[3] == ranks[4]
    assert ranks[5] < ranks[6]
    assert [Traits(name).integer for name in ("int8-dynamic", "int4", "fp16")] == [True, True, False]


def test_simplicity_is_exactness_then_runtime_then_plain_settings_then_name():
    kinds = {
        "mine": Traits("fp32", "mine"), "onnx-int8-static": Traits("int8-static", "onnxruntime"),
        "onnx-fp16": Traits("fp16", "onnxruntime"), "torchscript": Traits("fp32", "torchscript"),
        "onnx-int8-dynamic": Traits("int8-dynamic", "onnxruntime"), "onnx": Traits("fp32", "onnxruntime"),
        "onnx@threads=1": Traits("fp32", "onnxruntime"), "torch-export": Traits("fp32", "torch-export"),
    }  # fmt: skip
    assert sorted(kinds, key=lambda name: simplicity(name, kinds[name])) == [
        "onnx", "onnx@threads=1", "torch-export", "torchscript", "mine", "onnx-fp16", "onnx-int8-dynamic",
        "onnx-int8-static",
    ]  # fmt: skip


def test_a_subject_with_settings_is_its_variant():
    assert traits.variant_of("onnx@threads=1,spinning=off") == "onnx"
    assert traits.variant_of("onnx") == "onnx"
