"""The seed model: what it computes, and what it says about itself."""

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.errors import UsageError
from deploykit.model import SourceSpec
from deploykit.signature import Dim
from deploykit.sources._mlp_net import MLP
from deploykit.sources.mlp import Source


def test_computes_784_128_10_on_normalized_pixels():
    module = MLP(0.3, 0.4)
    image = torch.rand(5, 1, 28, 28)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10), nn.LogSoftmax(dim=-1))
    layers[1].load_state_dict(module.hidden.state_dict())
    layers[3].load_state_dict(module.output.state_dict())
    torch.testing.assert_close(module(image), layers((image - 0.3) / 0.4))
    torch.testing.assert_close(module(image).exp().sum(dim=1), torch.ones(5))


def test_normalization_travels_in_the_state_dict():
    target = MLP()
    target.load_state_dict(MLP(0.25, 0.5).state_dict())
    assert (float(target.mean), float(target.std)) == (0.25, 0.5)
    assert {name for name, _ in target.named_parameters()}.isdisjoint({"mean", "std"})  # never trained


def test_describes_itself():
    loaded = Source().load(SourceSpec.parse("mlp"))
    assert str(loaded.signature.inputs[0]) == "image:float32[N,1,28,28]"
    assert loaded.signature.dims == (Dim("N"),)
    assert loaded.signature.sizes_of(loaded.example) == {"N": 2}
    assert 0 <= loaded.example["image"].min() < loaded.example["image"].max() <= 1
    assert loaded.notes["preprocessing"] == "in the module: (image - mean) / std"
    assert not any(part.training for part in loaded.module.modules())


def test_seed_decides_weights_and_example():
    first, again, other = (Source().load(SourceSpec("mlp", seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first.module.hidden.weight, again.module.hidden.weight)
    assert np.array_equal(first.example["image"], again.example["image"])
    assert not torch.equal(first.module.hidden.weight, other.module.hidden.weight)


def test_takes_no_target_and_no_inputs():
    with pytest.raises(UsageError, match="UNKNOWN_MODEL"):
        Source().load(SourceSpec.parse("mlp:large"))
    with pytest.raises(UsageError, match=r"INPUT_NAMES.*image:float32\[N,1,28,28\]"):
        Source().load(SourceSpec.parse("mlp", inputs=("image:float32[N,784]",)))
