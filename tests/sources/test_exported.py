"""Saved programs of torch.export as sources: their own dims, ranges and examples; opened only where trusted."""

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.errors import RefusedError, UsageError
from deploykit.model import SourceSpec
from deploykit.sources.exported import Source


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.last = nn.Linear(16, 5)

    def forward(self, x, mate=None, scale: float = 2.0):
        hidden = torch.relu(self.first(x))
        if mate is not None:
            hidden = hidden + mate * scale
        return {"logits": self.last(hidden), "hidden": hidden}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    arguments = ((torch.randn(3, 8),), {"mate": torch.randn(3, 16), "scale": 3.0})
    shapes = {"x": {0: batch}, "mate": {0: batch}, "scale": None}
    module = Net().eval()
    program = torch.export.export(module, *arguments, dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    return tmp_path / "net.pt2", module


def load(path, trust_code=True, **options):
    return Source().load(SourceSpec.parse(f"exported:{path}", trust_code=trust_code, **options))


def test_the_program_brings_its_inputs_ranges_and_examples(saved):
    path, module = saved
    loaded = load(path)
    assert [str(spec) for spec in loaded.signature.inputs] == ["x:float32[N,8]", "mate:float32[N,16]"]
    assert [(dim.name, dim.min, dim.max) for dim in loaded.signature.dims] == [("N", 1, 64)]
    assert not loaded.drawn
    x, mate = (torch.from_numpy(array) for array in loaded.example.values())
    assert len(x) == 2
    with torch.no_grad():
        found, expected = loaded.module(x, mate), module(x, mate, scale=3.0)
        one = loaded.module(x[:1], mate[:1])
    assert torch.equal(found["logits"], expected["logits"])
    assert one["hidden"].shape == (1, 16)
    assert not any(part.training for part in loaded.module.modules())
    assert loaded.module.eval() is loaded.module
    assert str(path) not in str(loaded.notes)


def test_inferred_dims_get_names_and_no_example_draws_one(tmp_path):
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        nn.Conv2d(3, 4, 3, padding=1).eval(),
        (torch.randn(2, 3, 16, 12),),
        dynamic_shapes=({0: auto, 2: auto, 3: auto},),
    )
    program.example_inputs = None
    torch.export.save(program, tmp_path / "conv.pt2")
    loaded = load(tmp_path / "conv.pt2")
    assert [spec.shape for spec in loaded.signature.inputs] == [("N", 3, "D1", "D2")]
    assert loaded.drawn
    with torch.no_grad():
        assert loaded.module(torch.from_numpy(np.ones((1, 3, 5, 9), np.float32))).shape == (1, 4, 5, 9)


def test_dims_that_depend_on_each_other_become_numbers(tmp_path):
    class Pairs(nn.Module):
        def forward(self, rows, pairs):
            return rows.repeat_interleave(2, dim=0) + pairs

    half = torch.export.Dim("half", min=1, max=8)
    program = torch.export.export(
        Pairs(), (torch.randn(3, 4), torch.randn(6, 4)), dynamic_shapes=({0: half}, {0: 2 * half})
    )
    torch.export.save(program, tmp_path / "pairs.pt2")
    assert [spec.shape for spec in load(tmp_path / "pairs.pt2").signature.inputs] == [(3, 4), (6, 4)]


def test_input_texts_narrow_what_the_program_takes(saved):
    path, _ = saved
    fixed = load(path, inputs=("x:float32[4,8]", "mate:float32[4,16]"))
    assert fixed.example["mate"].shape == (4, 16)
    assert load(path, inputs=("x:float32[B=2..8,8]", "mate:float32[B,16]")).signature.dims[0].max == 8
    with pytest.raises(UsageError, match=r"BAD_INPUT.*it takes x:float32\[N,8\]"):
        load(path, inputs=("x:float32[N,9]",))
    with pytest.raises(UsageError, match=r"INPUT_NAMES.*no input is called y"):
        load(path, inputs=("y:float32[N,8]",))


def test_without_trust_nothing_is_opened(saved, monkeypatch):
    path, _ = saved
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(RefusedError, match=r"UNTRUSTED_CODE.*--trust-code"):
        load(path, trust_code=False)


def test_other_files(saved, tmp_path):
    path, _ = saved
    with pytest.raises(UsageError, match="NOT_FOUND"):
        load(tmp_path / "nothing.pt2")
    (tmp_path / "text.pt2").write_text("no program")
    with pytest.raises(RefusedError, match="MALFORMED"):
        load(tmp_path / "text.pt2")
    (tmp_path / "cut.pt2").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RefusedError, match="MALFORMED"):
        load(tmp_path / "cut.pt2")


def test_a_checkpoint_of_the_original_fits(saved, tmp_path):
    path, _ = saved
    torch.manual_seed(5)
    other = Net().eval()
    torch.save(other.state_dict(), tmp_path / "other.pt")
    loaded = load(path, checkpoint=str(tmp_path / "other.pt"))
    x, mate = (torch.from_numpy(array) for array in loaded.example.values())
    with torch.no_grad():
        assert torch.equal(loaded.module(x, mate)["logits"], other(x, mate, scale=3.0)["logits"])
