"""Evaluations that would never end are given up."""

import numpy as np
import torch

from deploykit.capture.bounded import LEAST, Bound
from deploykit.capture.record import Recorder
from deploykit.inputs import CaseInputs
from tests.fixtures.forwards import Forward, loaded, normal

FEEDS = {"x": np.ones((2, 3), np.float32)}


def shrinking(module, x):
    """Ends when the step is tiny; the smallest float16 times 0.6 is itself."""
    total, step = torch.zeros_like(x[0, 0]), torch.ones_like(x[0, 0])
    while step > 1e-9:
        total, step = total + step, step * 0.6
    return module.layer(x) * total


class Cond(torch.nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


def test_half_precision_that_never_ends_is_no_answer():
    x = normal(8, 5, seed=1)
    case = Recorder(loaded(Forward(shrinking))).answer(CaseInputs("gaussian", "in range", "full", {"x": x}, 8, 0))
    assert case.noise["output"].fp32 is not None
    assert case.noise["output"].half is None


def test_the_bound_leaves_room_and_control_flow_alone():
    with Bound(torch.nn.Linear(3, 3).eval(), FEEDS)([]):
        for _ in range(LEAST):
            torch.ones(1)
    with Bound(Cond().eval(), FEEDS)([]):
        for _ in range(LEAST + 1):
            torch.ones(1)
