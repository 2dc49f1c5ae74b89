"""Attention with padding: what is hidden stays hidden, and a row that is hidden as a whole answers as in eager."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torture.known import Foreign, Known, Made, fails
from torture.structure import appended


class Masked(nn.Module):
    """Attention of one head with a padding mask; a row without a valid position answers with the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x, mask):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / 8**0.5
        scores = scores.masked_fill(~mask[:, None, :], -1e9)
        return torch.softmax(scores, -1) @ v


class Infinite(Masked):
    """The mask is minus infinity: a row that is masked as a whole gives NaN, in eager too."""

    def forward(self, x, mask):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.transpose(1, 2)).masked_fill(~mask[:, None, :], float("-inf"))
        return torch.softmax(scores, -1) @ v


class Fused(Masked):
    """The same with torch's own attention."""

    def forward(self, x, mask):
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])[:, 0]


def masked(module: type[nn.Module]):
    """Real samples with left and right padding, and one row that is masked as a whole."""

    def build() -> Made:
        x, lengths = torch.randn(40, 5, 8), torch.arange(40) % 6
        mask = torch.arange(5)[None, :] < lengths[:, None]
        mask[20:] = mask[20:].flip(-1)
        samples = {"x": x.numpy(), "mask": mask.numpy()}
        return Made(module().eval(), (x[3:5], mask[3:5]), samples=samples)

    return build


MASKED = masked(Masked)


def mask_ignored(model: onnx.ModelProto) -> None:
    """Padding takes part like everything else."""
    node = next(n for n in model.graph.node if n.op_type == "Where")
    keep = next(name for name in node.input[1:] if name not in {t.name for t in model.graph.initializer})
    node.op_type = "Identity"
    node.input[:] = [keep]


def masked_rows_zeroed(model: onnx.ModelProto) -> None:
    """Rows without a valid position answer zero, where eager answers the mean."""
    output = model.graph.output[0].name
    appended("Identity")(model)
    model.graph.node.pop()
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "position_axes"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "last_axis"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "middle_axis"))
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["mask"], ["mask_number"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["mask_number", "middle_axis"], ["any_valid"], keepdims=1),
            helper.make_node("Unsqueeze", ["any_valid", "last_axis"], ["any_valid_row"]),
            helper.make_node("Mul", [f"{output}_before", "any_valid_row"], [output]),
        ]
    )


def masked_with_infinity(model: onnx.ModelProto) -> None:
    """The large negative number became minus infinity: a row that is masked as a whole answers NaN."""
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.size == 1 and value.dtype.kind == "f" and float(value.reshape(())) < -1e8:
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(value, -np.inf), tensor.name))
            return
    raise AssertionError("no mask value")


KNOWN = (
    Known("H-masked", MASKED),
    Known("K-masked-fused", masked(Fused), {"onnx": fails("MASKED_ROW_SEMANTICS")}),
    Known("M-masked-row-is-nan", masked(Infinite), refused="NAN_REFERENCE"),
)

FOREIGN = (
    Foreign("K-mask-ignored", MASKED, fails("VALUE_MISMATCH", "MASKED_ROW_SEMANTICS"), mask_ignored),
    Foreign("K-masked-rows-zeroed", MASKED, fails("MASKED_ROW_SEMANTICS"), masked_rows_zeroed),
    Foreign("K-masked-rows-nan", MASKED, fails("MASKED_ROW_SEMANTICS"), masked_with_infinity),
)
