"""Quantized constants against the weights they stand for: sound files of every form pass, single faults are named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit.quantization import integrity
from deploykit.quantization.constants import read
from deploykit.quantization.graph import Graph
from deploykit.quantization.sources import Sources

MODELS, TRANSFORMS = ("mlp", "cnn", "former"), ("int8-static", "int8-dynamic", "fp16")


def checked(path, base):
    return integrity.check(Graph.load(path), Sources(base) if base else None)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", MODELS)
def test_what_the_transforms_make_is_sound(name, transform, made):
    (check,) = checked(made(name, transform), made(name))
    assert (check.verdict, check.metric, check.limit) == ("pass", "steps", 0.5)
    assert 0.4 < check.value <= 0.5
    known, _, total = check.reason.split()[:3]
    assert known == total
    assert "no source" not in check.reason


def one_element(by):
    def change(array):
        array.reshape(-1)[7] += by if array.reshape(-1)[7] < 0 else -by
        return array

    return change


FAULTS = {
    "a scale": ("mlp", "int8-static", {"up__weight_scale": lambda s: s * np.float32(1.05)}, "up.weight_quantized["),
    "one scale of many": (
        "cnn", "int8-static",
        {"ConvBnFusion_W_c1__weight_scale": lambda s: s * np.where(np.arange(8) == 3, 1.05, 1).astype(np.float32)},
        "ConvBnFusion_W_c1.weight_quantized[3,",
    ),
    "an element by three steps": (
        "mlp", "int8-static", {"up__weight_quantized": one_element(3)}, "up.weight_quantized[0, 7]"
    ),
    "an element of a dynamic weight": (
        "former", "int8-dynamic", {"wq_quantized": one_element(3)}, "wq_quantized[0, 7]"
    ),
    "an element of a transposed weight": (
        "mlp", "int8-dynamic",
        {"up__weight_Transposed_quantized": one_element(3)}, "up.weight_Transposed_quantized[0, 7]"
    ),
    "a zero point": ("mlp", "int8-static", {"up__weight_zero_point": lambda z: z + 1}, "up.weight_quantized["),
    "a dynamic zero point": ("former", "int8-dynamic", {"w1_zero_point": lambda z: z + 1}, "w1_quantized["),
    "a dynamic scale": ("former", "int8-dynamic", {"w2_scale": lambda s: s / np.float32(1.05)}, "w2_quantized["),
    "a bias at half its scale": (
        "mlp", "int8-static", {"up__bias_quantized_scale": lambda s: s / np.float32(2)}, "up.bias_quantized["
    ),
    "a bias that only its own scale makes right": (
        "mlp", "int8-static",
        {"up__bias_quantized_scale": lambda s: s * np.float32(2), "up__bias_quantized": lambda q: q // 2},
        "not its input's times its weight's",
    ),
    "a half-precision weight": (
        "mlp", "fp16",
        {"up__weight": lambda w: w * np.where(np.arange(24) == 5, 1.002, 1).astype(np.float16)}, "up.weight["
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(fault, made, quantizable, tmp_path):
    name, transform, changes, said = FAULTS[fault]
    broken = quantizable.edited(made(name, transform), tmp_path / "broken.onnx", **changes)
    found = checked(broken, made(name))
    assert {check.verdict for check in found} == {"fail"}
    assert {check.code for check in found} == {"WEIGHT_INTEGRITY"}
    assert any(said in check.reason for check in found), [check.reason for check in found]


def test_the_distance_is_told_in_steps(made, quantizable, tmp_path):
    broken = quantizable.edited(made("mlp", "int8-static"), tmp_path / "b.onnx", up__weight_quantized=one_element(3))
    (check,) = checked(broken, made("mlp"))
    assert 2.5 <= check.value <= 3.5
    assert "1 of 768 elements" in check.reason
    assert "the source has" in check.reason


def test_quantized_with_one_zero_point_and_dequantized_with_another(made, tmp_path):
    model = onnx.load(made("mlp", "int8-static"))
    other = numpy_helper.from_array(np.array(3, np.uint8), "other")
    model.graph.initializer.append(other)
    node = next(n for n in model.graph.node if n.name == "r_DequantizeLinear")
    node.input[2] = "other"
    onnx.save(model, tmp_path / "b.onnx")
    (check,) = checked(tmp_path / "b.onnx", made("mlp"))
    assert (check.verdict, check.code) == ("fail", "WEIGHT_INTEGRITY")
    assert check.reason == "r: quantized with zero point 0 and dequantized with 3"


def test_clipped_extremes_are_no_fault_and_others_beside_them_are(made, quantizable, tmp_path):
    """A quantizer that clips at half the range on purpose, as percentile calibration does."""
    base = quantizable.edited(made("mlp"), tmp_path / "base.onnx", up__weight=lambda w: np.where(w == w.max(), 5.0, w))
    weight = numpy_helper.to_array(next(t for t in onnx.load(base).graph.initializer if t.name == "up.weight"))
    scale = np.full(32, 0.005, np.float32)
    q = np.clip(np.round(weight / 0.005), -127, 127).astype(np.int8)
    assert np.abs(weight / 0.005).max() > 900
    changes = {"up__weight_quantized": lambda _: q, "up__weight_scale": lambda _: scale}
    changes["up__bias_quantized_scale"] = lambda s: s  # the bias is looked at apart: only the weight is judged here
    clipped = quantizable.edited(made("mlp", "int8-static"), tmp_path / "c.onnx", **changes)
    assert not [check for check in checked(clipped, base) if "up.weight" in check.reason and check.verdict == "fail"]
    moved = quantizable.edited(clipped, tmp_path / "m.onnx", up__weight_quantized=one_element(3))
    assert any("up.weight_quantized[0, 7]" in check.reason for check in checked(moved, base))


def renamed(path, target):
    """As another tool would have written it: no name says what a tensor was."""
    model = onnx.load(path)
    names = {tensor.name: f"t{index}" for index, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("transform", ["int8-static", "int8-dynamic"])
def test_other_names_are_matched_by_shape_and_nearest_values(transform, made, quantizable, tmp_path):
    (check,) = checked(renamed(made("former", transform), tmp_path / "r.onnx"), made("former"))
    assert check.verdict == "pass"
    assert check.reason.split()[0] == check.reason.split()[2]
    weight = "wk_quantized"
    moved = quantizable.edited(made("former", transform), tmp_path / "m.onnx", **{weight: one_element(3)})
    (check,) = checked(renamed(moved, tmp_path / "r.onnx"), made("former"))
    assert (check.verdict, check.code) == ("fail", "WEIGHT_INTEGRITY")


def test_weights_of_another_model_are_not_compared_with_these(made, quantizable, tmp_path):
    other = quantizable.edited(
        made("former"), tmp_path / "o.onnx",
        **dict.fromkeys(("wq", "wk", "wv", "wo", "w1", "w2", "head"), lambda w: np.random.default_rng(9).permuted(w)),
    )  # fmt: skip
    (check,) = checked(renamed(made("former", "int8-dynamic"), tmp_path / "r.onnx"), other)
    assert check.verdict == "skipped"
    assert "no float32 weight resembles them" in check.reason


def test_without_a_float32_file_it_says_so(made):
    (check,) = checked(made("mlp", "int8-static"), None)
    assert check.verdict == "skipped"
    assert "no float32 ONNX file" in check.reason


def test_a_float_file_has_nothing_to_check(made):
    assert checked(made("mlp"), made("mlp")) == []


@pytest.fixture
def operators(made, quantizable, tmp_path):
    """The CNN in onnxruntime's older form, QLinearConv and QGemm."""
    from onnxruntime import quantization as q

    q.quant_pre_process(made("cnn"), tmp_path / "p.onnx", skip_symbolic_shape=True)

    class Reader(q.CalibrationDataReader):
        rest = iter([quantizable.feeds("cnn", 32, 5)])

        def get_next(self):
            return next(self.rest, None)

    q.quantize_static(
        tmp_path / "p.onnx", tmp_path / "q.onnx", Reader(), quant_format=q.QuantFormat.QOperator, per_channel=True,
        activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
    )  # fmt: skip
    return tmp_path / "q.onnx"


def test_fused_operators_are_read_as_well(operators, made, quantizable, tmp_path):
    kinds = {node.op_type for node in onnx.load(operators).graph.node}
    assert {"QLinearConv", "QGemm"} <= kinds
    (check,) = checked(operators, made("cnn"))
    assert check.verdict == "pass"
    assert check.reason.startswith("5 of 5 tensors")  # three weights and the two biases
    weight = next(c.name for c in read(Graph.load(operators)) if c.name.startswith("fc"))
    broken = quantizable.edited(operators, tmp_path / "b.onnx", **{weight.replace(".", "__"): one_element(3)})
    assert [check.code for check in checked(broken, made("cnn"))] == ["WEIGHT_INTEGRITY"]


@pytest.mark.parametrize("symmetric", [True, False])
def test_blocks_of_four_bits(symmetric, made, quantizable, tmp_path):
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(made("former")), block_size=16, is_symmetric=symmetric)
    quantizer.process()
    onnx.save(quantizer.model.model, tmp_path / "q.onnx")
    (check,) = checked(tmp_path / "q.onnx", made("former"))
    assert (check.verdict, check.reason.split()[0]) == ("pass", "7")
    weight = read(Graph.load(tmp_path / "q.onnx"))[0].name

    def scrambled(packed):
        packed.reshape(-1)[3] ^= 0x30
        return packed

    broken = quantizable.edited(tmp_path / "q.onnx", tmp_path / "b.onnx", **{weight.replace(".", "__"): scrambled})
    assert [check.code for check in checked(broken, made("former"))] == ["WEIGHT_INTEGRITY"]
