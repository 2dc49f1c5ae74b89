"""The Python API gives what the command line prints, and leaves the caller's module and process as they were."""

from __future__ import annotations

import gc
import json
import random
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deploykit
from deploykit.bundle import Bundle
from deploykit.errors import RefusedError, UsageError, WorkError
from deploykit.measurements import BenchReport
from deploykit.results import VerifyReport, to_data


class Net(nn.Module):
    """Two layers, a norm with buffers, and a hook's worth of state that somebody may care about."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor):
        return self.second(torch.relu(self.norm(self.first(x))))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = Net().eval()
    module.first.bias.requires_grad_(False)
    module.second.weight.grad = torch.ones(3, 16)
    return module


def state(module: nn.Module) -> dict[str, object]:
    """Everything about a module that an export could have changed."""
    return {
        "tensors": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "identities": {name: id(tensor) for name, tensor in module.named_parameters()},
        "grad": {name: p.grad is not None for name, p in module.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in module.named_parameters()},
        "training": {name: part.training for name, part in module.named_modules()},
        "attributes": {name: sorted(vars(part)) for name, part in module.named_modules()},
        "hooks": {name: len(part._forward_hooks) for name, part in module.named_modules()},
        "class": type(module),
    }


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory) -> tuple[Bundle, dict, dict]:
    before = state(net)
    path = tmp_path_factory.mktemp("api") / "net"
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    drawn = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    threads, grad, default = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    bundle = deploykit.export(net, torch.rand(2, 6), path, variants=["torchscript", "onnx", "onnx-int8-dynamic"])
    assert (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()) == (threads, grad, default)
    after = (torch.get_rng_state(), np.random.get_state()[1], random.getstate())
    return bundle, {"state": before, "random": drawn}, {"state": state(net), "random": after}


def test_importing_deploykit_imports_nothing_but_itself():
    script = "import sys; before = set(sys.modules); import deploykit; "
    script += "print([n for n in set(sys.modules) - before if not n.startswith('deploykit')])"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert not {name.split(".")[0] for name in loaded} & {"torch", "numpy", "onnx", "pydantic", "click", "rich"}


def test_the_public_names_are_typed_and_all_there():
    assert set(deploykit.__all__) <= set(dir(deploykit)) | set(deploykit._HOMES)
    assert deploykit.VerifyReport is VerifyReport
    assert deploykit.Bundle is Bundle
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = deploykit.nope
    assert (Path(deploykit.__file__).parent / "py.typed").is_file()


def test_a_live_module_becomes_a_whole_bundle(exported):
    bundle = exported[0]
    bundle.check()
    assert {v.name: v.status for v in bundle.manifest.variants} == dict.fromkeys(
        ("torchscript", "onnx", "onnx-int8-dynamic"), "ready"
    )
    assert bundle.manifest.source.spec.kind == "live"
    assert bundle.manifest.source.spec.target == "Net"
    assert [str(spec) for spec in bundle.manifest.signature.inputs] == ["x:float32[N,6]"]


def test_the_module_is_left_as_it_was(exported):
    before, after = exported[1]["state"], exported[2]["state"]
    assert all(torch.equal(tensor, after["tensors"][name]) for name, tensor in before["tensors"].items())
    assert {k: v for k, v in before.items() if k != "tensors"} == {k: v for k, v in after.items() if k != "tensors"}


def test_the_callers_random_numbers_are_left_alone(exported):
    before, after = exported[1]["random"], exported[2]["random"]
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]
    expected = torch.Generator()
    expected.set_state(before[0])
    torch.rand(2, 6, generator=expected)
    assert torch.equal(expected.get_state(), after[0])


def test_the_live_module_still_trains_after_the_export(exported, net):
    net.train()
    try:
        net(torch.rand(4, 6)).sum().backward()
        assert net.first.weight.grad is not None
    finally:
        net.zero_grad()
        net.eval()


def test_deploykit_keeps_no_reference_to_the_module(tmp_path):
    module = nn.Sequential(nn.Linear(3, 2)).eval()
    deploykit.export(module, torch.rand(2, 3), tmp_path / "b", variants=["torchscript"])
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


def test_verify_gives_what_the_command_line_prints(exported, cli):
    path = exported[0].path
    report = deploykit.verify(path, variants=["onnx", "torchscript"])
    assert isinstance(report, VerifyReport)
    assert (report.verdict, report.exit_code) == ("pass", 0)
    printed = json.loads(cli("verify", path, "--variants", "onnx,torchscript", "--json", "-").stdout)
    assert to_data(report)["variants"] == printed["variants"]


def test_verify_takes_limits_and_reports_that_they_were_loosened(exported):
    tight = deploykit.verify(str(exported[0].path), variants=["onnx"], limits={"max_r": 1e-6})
    assert (tight.verdict, tight.exit_code) == ("fail", 1)
    loose = deploykit.verify(exported[0].path, variants=["onnx"], limits={"max_r": 1e6})
    assert any("loosened" in check.reason for check in loose.variants[0].checks)
    with pytest.raises(UsageError, match="no such limit"):
        deploykit.verify(exported[0].path, limits={"nope": 1})


def test_bench_gives_rows_and_a_recommendation(exported):
    report = deploykit.bench(exported[0].path, variants=["onnx"], quick=True)
    assert isinstance(report, BenchReport)
    assert {(row.name, row.batch) for row in report.variants} == {("onnx", 1)}
    assert report.recommendation.variant == "onnx"
    assert report.exit_code == 0
    assert "not measured" in report.protocol["eager"]


def test_a_module_in_train_mode_is_refused_and_left_in_train_mode(net, tmp_path):
    net.norm.train()
    try:
        with pytest.raises(WorkError) as caught:
            deploykit.export(net, torch.rand(2, 6), tmp_path / "b", variants=["onnx"])
        assert net.norm.training
    finally:
        net.norm.eval()
    assert caught.value.code == "TRAIN_MODE"
    assert "norm (BatchNorm1d)" in str(caught.value)
    assert list(tmp_path.glob("b*")) == []


@pytest.mark.parametrize(
    ("example", "inputs", "code"),
    [
        (None, (), "NO_INPUTS"),
        (np.zeros((2, 6), np.float32), (), "BAD_EXAMPLE"),
        ({"y": torch.rand(2, 6)}, (), "INPUT_NAMES"),
        ((torch.rand(2, 6), torch.rand(2, 6)), (), "INPUT_NAMES"),
        (torch.rand(0, 6), (), "BAD_EXAMPLE"),
        (None, ("x:float32[N",), "BAD_INPUT"),
    ],
)
def test_examples_that_do_not_fit_are_usage_errors(net, tmp_path, example, inputs, code):
    with pytest.raises(UsageError) as caught:
        deploykit.export(net, example, tmp_path / "b", variants=["onnx"], inputs=inputs)
    assert caught.value.code == code
    assert list(tmp_path.glob("*b*")) == []


def test_requests_that_make_no_sense_are_refused_before_anything_runs(net, tmp_path, exported):
    with pytest.raises(UsageError, match="unknown variant"):
        deploykit.export(net, torch.rand(2, 6), tmp_path / "b", variants=["nope"])
    with pytest.raises(UsageError, match="no variant is named"):
        deploykit.export(net, torch.rand(2, 6), tmp_path / "b", variants=[])
    with pytest.raises(UsageError, match="weights already"):
        deploykit.export(net, torch.rand(2, 6), tmp_path / "b", checkpoint="x")
    with pytest.raises(UsageError, match="--force"):
        deploykit.export(net, torch.rand(2, 6), exported[0].path)
    with pytest.raises(UsageError, match="unknown execution provider"):
        deploykit.verify(exported[0].path, provider="tpu")
    with pytest.raises(UsageError, match="no such variant"):
        deploykit.verify(exported[0].path, variants=["nope"])
    with pytest.raises(UsageError, match="no variant to verify"):
        deploykit.verify(exported[0].path, variants=[])
    for limit in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match="no limit"):
            deploykit.verify(exported[0].path, limits={"max_r": limit})
    exported[0].check()


@pytest.mark.parametrize(
    "counts",
    [{"batches": ()}, {"batches": (0,)}, {"batches": (1, -1)}, {"batches": (1 << 40,)}, {"threads": 0}, {"seed": -1}],
)
def test_counts_that_make_no_sense_are_refused(exported, counts):
    with pytest.raises(UsageError):
        deploykit.bench(exported[0].path, variants=["onnx"], quick=True, **counts)


def test_a_tampered_bundle_is_refused(exported, tmp_path):
    copy = shutil.copytree(exported[0].path, tmp_path / "copy")
    (copy / "variants/onnx/model.onnx").write_bytes(b"other")
    for use in (deploykit.verify, deploykit.bench):
        with pytest.raises(RefusedError) as caught:
            use(copy)
        assert caught.value.code == "TAMPERED"


def test_progress_is_told(exported):
    class Ears:
        def __init__(self):
            self.heard = []

        def stage(self, title, total):
            self.heard.append((title, total))

        def step(self, text):
            self.heard.append(text)

        note = step

    ears = Ears()
    deploykit.verify(exported[0].path, variants=["onnx"], progress=ears)
    assert ears.heard == [("verify", 1), "onnx: pass"]
