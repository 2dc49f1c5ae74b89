"""Lower precision: sound, out of range, not applied at all, or with one number wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import torch
from fixtures.informative import informative
from onnx import TensorProto, numpy_helper
from torch import nn
from torture.healthy import classifier
from torture.known import PASS, Edit, Expected, Foreign, Known, Made, fails, unmade

RANGE = fails("FP16_RANGE")
INTEGRITY = fails("WEIGHT_INTEGRITY")


class Perceptron(nn.Module):
    """16-32-4."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def perceptron() -> Made:
    return Made(informative(Perceptron(), (torch.randn(64, 16),)), torch.randn(2, 16))


def outlier() -> Made:
    """One of the real samples is a hundred times larger than the others."""
    module = informative(Perceptron(), (torch.randn(64, 16),))
    x = torch.randn(64, 16)
    x[17] *= 100.0
    return Made(module, x[:2], samples={"x": x.numpy()})


def narrow_calibration() -> Made:
    """Calibrated on a tenth of the range that the real samples have."""
    module = informative(Perceptron(), (torch.randn(64, 16),))
    x = torch.randn(64, 16)
    return Made(module, x[:2], samples={"x": x.numpy(), "calibration.x": (x * 0.05).numpy()})


def heavy_weight() -> Made:
    """One weight per unit is so large that eight bits have no step left for the others; its input is nearly zero."""
    module = informative(Perceptron(), (torch.randn(64, 16),))
    with torch.no_grad():
        module.first.weight[:, 0] = 200.0
    x = torch.randn(64, 16)
    x[:, 0] *= 1e-5
    return Made(module, x[:2], samples={"x": x.numpy()})


class Squared(nn.Module):
    """A mean of squares: what lies between is far outside, or far below, what half precision holds."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.net, self.factor = nn.Linear(16, 8), factor

    def forward(self, x):
        scaled = self.net(x) * self.factor
        return (scaled * scaled) / self.factor / self.factor


def squared(factor: float) -> Callable[[], Made]:
    return lambda: Made(Squared(factor).eval(), torch.randn(2, 16))


class Pointwise(nn.Module):
    """Nothing to quantize, nothing to convert."""

    def forward(self, x):
        return torch.tanh(x)


class Close(nn.Module):
    """A large part that all classes share hides from any distance how close the classes are."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(16, 5)
        with torch.no_grad():
            self.net.weight.copy_(3.0 * self.net.weight[:1] + 0.02 * self.net.weight)

    def forward(self, x):
        return self.net(x)


def close() -> Made:
    """Labelled with eager's own answers: eager is always right, eight bits are not."""
    module = Close().eval()
    x = torch.randn(640, 16)
    with torch.no_grad():
        labels = module(x).argmax(-1)
    return Made(module, x[:2], samples={"x": x.numpy(), "labels": labels.numpy()})


def few_labels() -> Made:
    """Fifty labelled samples: too few to exclude a loss of half a point."""
    made = classifier()
    assert made.samples is not None
    return Made(made.module, made.inputs, samples={name: array[:50] for name, array in made.samples.items()})


def quantized(change: Callable[[np.ndarray], np.ndarray], dtype: int = TensorProto.INT8) -> Edit:
    """Change the first matrix of 8-bit weights."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.data_type == dtype and len(t.dims) == 2)
        after = change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(after, tensor.name))

    return edit


def moved(value: np.ndarray) -> np.ndarray:
    """One weight of the matrix a dozen steps away: too little for any output to be suspicious."""
    wide = value.astype(np.int16)
    wide[3, 2] += 12 if wide[3, 2] < 0 else -12
    return wide.astype(value.dtype)


def negated_column(value: np.ndarray) -> np.ndarray:
    value[:, 1] = np.clip(-value[:, 1].astype(np.int16), -128, 127).astype(value.dtype)
    return value


def scale_wrong(model: onnx.ModelProto) -> None:
    """One channel's scale is five percent off."""
    tensor = next(t for t in model.graph.initializer if t.name.endswith("_scale") and t.dims and t.dims[0] > 1)
    value = numpy_helper.to_array(tensor).copy()
    value[1] *= 1.05
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def as_it_is(model: onnx.ModelProto) -> None:
    """The sound float32 file under the label of another precision."""


NOT_APPLIED = fails("VARIANT_NOT_APPLIED")
DYNAMIC, STATIC, HALF = "onnx-int8-dynamic", "onnx-int8-static", "onnx-fp16"

KNOWN = (
    Known("Q-perceptron", perceptron, {HALF: PASS, DYNAMIC: PASS, STATIC: PASS}),
    Known("T34-overflow", squared(3e3), {HALF: RANGE}),
    Known("T34-constant-out-of-range", squared(1e6), {HALF: fails("FP16_RANGE", "WEIGHT_INTEGRITY")}),
    Known(
        "T34-underflow",
        squared(1e-5),
        {HALF: RANGE},
    ),
    Known("T35-beside-an-outlier", outlier, {DYNAMIC: fails("BATCH_DEPENDENCE")}),
    Known("Q-narrow-calibration", narrow_calibration, {STATIC: fails("SQNR_LOW")}),
    Known("Q-heavy-weight", heavy_weight, {DYNAMIC: fails("SQNR_LOW")}),
    Known(
        "Q-nothing-to-change",
        lambda: Made(Pointwise().eval(), torch.randn(2, 6)),
        dict.fromkeys((HALF, DYNAMIC, STATIC), unmade("VARIANT_NOT_APPLIED")),
    ),
    Known("Q-close-classes", close, {DYNAMIC: fails("METRIC_INFERIOR")}),
    Known("Q-few-labels", few_labels, {DYNAMIC: Expected("inconclusive", ("SAMPLE_SIZE",))}),
)

FOREIGN = (
    Foreign("Q-float-sold-as-half", perceptron, NOT_APPLIED, as_it_is, precision="fp16"),
    Foreign("Q-float-sold-as-int8-dynamic", perceptron, NOT_APPLIED, as_it_is, precision="int8-dynamic"),
    Foreign("Q-float-sold-as-int8-static", perceptron, NOT_APPLIED, as_it_is, precision="int8-static"),
    Foreign("Q-half-sold-as-float", perceptron, fails("VALUE_MISMATCH"), as_it_is, base=HALF),
    Foreign("Q-int8-weight-moved", perceptron, INTEGRITY, quantized(moved), precision="int8-dynamic", base=DYNAMIC),
    Foreign(
        "Q-int8-column-negated",
        perceptron,
        INTEGRITY,
        quantized(negated_column),
        precision="int8-dynamic",
        base=DYNAMIC,
    ),
    Foreign("Q-int8-scale-off", perceptron, INTEGRITY, scale_wrong, precision="int8-dynamic", base=DYNAMIC),
    Foreign("Q-static-weight-moved", perceptron, INTEGRITY, quantized(moved), precision="int8-static", base=STATIC),
    Foreign("Q-int8-untouched", perceptron, PASS, as_it_is, precision="int8-dynamic", base=DYNAMIC),
)
