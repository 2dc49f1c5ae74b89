"""Two real gloo processes started by torchrun, against one process on the same global batches."""

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

import deploykit
from deploykit.errors import UsageError
from deploykit.sources._weights import read_weights
from deploykit.training import distributed
from deploykit.training.loop import fit

ROOT = Path(deploykit.__file__).parent.parent
SCRIPT = ROOT / "tests" / "fixtures" / "train_ranks.py"


@pytest.fixture(scope="module")
def script():
    spec = spec_from_file_location("train_ranks", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The folder that two processes wrote their results to."""
    folder = tmp_path_factory.mktemp("ranks")
    # CUDA is hidden: gloo is what is tried here, also on a machine with two GPUs
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(SCRIPT), str(folder)]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_two_processes_train_the_model_that_one_process_trains(ranks, script):
    splits = script.small_splits()
    alone = script.fresh_model(splits)
    before = {name: tensor.clone() for name, tensor in alone.state_dict().items()}
    losses = fit(alone, splits, script.CONFIG)
    together = read_weights(ranks / "rank0.safetensors")
    assert together.keys() == alone.state_dict().keys()
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(together[name], tensor, atol=1e-5, rtol=0, msg=name)
    moved = (alone.hidden.weight - before["hidden.weight"]).abs().max()
    assert moved > 1e-2  # far over the tolerance: the comparison can tell trained from untrained
    assert json.loads((ranks / "rank0.json").read_text())["losses"] == pytest.approx(losses, abs=1e-5)


def test_ranks_agree_bit_for_bit(ranks):
    assert (ranks / "rank0.safetensors").read_bytes() == (ranks / "rank1.safetensors").read_bytes()


def test_only_rank_0_reports_epochs(ranks):
    first, second = (json.loads((ranks / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert (first["world"], second["world"]) == (2, 2)
    assert (first["told"], second["told"]) == ([1, 2, 3], [])
    assert first["losses"] == second["losses"]


def test_divergence_stops_every_rank(ranks):
    assert [(ranks / f"rank{rank}.diverged").read_text() for rank in (0, 1)] == ["TRAINING_DIVERGED"] * 2


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with distributed.process_group() as place:
        assert place == (0, 1)
        assert not torch.distributed.is_initialized()
        assert distributed.device() == torch.device("cpu")


def test_variables_that_are_no_numbers_are_a_usage_error(monkeypatch):
    for name, value in {"RANK": "zero", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="RANK=zero"), distributed.process_group():
        pass
