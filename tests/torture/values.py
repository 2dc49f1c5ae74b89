"""Numbers that few inputs show: tiny constants, bounds, ties, integers at their ends, discontinuities, spectra."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torture.known import PASS, Build, Foreign, Known, Made, fails, of, unmade, warns

DROPPED = fails("CONSTANT_DROPPED")
WRONG = fails("VALUE_MISMATCH")
FUSED = fails("RUNTIME_FUSION")
NAN = fails("NAN_PATTERN")
EITHER = warns("NAN_PATTERN")  # told and no failure: infinite or not a number, or a kernel known to swallow NaN
KEEP = {"onnx": {"optimize": False}}


def positive(function: Callable[[torch.Tensor], torch.Tensor]) -> Build:
    """A function of what is never negative and zero for zero inputs."""
    return of(lambda x: function(x.abs()), 6)


LOG = positive(lambda p: torch.log(p + 1e-8))
STANDARDIZED = of(lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-8), 6)
ROOT = positive(lambda p: torch.sqrt(p + 1e-12))
INVERSE = positive(lambda p: 1.0 / (p + 1e-30))
LARGER_LOG = positive(lambda p: torch.log(p + 1e-5))
UNIT = of(lambda x: x / (x.norm(dim=-1, keepdim=True) + 1e-6), 6)
FLOORED = of(lambda x: x.clamp(min=1e-7).log(), 6)
BOUNDED = of(lambda x: torch.clamp(3.0 * x, -6.0, 6.0), 6)
ENTROPY = of(lambda x: -(F.softmax(x * 40.0, -1) * torch.log(F.softmax(x * 40.0, -1) + 1e-6)).sum(-1), 6)


class Centred(nn.Module):
    """Layer-norm with an epsilon that matters for flat inputs only."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6, eps=eps)

    def forward(self, x):
        return self.norm(x)


def layer_norm() -> Made:
    return Made(Centred(1e-5).eval(), torch.randn(2, 6))


def without(operator: str) -> Callable[[onnx.ModelProto], None]:
    """Take the first `operator` with a constant beside its input out of the graph."""

    def edit(model: onnx.ModelProto) -> None:
        constants = {tensor.name for tensor in model.graph.initializer}
        constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
        node = next(n for n in model.graph.node if n.op_type == operator and constants & set(n.input))
        keep = next(name for name in node.input if name not in constants)
        node.op_type, node.name = "Identity", f"{node.name}_gone"
        del node.attribute[:]
        node.input[:] = [keep]

    return edit


def constant(before: float, after: float) -> Callable[[onnx.ModelProto], None]:
    """Replace every float initializer or Constant of one element that is `before`."""

    def edit(model: onnx.ModelProto) -> None:
        tensors = list(model.graph.initializer)
        tensors += [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"]
        changed = 0
        for tensor in tensors:
            value = numpy_helper.to_array(tensor)
            if value.size == 1 and value.dtype.kind == "f" and np.isclose(float(value.reshape(())), before, rtol=1e-5):
                tensor.CopyFrom(numpy_helper.from_array(np.full_like(value, after), tensor.name))
                changed += 1
        assert changed, f"no constant {before}"

    return edit


def attribute(operator: str, name: str, value: object) -> Callable[[onnx.ModelProto], None]:
    """Set an attribute of every `operator`."""

    def edit(model: onnx.ModelProto) -> None:
        nodes = [node for node in model.graph.node if node.op_type == operator]
        assert nodes, f"no {operator}"
        for node in nodes:
            kept = [a for a in node.attribute if a.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return edit


def through(dtype: int, back: int) -> Callable[[onnx.ModelProto], None]:
    """Send the model's input through a narrower dtype and back."""

    def edit(model: onnx.ModelProto) -> None:
        name = model.graph.input[0].name
        for node in model.graph.node:
            node.input[:] = ["input_back" if given == name else given for given in node.input]
        model.graph.node.insert(0, helper.make_node("Cast", ["input_narrow"], ["input_back"], to=back))
        model.graph.node.insert(0, helper.make_node("Cast", [name], ["input_narrow"], to=dtype))

    return edit


class TopScores(nn.Module):
    """Scores, the best three with their places, and the decision."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 8)
        with torch.no_grad():  # four pairs of equal scores, whatever comes in
            self.net.weight[4:] = self.net.weight[:4]
            self.net.bias[4:] = self.net.bias[:4]

    def forward(self, x):
        scores = self.net(x)
        best = torch.topk(scores, 3)
        return best.values, best.indices, scores.argmax(-1)


class Order(nn.Module):
    """A ranking with ties."""

    def forward(self, x):
        coarse = (x * 2).round()
        return torch.argsort(coarse, dim=-1, descending=True), torch.sort(coarse, dim=-1).values


def bare(module: type[nn.Module], *shape: int) -> Build:
    return lambda: Made(module().eval(), torch.randn(2, *shape))


def bytes_in(function: Callable[[torch.Tensor], torch.Tensor]) -> Build:
    """A function of `uint8[2, 6]` whose example spans the dtype."""
    return of(function, inputs=torch.tensor([[0, 1, 2, 127, 128, 255], [255, 254, 3, 9, 200, 100]], dtype=torch.uint8))


def longs(function: Callable[[torch.Tensor], torch.Tensor]) -> Build:
    """A function of `int64[2, 6]` with values beyond 2³¹ on both sides."""
    rows = [[0, 1, -1, 2**31, -(2**31) - 1, 2**33 + 5], [-(2**40), 7, 2**40 + 3, -9, 2**32, 11]]
    return of(function, inputs=torch.tensor(rows))


def _short_time(x):
    return torch.stft(x, 8, 4, window=torch.hann_window(8), return_complex=True).abs()


NARROW, FLOATED = through(TensorProto.INT32, TensorProto.INT64), through(TensorProto.FLOAT, TensorProto.INT64)
TIMES_THREE = longs(lambda x: x * 3 + 2**33)
FLAGGED = longs(lambda x: x > 2**32)

KNOWN = (
    # the optimizer of torch.onnx matches constants with an absolute tolerance of 1e-8 and takes these for zero
    Known("T15-log", LOG, {"onnx": DROPPED}),
    Known("T15-log-not-optimized", LOG, {"onnx": PASS}, options=KEEP),
    Known("T15-standardized", STANDARDIZED, {"onnx": DROPPED}),
    Known("T15-root", ROOT, {"onnx": DROPPED}),
    Known("T15-inverse", INVERSE, {"onnx": DROPPED}),
    Known("T15-log-torchscript", LOG, {"torchscript": PASS}, slow=True),
    Known("H-log-of-larger", LARGER_LOG),
    Known("H-unit-length", UNIT),
    Known("T27-clip-of-infinity", FLOORED, {"onnx": NAN}),  # ONNX Runtime clips at the largest float
    Known("H-bounded", BOUNDED),
    Known("H-entropy", ENTROPY),
    Known("H-layer-norm", layer_norm),
    Known("T26-topk-argmax-ties", bare(TopScores, 6), {"onnx": warns("TIE")}),
    Known("T26-argsort-ties", bare(Order, 6)),
    Known("T26-argmin", of(lambda x: torch.nan_to_num(x.round()).argmin(-1), 6)),
    Known("T27-argmax-over-nan", of(lambda x: x.argmax(-1), 6), {"onnx": NAN}),
    Known("T27-max-over-nan", of(lambda x: x.amax(-1), 6), {"onnx": NAN}),
    Known("T27-max-pool-over-nan", of(lambda x: F.max_pool1d(x, 2), 3, 6), {"onnx": EITHER}),
    Known("T27-sign-of-nan", of(torch.sign, 6), {"onnx": NAN}),
    Known("T27-length-of-infinity", of(lambda x: F.normalize(x, dim=-1), 6), {"onnx": EITHER}),
    Known("H-clip-over-nan", of(lambda x: F.relu6(torch.maximum(x, x.flip(-1))), 6)),
    Known("H-nan-to-number", of(lambda x: torch.nan_to_num(x, nan=7.0, posinf=9.0, neginf=-9.0), 6)),
    Known("T41-beyond-32-bits", TIMES_THREE),
    Known("T41-division-and-remainder", longs(lambda x: (x // 7) * 2 + x % 5)),
    Known("T41-bits-and-sums", longs(lambda x: (x & 0xFFFF_FFFF_FF).cumsum(-1))),
    Known("T41-comparison", FLAGGED),
    Known("T42-wraps-around", bytes_in(lambda x: x * 3 + 200)),
    Known("T42-difference-wraps", bytes_in(lambda x: x - x.flip(-1))),
    Known("T42-normalized", bytes_in(lambda x: (x.float() / 255.0 - 0.5) / 0.25)),
    Known("T42-negated", bytes_in(lambda x: -x), {"onnx": unmade("LOAD_ERROR", "EXPORT_ERROR")}),
    Known("T45-spectrum", of(lambda x: torch.fft.rfft(x).abs(), 16), {"onnx": EITHER}),
    Known("T45-there-and-back", of(lambda x: torch.fft.irfft(torch.fft.rfft(x) * 0.5, n=16), 16)),
    Known("T45-short-time", of(_short_time, 32), {"onnx": EITHER}),
    Known("T46-floor-at-multiples", of(lambda x: x // 0.1, 6), {"onnx": warns("DISCONTINUITY")}),
    Known("T46-floor-of-tenths", of(lambda x: torch.floor(x * 10.0) / 10.0, 6), {"onnx": PASS}),
    Known("T46-remainder", of(lambda x: torch.remainder(x, 0.3), 6)),
    Known("H-half-to-even", of(lambda x: torch.round(x * 2.0) / 2.0, 6)),
    Known("H-truth-values", of(lambda x: (x > 0.5) & ~torch.isnan(x), 6)),
    Known("H-running-sums", of(lambda x: x.cumsum(-1) + x.flip(-1).cumsum(0), 6)),
    # decomposed with the largest element of all: far below it, the logarithm meets zero
    Known("V-log-of-running-sums", of(lambda x: torch.logcumsumexp(x, -1), 6), {"onnx": NAN}),
    Known("H-buckets", of(lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])), 6)),
    Known("V-small-logarithm", of(lambda x: torch.log1p(x.abs() * 1e-6), 6), {"onnx": WRONG}),
    Known("V-small-exponential", of(lambda x: torch.expm1(x * 1e-6), 6), {"onnx": WRONG}),
    # the engine takes 1.4142 for the root of two and fuses: right as it is written, wrong as it runs
    Known("R-gelu-with-a-rounded-root", of(lambda x: x * (1.0 + torch.erf(x / 1.4142)) * 0.5, 6), {"onnx": FUSED}),
    Known("H-gelu-by-hand", of(lambda x: x * (1.0 + torch.erf(x / 2.0**0.5)) * 0.5, 6)),
    Known("H-double", of(lambda x: torch.sin(x) * 0.25, inputs=torch.randn(2, 6).double())),
    # torch.onnx takes the constant through float32
    Known("V-double-constant", of(lambda x: torch.sin(x) * 1e-3, inputs=torch.randn(2, 6).double()), {"onnx": WRONG}),
)

FOREIGN = (
    Foreign("T15-larger-log-dropped", LARGER_LOG, DROPPED, without("Add")),
    Foreign("T15-unit-length-dropped", UNIT, DROPPED, without("Add")),
    Foreign("T15-entropy-dropped", ENTROPY, fails("CONSTANT_DROPPED", "NAN_PATTERN"), without("Add")),
    Foreign("T15-epsilon-grew", LARGER_LOG, WRONG, constant(1e-5, 1e-4)),
    Foreign("T15-norm-epsilon-grew", layer_norm, WRONG, attribute("LayerNormalization", "epsilon", 1e-3)),
    Foreign("T15-norm-epsilon-gone", layer_norm, DROPPED, attribute("LayerNormalization", "epsilon", 0.0)),
    Foreign("V-lower-bound-moved", FLOORED, WRONG, constant(1e-7, 1e-6)),
    Foreign("V-upper-bound-moved", BOUNDED, fails("VALUE_MISMATCH", "CONTROL_FLOW_BAKED"), constant(6.0, 6.5)),
    Foreign("T41-through-32-bits", TIMES_THREE, fails("INT_NARROWING"), NARROW),
    Foreign("T41-flag-through-32-bits", FLAGGED, fails("INT_NARROWING"), NARROW),
    Foreign("T41-through-float", TIMES_THREE, fails("INT_NARROWING"), FLOATED),
)
