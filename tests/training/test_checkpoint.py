"""Checkpoints: the record comes back, the bytes repeat, and a failed write leaves the old file."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deploykit.errors import RefusedError, StorageError, UsageError
from deploykit.model import SourceSpec
from deploykit.sources._mlp_net import MLP
from deploykit.sources.mlp import Source
from deploykit.training.checkpoint import read_record, save

RECORD = {"optimizer": "sgd", "losses": [2.3, 0.5], "test_accuracy": 0.97}


def test_record_and_weights_come_back(tmp_path):
    torch.manual_seed(5)
    trained = MLP(0.25, 0.5)
    save(trained, RECORD, tmp_path / "mlp.safetensors")
    assert read_record(tmp_path / "mlp.safetensors") == {"architecture": MLP.architecture, "record": RECORD}
    loaded = Source().load(SourceSpec("mlp", checkpoint=str(tmp_path / "mlp.safetensors"))).module
    image = torch.rand(3, 1, 28, 28)
    assert torch.equal(loaded(image), trained(image))


def test_one_metadata_key_and_the_same_bytes(tmp_path):
    module = MLP()
    for name in ("a", "b"):
        save(module, RECORD, tmp_path / name)
    with safe_open(tmp_path / "a", framework="pt") as stored:
        assert list(stored.metadata()) == ["deploykit"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tied_weights_are_written_under_both_names(tmp_path):
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "b": torch.nn.Linear(4, 4)})
    module["b"].weight = module["a"].weight
    save(module, {}, tmp_path / "tied")
    with safe_open(tmp_path / "tied", framework="pt") as stored:
        assert torch.equal(stored.get_tensor("a.weight"), stored.get_tensor("b.weight"))


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path):
    """A file size limit stands for the full disk: the kernel cuts the write off in the middle."""
    target = tmp_path / "mlp.safetensors"
    save(MLP(), RECORD, target)
    old = target.read_bytes()
    code = (
        "import resource, signal, sys\n"
        "from deploykit.sources._mlp_net import MLP\n"
        "from deploykit.training.checkpoint import save\n"
        "from deploykit.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try:\n"
        "    save(MLP(), {}, sys.argv[1])\n"
        "except StorageError as error:\n"
        "    print(error.code)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, target], capture_output=True, text=True, check=True, timeout=120
    )
    assert ended.stdout.split() == ["DISK_FULL"]
    assert target.read_bytes() == old
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="PERMISSION"):
        save(MLP(), {}, tmp_path / "x")


def test_missing_directory_and_directory_as_target(tmp_path):
    with pytest.raises(UsageError, match="NOT_FOUND"):
        save(MLP(), {}, tmp_path / "none" / "x")
    with pytest.raises(UsageError, match="is a directory"):
        save(MLP(), {}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_without_a_record(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    save_file({"x": torch.zeros(1)}, tmp_path / "broken", metadata={"deploykit": "{"})
    save_file({"x": torch.zeros(1)}, tmp_path / "other", metadata={"deploykit": "[1]"})
    (tmp_path / "text").write_text("no checkpoint at all")
    with pytest.raises(UsageError, match="NO_RECORD"):
        read_record(tmp_path / "foreign")
    for name in ("broken", "other", "text"):
        with pytest.raises(RefusedError, match="MALFORMED"):
            read_record(tmp_path / name)
    with pytest.raises(UsageError, match="NOT_FOUND"):
        read_record(tmp_path / "missing")


def test_a_link_gets_a_checkpoint_where_it_leads_to(tmp_path):
    (tmp_path / "link").symlink_to("real")
    save(MLP(), RECORD, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert read_record(tmp_path / "real")["record"] == RECORD
