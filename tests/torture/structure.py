"""Names, orders, sizes, masks and weights: what another exporter, or a careless hand, gets wrong in a sound graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.utils import _pytree as pytree
from torture.baked import legacy
from torture.healthy import classifier
from torture.known import PASS, Edit, Expected, Foreign, Known, Made, fails, of, unmade, warns

from deploykit.quiet import quiet


class Pair(nn.Module):
    """Two inputs of one shape, two outputs of one shape: nothing but the values tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, left, right):
        a, b = self.left(left), self.right(right)
        return {"total": a + 2 * b, "product": a * b}


def pair() -> Made:
    return Made(Pair().eval(), (torch.randn(2, 6), torch.randn(2, 6)))


class Three(nn.Module):
    """Three inputs, called in a cycle by a confused caller."""

    def forward(self, a, b, c):
        return a + 2.0 * torch.sin(b) - 3.0 * c


def three() -> Made:
    return Made(Three().eval(), tuple(torch.randn(2, 6) for _ in range(3)))


class Nested(nn.Module):
    """None, nesting, the same tensor twice, an input handed through, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)
        self.register_buffer("version", torch.tensor([3.0, 1.0]))

    def forward(self, x):
        y = self.net(x)
        return {"first": (y, None), "again": [y, {"input": x, "view": y[:, :2]}], "version": self.version}


@dataclass
class Answer:
    """What a forward may return once it is registered."""

    scores: torch.Tensor
    best: torch.Tensor


pytree.register_dataclass(Answer)


class Registered(nn.Module):
    def forward(self, x):
        scores = torch.softmax(x, -1)
        return Answer(scores, scores.amax(-1))


@dataclass
class Unregistered:
    scores: torch.Tensor


class Opaque(nn.Module):
    """Returns a dataclass that torch was never told of."""

    def forward(self, x):
        return Unregistered(x * 2)


class Tied(nn.Module):
    """Input and output embedding share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 24)
        self.mix = nn.Linear(24, 24)
        self.out = nn.Linear(24, 40, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(torch.tanh(self.mix(self.embed(tokens))))


def tied() -> Made:
    return Made(Tied().eval(), described=("tokens:int64[N,T]",))


class Twice(nn.Module):
    """One layer, applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(24, 24)

    def forward(self, x):
        return self.mix(torch.tanh(self.mix(x)))


def twice() -> Made:
    return Made(Twice().eval(), torch.randn(2, 24))


_library = torch.library.Library("deploykit_torture", "DEF")
_library.define("twice(Tensor x) -> Tensor")
_library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
torch.library.register_fake("deploykit_torture::twice", torch.empty_like, lib=_library)


class Custom(nn.Module):
    """An operator of the user's own, which ONNX does not know."""

    def forward(self, x):
        return torch.ops.deploykit_torture.twice(x) + 1


def custom() -> Made:
    return Made(Custom().eval(), torch.randn(2, 6))


def renamed_inputs(first: str, second: str) -> Edit:
    """Everything that reads one input reads the other."""

    def edit(model: onnx.ModelProto) -> None:
        swap = {first: second, second: first}
        for node in model.graph.node:
            node.input[:] = [swap.get(name, name) for name in node.input]

    return edit


def cycled_inputs(*names: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        swap = dict(zip(names, (*names[1:], names[0]), strict=True))
        for node in model.graph.node:
            node.input[:] = [swap.get(name, name) for name in node.input]

    return edit


def swapped_outputs(first: str, second: str) -> Edit:
    """What was computed for one output comes out under the name of the other."""

    def edit(model: onnx.ModelProto) -> None:
        swap = {first: second, second: first}
        for node in model.graph.node:
            node.output[:] = [swap.get(name, name) for name in node.output]
            node.input[:] = [swap.get(name, name) for name in node.input]

    return edit


def listed_otherwise(model: onnx.ModelProto) -> None:
    """The right outputs, in another order."""
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend(reversed(outputs))


def one_output_less(model: onnx.ModelProto) -> None:
    del model.graph.output[-1]


def one_output_more(model: onnx.ModelProto) -> None:
    name = model.graph.node[0].output[0]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def appended(operator: str, *more: str, out: int = TensorProto.FLOAT, **attributes: object) -> Edit:
    """One more operator behind the first output, under its name."""

    def edit(model: onnx.ModelProto) -> None:
        output = model.graph.output[0]
        for node in model.graph.node:
            node.output[:] = [f"{name}_before" if name == output.name else name for name in node.output]
            node.input[:] = [f"{name}_before" if name == output.name else name for name in node.input]
        node = helper.make_node(operator, [f"{output.name}_before", *more], [output.name], **attributes)
        model.graph.node.append(node)
        output.CopyFrom(helper.make_tensor_value_info(output.name, out, None))

    return edit


def unsqueezed(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis_one"))
    appended("Unsqueeze", "axis_one")(model)


def input_fixed(size: int) -> Edit:
    """The batch of the example is written into the graph's input."""

    def edit(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = size
        del model.graph.value_info[:]

    return edit


def batch_reshaped(model: onnx.ModelProto) -> None:
    """The output is pressed into the example's batch: other batches break, and an even one changes its shape."""
    shape = numpy_helper.from_array(np.array([2, -1]), "example_shape")
    model.graph.initializer.append(shape)
    appended("Reshape", "example_shape")(model)


def input_renamed(model: onnx.ModelProto) -> None:
    old = model.graph.input[0].name
    model.graph.input[0].name = "something_else"
    for node in model.graph.node:
        node.input[:] = ["something_else" if name == old else name for name in node.input]


def input_added(model: onnx.ModelProto) -> None:
    """One input more than anybody feeds."""
    model.graph.input.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1]))
    appended("Add", "extra")(model)


def noisy(model: onnx.ModelProto) -> None:
    """Noise is drawn in the graph, as by a dropout that was exported in train mode."""
    output = model.graph.output[0].name
    appended("Identity")(model)
    model.graph.node.pop()
    model.graph.node.extend(
        [
            helper.make_node("RandomNormalLike", [f"{output}_before"], ["noise"], scale=1e-3),
            helper.make_node("Add", [f"{output}_before", "noise"], [output]),
        ]
    )


def stored_twice(model: onnx.ModelProto) -> None:
    """The second user of a weight reads a copy of its own."""
    shared = next(t for t in model.graph.initializer if len(t.dims) == 2)
    users = [node for node in model.graph.node if shared.name in node.input]
    assert len(users) == 2
    model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(shared), "copy"))
    users[1].input[:] = ["copy" if name == shared.name else name for name in users[1].input]


def data_left_behind(made: Made, target: Path) -> None:
    """The model was copied and its external data was not."""
    legacy(made, target)
    onnx.save(onnx.load(target), target, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (target.parent / "weights.bin").unlink()


def never_empty(model: onnx.ModelProto) -> None:
    """An empty batch comes out with one row of zeros."""
    output = model.graph.output[0].name
    appended("Identity")(model)
    model.graph.node.pop()
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "no_pad"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one_row"))
    model.graph.node.extend(
        [
            helper.make_node("Shape", [f"{output}_before"], ["rows"], start=0, end=1),
            helper.make_node("Sub", ["one_row", "rows"], ["missing_rows"]),
            helper.make_node("Max", ["missing_rows", "no_pad"], ["rows_to_add"]),
            helper.make_node("Concat", ["no_pad", "no_pad", "rows_to_add", "no_pad"], ["pads"], axis=0),
            helper.make_node("Pad", [f"{output}_before", "pads"], [output]),
        ]
    )


def strides_ignored(made: Made, target: Path) -> None:
    """Reads the first input as if it lay in memory row by row, whatever its strides say."""

    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = made.module

        def forward(self, x):
            return self.net(torch.as_strided(x, [x.shape[0], 24], [24, 1]))

    with quiet(), torch.no_grad():
        torch.jit.save(torch.jit.trace(Raw().eval(), made.inputs, check_trace=False), target)


def over_the_batch(model: onnx.ModelProto) -> None:
    """Every sample is pushed away from its batch's mean; one alone is right."""
    output = model.graph.output[0].name
    appended("Identity")(model)
    model.graph.node.pop()
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axis_zero"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.05, np.float32), "share"))
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", [f"{output}_before", "axis_zero"], ["batch_mean"], keepdims=1),
            helper.make_node("Sub", [f"{output}_before", "batch_mean"], ["apart"]),
            helper.make_node("Mul", ["apart", "share"], ["batch_share"]),
            helper.make_node("Add", [f"{output}_before", "batch_share"], [output]),
        ]
    )


FIXED = Expected("fail", ("DYNAMIC_DIM_FIXED", "GUARD_LOST"))

KNOWN = (
    Known("H-pair", pair),
    Known("T40-nested", lambda: Made(Nested().eval(), torch.randn(2, 6)), {"onnx": PASS}),
    Known("T40-registered-dataclass", lambda: Made(Registered().eval(), torch.randn(2, 6))),
    Known("T40-unregistered-dataclass", lambda: Made(Opaque().eval(), torch.randn(2, 6)), {"onnx": PASS}),
    # the exporter stores the shared matrix a second time, transposed
    Known("T47-tied-weights", tied, {"onnx": warns("WEIGHTS_DUPLICATED")}),
    Known("T47-external-data", tied, options={"onnx": {"external_data_threshold": 64}}),
    Known("T50-custom-operator", custom, {"onnx": unmade("UNSUPPORTED_OP", says="twice")}),
    Known("H-scalar-output", of(lambda x: x.sum() * 0.1, 6)),
    Known("V-mean-of-nothing", of(lambda x: x.mean(), 6), {"onnx": warns("OUT_OF_RANGE")}),
    Known(
        "H-no-symbolic-dim", lambda: Made(Three().eval(), described=("a:float32[3]", "b:float32[3]", "c:float32[3]"))
    ),
)

FOREIGN = (
    Foreign("T39-inputs-swapped", pair, fails("INPUT_ORDER"), renamed_inputs("left", "right")),
    Foreign("T39-inputs-in-a-cycle", three, fails("INPUT_ORDER"), cycled_inputs("a", "b", "c")),
    Foreign("T39-input-renamed", pair, warns("NAMES_BY_POSITION"), input_renamed),
    Foreign("T39-input-added", pair, unmade("INPUT_MISSING", says="extra"), input_added),
    Foreign("O-outputs-swapped", pair, fails("OUTPUT_ORDER"), swapped_outputs("total", "product")),
    Foreign("O-outputs-listed-otherwise", pair, fails("OUTPUT_ORDER"), listed_otherwise),
    Foreign("O-output-missing", pair, fails("OUTPUT_MISSING"), one_output_less),
    Foreign("O-output-too-many", pair, fails("OUTPUT_MISSING"), one_output_more),
    Foreign("O-dtype", pair, fails("DTYPE_MISMATCH"), appended("Cast", out=TensorProto.DOUBLE, to=TensorProto.DOUBLE)),
    Foreign("O-shape", pair, fails("SHAPE_MISMATCH"), unsqueezed),
    Foreign("D-input-fixed", classifier, FIXED, input_fixed(2)),
    Foreign("D-batch-reshaped", classifier, FIXED, batch_reshaped),
    Foreign("D-never-empty", twice, warns("OUT_OF_RANGE"), never_empty),
    Foreign("L-strides-ignored", twice, fails("LAYOUT_UNCHECKED"), write=strides_ignored),
    Foreign("D-over-the-batch", classifier, fails("BATCH_DEPENDENCE"), over_the_batch),
    Foreign("S-noise-in-the-graph", pair, fails("STATE_LOST"), noisy),
    Foreign("T47-stored-twice", twice, warns("WEIGHTS_DUPLICATED"), stored_twice),
    Foreign("T47-data-left-behind", twice, unmade("ARTIFACT_INCOMPLETE"), write=data_left_behind),
)
