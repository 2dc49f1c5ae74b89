"""Evaluations that would never end are given up."""

import numpy as np
import torch

from deploykit.capture.bounded import LEAST, Bound
from deploykit.capture.record import Recorder
from deploykit.inputs import CaseInputs
from tests.fixtures.forwards import Forward, loaded, normal

FEEDS = {"x": np.ones((2, 3), np.float32)}


def halving(module, x):
    """Adds ever smaller steps until the sum passes a number that float16 does not have."""
    total, step = x * 0 + 1, 1.0 - 1e-4
    while total.min() < 2.0 - 2e-4:
        step = step / 2
        total = total + step
    return module.layer(x) * total.mean()


class Cond(torch.nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


def test_half_precision_that_never_ends_is_no_answer():
    x = normal(8, 5, seed=1)
    case = Recorder(loaded(Forward(halving))).answer(CaseInputs("gaussian", "in range", "full", {"x": x}, 8, 0))
    assert case.noise["output"].fp32 is not None
    assert case.noise["output"].half is None


def test_the_bound_leaves_room_and_control_flow_alone():
    with Bound(torch.nn.Linear(3, 3).eval(), FEEDS)([]):
        for _ in range(LEAST):
            torch.ones(1)
    with Bound(Cond().eval(), FEEDS)([]):
        for _ in range(LEAST + 1):
            torch.ones(1)
