"""One fault in the numbers or the operators of a sound graph: all of them must be seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torture.healthy import classifier, decoder, residual
from torture.known import Edit, Foreign, fails
from torture.values import attribute


def weight(change: Callable[[np.ndarray], np.ndarray], *, dims: int = 2, place: int = 0) -> Edit:
    """Change one float initializer with `dims` axes."""

    def edit(model: onnx.ModelProto) -> None:
        found = [t for t in model.graph.initializer if len(t.dims) == dims and t.data_type == TensorProto.FLOAT]
        value = numpy_helper.to_array(found[place])
        after = np.ascontiguousarray(change(value.copy()), np.float32)
        assert not np.array_equal(after, value)
        found[place].CopyFrom(numpy_helper.from_array(after, found[place].name))

    return edit


def swapped_rows(value: np.ndarray) -> np.ndarray:
    value[[0, 1]] = value[[1, 0]]
    return value


def zeroed_row(value: np.ndarray) -> np.ndarray:
    value[3] = 0.0
    return value


def one_element(value: np.ndarray) -> np.ndarray:
    value.reshape(-1)[7] *= 1.01
    return value


def replaced(operator: str, by: str, place: int = 0, **attributes: object) -> Edit:
    """Another operator in the place of one."""

    def edit(model: onnx.ModelProto) -> None:
        node = [node for node in model.graph.node if node.op_type == operator][place]
        node.op_type = by
        del node.attribute[:]
        node.attribute.extend([helper.make_attribute(name, value) for name, value in attributes.items()])

    return edit


WRONG = fails("VALUE_MISMATCH")

FOREIGN = (
    Foreign("W-one-percent", classifier, WRONG, weight(lambda w: w * 1.01)),
    Foreign("W-one-element", classifier, WRONG, weight(one_element)),
    Foreign("W-sign", classifier, WRONG, weight(lambda w: -w, place=1)),
    Foreign("W-rows-swapped", classifier, WRONG, weight(swapped_rows, place=1)),
    Foreign("W-row-zeroed", classifier, WRONG, weight(zeroed_row)),
    Foreign("W-bias-dropped", classifier, WRONG, weight(np.zeros_like, dims=1)),
    Foreign("W-rounded-to-half", classifier, WRONG, weight(lambda w: w.astype(np.float16))),
    Foreign("W-channels-reversed", residual, WRONG, weight(lambda w: w[:, ::-1], dims=4)),
    Foreign("W-relu-gone", classifier, WRONG, replaced("Relu", "Identity")),
    Foreign("W-softmax-for-log-softmax", classifier, WRONG, replaced("LogSoftmax", "Softmax", axis=-1)),
    Foreign("W-leaky", classifier, WRONG, replaced("Relu", "LeakyRelu", alpha=0.01)),
    Foreign("W-average-counts-padding", residual, WRONG, attribute("Conv", "pads", [0, 1, 2, 1])),
    Foreign("W-stride-of-one-group", residual, WRONG, replaced("HardSwish", "Identity")),
    Foreign("W-gelu-of-the-other-kind", decoder, WRONG, attribute("Gelu", "approximate", "none")),
    Foreign("W-resize-of-the-other-kind", decoder, WRONG, attribute("Resize", "mode", "nearest")),
    Foreign("W-resize-aligned", decoder, WRONG, attribute("Resize", "coordinate_transformation_mode", "align_corners")),
    Foreign("W-group-epsilon", decoder, WRONG, attribute("InstanceNormalization", "epsilon", 1e-2)),
)
