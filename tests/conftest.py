"""Fixtures of the whole suite: nothing is written outside temporary folders, nothing leaks into the user's state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from deploykit.campaign.plan import campaign
from deploykit.inputs import CaseInputs
from deploykit.reference import Case, Noise
from deploykit.signature import Dim, Signature, TensorSpec

LONGEST = ("torture", "cli", "pipeline")
"""Folders whose files take minutes: they start first, so that no process ends alone with one of them."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a background shell has it; what tests start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(f"tests/{folder}/" in item.path.as_posix() for folder in LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        patch.delenv("GITHUB_ACTIONS", raising=False)
        yield


@pytest.fixture
def signature() -> Signature:
    return Signature((TensorSpec("x", "float32", ("N", 5)),), (TensorSpec("output", "float32", ("N", 3)),), (Dim("N"),))


WEIGHT = np.random.default_rng(7).standard_normal((5, 3))


def linear(x: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """The little model of the pure tests: x @ W, in `dtype`, with the non-finite pattern of real arithmetic."""
    with np.errstate(all="ignore"):
        return (x.astype(dtype) @ WEIGHT.astype(dtype)).astype(dtype)


def _rmse(expected: np.ndarray, exact: np.ndarray) -> float:
    finite = np.isfinite(expected) & np.isfinite(exact)
    return float(np.sqrt(np.mean((expected[finite] - exact[finite]) ** 2)))


def answered(question: CaseInputs) -> Case:
    """A case of the little model: float32 as eager, float64 as truth."""
    x = question.inputs["x"]
    expected, exact = linear(x, np.float32), linear(x)
    noise = {}
    if question.gate in {"full", "accurate"}:
        noise = {"output": Noise(_rmse(expected, exact), 1e-3)}
    return Case(
        question.id,
        question.input_class,
        question.gate,
        question.rows,
        question.seed,
        question.inputs,
        {"output": expected},
        {"output": exact} if question.gate != "pattern" else {},
        noise,
        question.labels,
        question.layout,
        question.relation,
    )


@pytest.fixture
def cases(signature) -> list[Case]:
    example = {"x": np.ones((2, 5), np.float32)}
    return [answered(question) for question in campaign(signature, example, None, 3)]


FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def builder() -> Path:
    """The folder of `builder.py`, for scripts that build small bundles in processes of their own."""
    return FIXTURES


@pytest.fixture(scope="session")
def build():
    """`build(target, ...)` publishes a small bundle without torch; see fixtures/builder.py."""
    spec = spec_from_file_location("deploykit_tests_builder", FIXTURES / "builder.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build


@pytest.fixture
def made(build, cases, tmp_path) -> Path:
    """A small bundle of this test's own."""
    build(tmp_path / "made", case=next(case for case in cases if case.id == "batch-2"))
    return tmp_path / "made"


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """The command line in a fresh process, as a user has it: nothing of this process is in it."""

    def run(
        *arguments: object, cwd: Path | None = None, timeout: float = 280, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-P", "-m", "deploykit", *map(str, arguments)]
        env = {**os.environ, **environment}
        return subprocess.run(argv, capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout, check=False)

    return run


TINY = """\
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def build():
    torch.manual_seed(0)
    return Tiny(), torch.rand(2, 6)
"""


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory) -> str:
    """A SOURCE that exports in seconds: two small layers in a file of the user's own."""
    path = tmp_path_factory.mktemp("source") / "tiny.py"
    path.write_text(TINY)
    return f"python:{path}:build"


@pytest.fixture(scope="session")
def tiny_bundle(cli, tiny_source, tmp_path_factory) -> Path:
    """`torchscript`, `torch-export` and `onnx` of the tiny model. Shared: copy it before changing it."""
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    done = cli("export", tiny_source, "-o", path, "--variants", "torchscript,torch-export,onnx")
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def seed_run(cli, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The main job, once, for real: `deploykit run mlp --quick`. Shared: copy the bundle before changing it."""
    folder = tmp_path_factory.mktemp("seed")
    done = cli("run", "mlp", "--quick", "-o", folder / "mlp", "--json", folder / "run.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "mlp", done


@pytest.fixture
def seed_bundle(seed_run) -> Path:
    """The bundle of the main job."""
    return seed_run[0]
