"""TorchScript files as sources: inputs by `--input`, frozen or not; opened only where trusted."""

import pytest
import torch
from torch import nn

from deploykit.errors import RefusedError, UsageError
from deploykit.model import SourceSpec
from deploykit.sources.exported import Source as Exported
from deploykit.sources.torchscript import Source

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, image: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return self.drop(self.layer(image)) + shift


TEXTS = ("image:float32[N,4]", "shift:float32[N,3]")


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    module = Net()
    torch.jit.script(module).save(tmp_path / "net.pt")
    torch.jit.freeze(torch.jit.script(module.eval())).save(tmp_path / "frozen.pt")
    return tmp_path, module


def load(path, trust_code=True, inputs=TEXTS, source=Source, kind="torchscript", **options):
    return source().load(SourceSpec.parse(f"{kind}:{path}", trust_code=trust_code, inputs=inputs, **options))


@pytest.mark.parametrize("name", ["net.pt", "frozen.pt"])
def test_a_program_answers_in_eval_mode(saved, name):
    folder, module = saved
    loaded = load(folder / name)
    assert [str(spec) for spec in loaded.signature.inputs] == list(TEXTS)
    tensors = [torch.from_numpy(array) for array in loaded.example.values()]
    with torch.no_grad():
        assert torch.allclose(loaded.module(*tensors), module(*tensors), atol=1e-6)
    assert not getattr(loaded.module, "training", False)


def test_the_inputs_have_to_be_told(saved):
    folder, _ = saved
    with pytest.raises(UsageError, match=r"NO_INPUTS.*--input NAME:DTYPE\[dims\] for NAME in image, shift"):
        load(folder / "net.pt", inputs=())
    for texts in (TEXTS[:1], TEXTS[1:], (*TEXTS, "more:float32[N]")):
        with pytest.raises(UsageError, match=r"INPUT_NAMES.*forward takes image, shift"):
            load(folder / "net.pt", inputs=texts)


def test_a_program_that_takes_a_list_is_refused(tmp_path):
    class Lists(nn.Module):
        def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack(images)

    torch.jit.script(Lists()).save(tmp_path / "lists.pt")
    with pytest.raises(UsageError, match=r"NO_INPUTS.*forward takes images as List\[Tensor\]"):
        load(tmp_path / "lists.pt")


def test_without_trust_nothing_is_opened(saved, monkeypatch):
    folder, _ = saved
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(RefusedError, match=r"UNTRUSTED_CODE.*--trust-code"):
        load(folder / "net.pt", trust_code=False)


def test_the_other_kind_of_file_names_its_source(saved):
    folder, _ = saved
    with pytest.raises(RefusedError, match=r"another source: torchscript.*write torchscript:"):
        load(folder / "net.pt", source=Exported, kind="exported", inputs=())
