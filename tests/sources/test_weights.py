"""Checkpoints of every kind that people have, and those that nobody should open."""

import os
import pickle
import subprocess
import sys
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from deploykit.errors import RefusedError, UsageError
from deploykit.sources._weights import load_weights, save_weights


class Canary:
    """Unpickled, it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def same(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def stored(kind, weights, path):
    """Write `weights` the way `kind` of script does."""
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "legacy":
        torch.save(weights, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"plain": weights, "state_dict": {"state_dict": weights, "epoch": 3, "optimizer": {"lr": 0.1}},
                    "model_state_dict": {"model_state_dict": weights, "loss": 0.5}}[kind], path)  # fmt: skip


@pytest.mark.parametrize("kind", ["safetensors", "plain", "legacy", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights"])
def test_content_decides_not_the_name(tmp_path, kind, name):
    source, target = network(1), network(2)
    stored(kind, source.state_dict(), tmp_path / name)
    assert not same(source, target)
    load_weights(target, tmp_path / name)
    assert same(source, target)


@pytest.mark.parametrize("form", ["pickle", "protocol 0", "zip", "legacy", "cut", "module"])
def test_code_is_refused_and_never_runs(tmp_path, form):
    bird, path = tmp_path / "fired", tmp_path / "weights.pt"
    loot = {"0.weight": Canary(bird)}
    if form == "zip":
        torch.save(loot, path)
    elif form == "legacy":
        torch.save(loot, path, _use_new_zipfile_serialization=False)
    elif form == "module":
        torch.save(network(1), path)
    else:
        data = pickle.dumps(loot, protocol=0 if form == "protocol 0" else 4)
        path.write_bytes(data[:-1] if form == "cut" else data)
    with pytest.raises(RefusedError, match="UNTRUSTED_CODE"):
        load_weights(network(2), path)
    assert not bird.exists()


def test_the_canary_can_fire(tmp_path):
    """Otherwise the test above would show nothing."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "fired")))
    assert (tmp_path / "fired").exists()


def test_torchscript_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and such files are still around
        torch.jit.save(torch.jit.trace(network(1).eval(), torch.zeros(1, 6)), tmp_path / "model.pt")
    with pytest.raises(RefusedError, match=r"UNTRUSTED_CODE.*TorchScript"):
        load_weights(network(2), tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["safetensors", "plain", "legacy"])
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9, 0.999])
def test_truncated_files_are_malformed(tmp_path, kind, keep):
    path = tmp_path / "weights"
    stored(kind, network(1).state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    target, before = network(2), network(2)
    with pytest.raises(RefusedError) as refused:
        load_weights(target, path)
    assert same(target, before)
    # half a legacy file may name torch's own rebuild functions and then stop: either refusal is right
    assert refused.value.code in ({"MALFORMED", "UNTRUSTED_CODE"} if kind == "legacy" else {"MALFORMED"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a text, cut short",
        b"cats are not weights\nnor are dogs\n",
        bytes(range(256)) * 8,
        b"\xff" * 8 + b"{",
        b"PK\x03\x04 no archive",
        b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
        pickle.dumps([1, 2, 3]),
    ],
    ids=["empty", "text", "text like a pickle", "bytes", "huge header", "zip head", "no tensors", "a list"],
)
def test_garbage_is_malformed(tmp_path, data):
    (tmp_path / "weights").write_bytes(data)
    with pytest.raises(RefusedError) as refused:
        load_weights(network(1), tmp_path / "weights")
    expected = (
        "CHECKPOINT_MISMATCH" if data.endswith(b"{}") else "MALFORMED"
    )  # that one is a valid file without tensors
    assert refused.value.code == expected


def test_a_foreign_zip_is_malformed(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(RefusedError, match="MALFORMED"):
        load_weights(network(1), tmp_path / "weights.pt")


@pytest.mark.parametrize("value", [{"epoch": 3}, {}, [torch.zeros(1)], torch.zeros(3), {1: torch.zeros(1)}])
def test_other_tensors_files_are_malformed(tmp_path, value):
    torch.save(value, tmp_path / "weights.pt")
    with pytest.raises(RefusedError, match=r"MALFORMED.*no state dict"):
        load_weights(network(1), tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("2.bias"), r"1 tensor is missing, first 2\.bias"),
        (lambda w: [w.pop(name) for name in list(w)[:2]], r"2 tensors are missing, first 0\.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 tensor is not in the model, first extra"),
        (lambda w: w.update({"0.bias": torch.zeros(1, 5)}), r"0\.bias is \[1, 5\], the model has \[5\]"),
        (lambda w: w.update({"0.bias": torch.zeros(5, dtype=torch.int8)}), r"0\.bias is int8, the model has float32"),
    ],
    ids=["missing", "two missing", "unexpected", "broadcastable shape", "quantized"],
)
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, change, message):
    weights = network(1).state_dict()
    change(weights)
    save_file(weights, tmp_path / "weights")
    target, before = network(2), network(2)
    with pytest.raises(RefusedError, match=f"CHECKPOINT_MISMATCH.*{message}"):
        load_weights(target, tmp_path / "weights")
    assert same(target, before)


def test_non_finite_and_double_weights_load(tmp_path):
    weights = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in network(1).state_dict().items()
    }
    weights["0.bias"][1] = float("nan")
    save_file(weights, tmp_path / "weights")
    target = network(2)
    load_weights(target, tmp_path / "weights")
    assert target[0].bias.isnan().tolist() == [False, True, False, False, False]
    assert torch.equal(target[2].weight, network(1)[2].weight)


def test_missing_file_and_directory(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(UsageError, match="NOT_FOUND"):
            load_weights(network(1), path)


def test_saved_weights_repeat_and_come_back_with_ties(tmp_path):
    module = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False), "c": network(1)})
    module["b"].weight = module["a"].weight
    flat = torch.arange(32.0)
    module["d"] = nn.Linear(4, 4, bias=False)
    module["d"].weight = nn.Parameter(flat[16:].view(4, 4).t())  # not contiguous, and a part of a larger storage
    for name in ("one", "two"):
        save_weights(module, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    weights = load_file(tmp_path / "one")
    assert weights.keys() == module.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in module.state_dict().items())
    assert (tmp_path / "one").stat().st_size < sum(w.nbytes for w in weights.values()) + 2048
    load_weights(module, tmp_path / "one")


def test_saving_where_it_cannot_be_saved(tmp_path):
    with pytest.raises(UsageError, match="NOT_FOUND"):
        save_weights(network(1), tmp_path / "none" / "weights")
    code = (
        "import resource, signal, sys\n"
        "from torch import nn\n"
        "from deploykit.errors import StorageError\n"
        "from deploykit.sources._weights import save_weights\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try:\n"
        "    save_weights(nn.Linear(300, 300), sys.argv[1])\n"
        "except StorageError as error:\n"
        "    print(error.code)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "weights"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.split() == ["DISK_FULL"]


@pytest.mark.parametrize("dropped", ["0.weight", "2.weight"])
def test_the_second_name_of_a_tied_tensor_may_be_missing(tmp_path, dropped):
    def tied(seed):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
        net[2].weight = net[0].weight
        return net

    weights = {name: value.clone() for name, value in tied(1).state_dict().items() if name != dropped}
    save_file(weights, tmp_path / "w.safetensors")
    other = tied(2)
    load_weights(other, tmp_path / "w.safetensors")
    assert same(other, tied(1))
    with pytest.raises(RefusedError, match="1 tensor is missing"):
        load_weights(nn.Sequential(*(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))),
                     tmp_path / "w.safetensors")  # fmt: skip


def test_what_a_module_keeps_beside_its_tensors_is_no_weight(tmp_path):
    class Beside(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            assert state == {"calls": 3}

    first, second = Beside(3, 2), Beside(3, 2)
    save_weights(first, tmp_path / "w.safetensors")
    assert set(load_file(tmp_path / "w.safetensors")) == {"weight", "bias"}
    load_weights(second, tmp_path / "w.safetensors")
    assert torch.equal(first.weight, second.weight)
