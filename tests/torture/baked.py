"""Control flow, scalars and sizes of the example that end up in the artifact.

Tracing bakes in silence; `torch.export` declines and says where. Both are right only when the gate tells them apart.
"""

from __future__ import annotations

import torch
from torch import nn
from torture.known import PASS, Build, Expected, Foreign, Known, Made, fails, of, unmade

from deploykit.quiet import quiet

BRANCH = fails("CONTROL_FLOW_BAKED")
SCALAR = fails("SCALAR_BAKED")
EITHER = fails("SCALAR_BAKED", "CONTROL_FLOW_BAKED")  # a number that only decides: nothing outside tells them apart
SIZE = Expected("fail", ("DYNAMIC_DIM_FIXED", "GUARD_LOST"))
NAMED = unmade("DATA_DEPENDENT", says=r"baked\.py")


def _sum_branch(x):
    if x.sum() > 0:
        return x * 2.0
    return x - 1.0


def _rare_branch(x):
    """Off the beaten track: only inputs above 3.5 take it."""
    if x.abs().max() > 3.5:
        return torch.tanh(x)
    return x


def _per_batch_loop(x):
    """As many halvings as the largest element needs, twenty at most: infinity has no half."""
    for _ in range(20):
        if x.abs().max() <= 1.0:
            break
        x = x / 2.0
    return x


def _any_nan(x):
    if torch.isnan(x).any():
        return torch.nan_to_num(x)
    return x * 3.0


def _scaled_by_max(x):
    return x * float(x.max())


def _divided_by_norm(x):
    return x / (x.norm().item() + 1.0)


def _threshold_of_max(x):
    return torch.where(x > 0.5 * float(x.max()), x, torch.zeros_like(x))


def _shifted_by_list(x):
    return x + torch.tensor(x.sum(0).tolist())


def _rolled(x):
    return torch.roll(x, int(x[0, 0].abs().mul(10)) % 6, dims=-1)


def _first_elements(x):
    """As many columns as the first element says."""
    keep = 1 + int(x[0, 0].abs() * 3.0) % 5
    mask = (torch.arange(6) < keep).to(x.dtype)
    return x * mask


def _int_of_batch(x):
    return x.view(int(x.shape[0]), 2, 3).sum(-1)


def _mean_by_hand(x):
    return x.sum(0, keepdim=True).expand(x.shape[0], -1) / float(x.shape[0]) + x


def _if_large_batch(x):
    if x.shape[0] > 4:
        return x * 2.0
    return x


def _if_odd_batch(x):
    return x * 2.0 if x.shape[0] % 2 else x


def _loop_over_batch(x):
    total = torch.zeros_like(x[0])
    for row in x:
        total = total + row
    return x - total


def _sizes_kept(x):
    """Everything about the batch is asked at run time."""
    zeros = torch.zeros(x.shape[0], 1, dtype=x.dtype)
    where = torch.arange(x.shape[0], dtype=x.dtype)[:, None]
    return torch.cat([x, zeros, where], dim=1).reshape(x.shape[0], 2, -1)


def _where_branch(x):
    """The same choice as data, not as control flow."""
    return torch.where(x.sum(-1, keepdim=True) > 0, x * 2.0, x - 1.0)


def _dtype_branch(x):
    return x.double().sum(-1).float() if x.dtype == torch.float64 or x.dim() == 3 else x.sum(-1)


class State(nn.Module):
    """A recurrent cell whose first state is made for the example's batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x):
        zero = torch.zeros(1, int(x.shape[0]), 5)
        return self.cell(x, (zero, zero))[0]


def legacy(made: Made, target) -> None:
    """The exporter that traces, as it is still used everywhere, with the batch declared dynamic."""
    tensor = made.inputs
    with quiet(), torch.no_grad():
        torch.onnx.export(
            made.module,
            (tensor,),
            str(target),
            dynamo=False,
            input_names=["x"],
            output_names=["output"],
            dynamic_axes={"x": {0: "N"}, "output": {0: "N"}},
        )


def both(name: str, build: Build, expected: Expected) -> Known:
    """Traced in silence; and declined by torch.export with the line."""
    return Known(name, build, {"torchscript": expected, "onnx": NAMED})


def legacy_row(name: str, function, expected: Expected) -> Foreign:
    """A traced ONNX file beside a bundle that may hold no variant: `torch.export` declines most of these."""
    return Foreign(name, of(function, 6), expected, write=legacy)


KNOWN = (
    both("T17-branch-on-sum", of(_sum_branch, 6), BRANCH),
    both("T19-scaled-by-max", of(_scaled_by_max, 6), SCALAR),
    Known("B-int-of-batch", of(_int_of_batch, 6), {"onnx": unmade("DYNAMIC_DIM_FIXED", says="2 in input x")}),
    Known("B-int-of-batch-traced", of(_int_of_batch, 6), {"torchscript": unmade("DYNAMIC_DIM_FIXED")}),
    Known("B-branch-on-batch", of(_if_large_batch, 6), {"onnx": fails("GUARD_LOST")}),
    Known("B-loop-over-batch", of(_loop_over_batch, 6), {"onnx": unmade("DYNAMIC_DIM_FIXED")}),
    Known("H-sizes-kept", of(_sizes_kept, 6)),
    Known("H-choice-as-data", of(_where_branch, 6), {"onnx": PASS}),
    Known("H-branch-on-dtype", of(_dtype_branch, 6), {"onnx": PASS}),
)

FOREIGN = (
    legacy_row("T17-traced-branch-on-sum", _sum_branch, BRANCH),
    legacy_row("T17-traced-branch-rarely-taken", _rare_branch, BRANCH),
    legacy_row("T17-traced-branch-on-nan", _any_nan, fails("CONTROL_FLOW_BAKED", "NAN_PATTERN")),
    legacy_row("T17-traced-loop-on-data", _per_batch_loop, BRANCH),
    legacy_row("T19-traced-scaled-by-max", _scaled_by_max, SCALAR),
    legacy_row("T19-traced-divided-by-norm", _divided_by_norm, SCALAR),
    legacy_row("T19-traced-threshold-of-max", _threshold_of_max, EITHER),
    legacy_row("T19-traced-list-of-sums", _shifted_by_list, SCALAR),
    legacy_row("T19-traced-roll", _rolled, EITHER),
    legacy_row("T19-traced-columns-kept", _first_elements, EITHER),
    legacy_row("B-traced-int-of-batch", _int_of_batch, SIZE),
    legacy_row("B-traced-float-of-batch", _mean_by_hand, SIZE),
    legacy_row("B-traced-branch-on-batch", _if_large_batch, SIZE),
    legacy_row("B-traced-branch-on-odd-batch", _if_odd_batch, SIZE),
    legacy_row("B-traced-loop-over-batch", _loop_over_batch, SIZE),
    Foreign("B-traced-first-state", lambda: Made(State().eval(), torch.randn(2, 4, 6)), SIZE, write=legacy),
    legacy_row("H-traced-sizes-kept", _sizes_kept, PASS),
)
