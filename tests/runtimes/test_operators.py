"""Artifacts that call operators of torchvision open in a process that never imported it."""

import subprocess
import sys
import warnings

import pytest
import torch

torchvision = pytest.importorskip("torchvision")

OPEN = """
import sys
from pathlib import Path
import numpy as np
from deploykit import registry
from deploykit.session import SessionSettings
session = registry.load("runtimes", sys.argv[1])().open(Path(sys.argv[2]), ("y",), SessionSettings())
print(session.run({"x": np.ones((1, 3, 8, 8), np.float32)})["y"].shape)
"""


class Pooled(torch.nn.Module):
    def forward(self, x):
        return torchvision.ops.roi_align(x, [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], 2)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder, x = tmp_path_factory.mktemp("pooled"), torch.rand(1, 3, 8, 8)
    torch.export.save(torch.export.export(Pooled(), (x,)), str(folder / "m.pt2"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and still shipped
        torch.jit.trace(Pooled(), (x,)).save(str(folder / "m.ts"))
    return {"torch-export": folder / "m.pt2", "torchscript": folder / "m.ts"}


@pytest.mark.parametrize("runtime", ["torch-export", "torchscript"])
def test_operators_of_a_package_are_registered_on_opening(artifacts, runtime):
    argv = [sys.executable, "-c", OPEN, runtime, str(artifacts[runtime])]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout == "(1, 3, 2, 2)\n", done.stderr


@pytest.mark.parametrize("runtime", ["torch-export", "torchscript"])
def test_a_package_that_is_not_there_is_named(artifacts, runtime, monkeypatch):
    from deploykit import registry
    from deploykit.errors import WorkError
    from deploykit.runtimes import _operators
    from deploykit.session import SessionSettings

    monkeypatch.setattr(_operators, "find_spec", lambda _: None)
    with pytest.raises(WorkError, match="operators of torchvision, which is not installed here") as caught:
        registry.load("runtimes", runtime)().open(artifacts[runtime], ("y",), SessionSettings())
    assert caught.value.code == "LOAD_ERROR"
