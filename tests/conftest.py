"""Fixtures of the whole suite: nothing is written outside temporary folders, nothing leaks into the user's state."""

from __future__ import annotations

import numpy as np
import pytest

from deploykit.inputs import CaseInputs, campaign
from deploykit.reference import Case, Noise
from deploykit.signature import Dim, Signature, TensorSpec


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        yield


@pytest.fixture
def signature() -> Signature:
    return Signature((TensorSpec("x", "float32", ("N", 5)),), (TensorSpec("output", "float32", ("N", 3)),), (Dim("N"),))


WEIGHT = np.random.default_rng(7).standard_normal((5, 3))


def linear(x: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """The little model of the pure tests: x @ W, computed in `dtype`, with the non-finite pattern of real arithmetic."""
    with np.errstate(all="ignore"):
        return (x.astype(dtype) @ WEIGHT.astype(dtype)).astype(dtype)


def answered(question: CaseInputs) -> Case:
    """A case of the little model: float32 as eager, float64 as truth."""
    x = question.inputs["x"]
    expected, exact = linear(x, np.float32), linear(x)
    noise = {}
    if question.gate == "full":
        noise = {"output": Noise(float(np.sqrt(np.mean((expected - exact) ** 2))), 1e-3)}
    return Case(
        question.id,
        question.input_class,
        question.gate,
        question.rows,
        question.seed,
        question.inputs,
        {"output": expected},
        {"output": exact} if question.gate == "full" else {},
        noise,
        question.labels,
    )


@pytest.fixture
def cases(signature) -> list[Case]:
    example = {"x": np.ones((2, 5), np.float32)}
    return [answered(question) for question in campaign(signature, example, None, 3)]
