"""The fixture `parity` in a pytest of its own, found by the entry point as a user's tests find it."""

import os
import re
import subprocess
import sys

pytest_plugins = ["pytester"]

MODEL = """
import pytest
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))
"""


TESTS = """
import numpy as np

X = torch.rand(4, 6)
GIVEN = {"x": np.random.default_rng(0).random((90, 6), np.float32), "labels": np.arange(90) % 3}


def test_sound(parity):
    net = Net().eval()
    report = parity(net, X, variants=["onnx", "torchscript"])
    assert (report.verdict, {v.name for v in report.variants}) == ("pass", {"onnx", "torchscript"})
    assert not net.training


@pytest.mark.parametrize("inconclusive", ["fail", "warn"])
def test_few_labels(parity, inconclusive):
    parity(Net().eval(), X, samples=GIVEN, inconclusive=inconclusive)


def test_tight(parity):
    parity(Net().eval(), X, variants="onnx,torchscript", limits={"max_r": 1e-9})


def test_train_mode(parity):
    parity(Net().train(), X)


def test_nonsense(parity):
    parity(Net().eval(), X, variants=["nope"])
"""


def test_what_passes_what_fails_and_what_it_says(pytester):
    """One process for all of them: importing torch is most of the time."""
    pytester.makepyfile(test_net=MODEL + TESTS)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--override-ini=filterwarnings=error")
    done.assert_outcomes(passed=2, failed=4)
    said = done.stdout.str()
    sections = dict(zip(*[iter(re.split(r"^_+ (test_\S+) _+$", said, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert list(sections) == ["test_few_labels[fail]", "test_tight", "test_train_mode", "test_nonsense"]
    assert "samples like these would decide" in sections["test_few_labels[fail]"]
    tight = sections["test_tight"]
    assert "parity of Net with eager PyTorch: FAIL" in tight
    assert re.search(r"^ onnx +fail .* ≤ [12]e-09 ", tight, re.MULTILINE)
    assert "onnx: VALUE_MISMATCH worst at" in tight
    assert sections["test_train_mode"].strip().startswith("error[TRAIN_MODE]: ")
    assert sections["test_nonsense"].strip().startswith("error[UNKNOWN_VARIANT]: ")
    for noise in ("Traceback", "pytest_plugin.py", "Captured"):
        assert noise not in said


def test_a_pytest_that_does_not_use_it_imports_nothing_of_it(tmp_path):
    (tmp_path / "test_light.py").write_text(
        "import sys\n\n\ndef test_it():\n"
        "    heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'pydantic', 'click', 'deploykit.api'}\n"
        "    assert 'deploykit.pytest_plugin' in sys.modules\n"
        "    assert heavy & set(sys.modules) == set()\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "test_light.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_fixture_is_listed_with_its_purpose(pytester):
    said = pytester.runpytest_subprocess("--fixtures", "-p", "no:cacheprovider").stdout.str()
    assert "Export a live module to a temporary bundle" in said
