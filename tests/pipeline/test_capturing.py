"""Native code that dies of an unusual input costs that input, not the export."""

import pytest

import deploykit
from deploykit.errors import WorkError

DIES = """
import os, signal
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x):
        if not torch.jit.is_tracing() and {when}:
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.layer(x)

def build():
    torch.manual_seed(0)
    return Net(), torch.rand(2, 4)
"""


def source(folder, when):
    (folder / "net.py").write_text(DIES.format(when=when))
    return f"python:{folder / 'net.py'}:build"


def test_a_question_that_kills_the_process_is_left_out_and_noted(tmp_path):
    made = deploykit.export(source(tmp_path, "x.isnan().any()"), output=tmp_path / "b", variants=["torchscript"])
    notes = made.manifest.source.notes
    assert set(notes) >= {"skipped nan-element", "skipped nan-row"}
    assert "eager dies of it: the worker process died of SIGSEGV" in notes["skipped nan-row"]
    asked = {case.id for case in made.manifest.reference.cases}
    assert "nan-row" not in asked
    assert "inf-row" in asked
    assert deploykit.verify(made.path).verdict == "pass"


def test_a_question_that_was_promised_is_no_such_question(tmp_path):
    with pytest.raises(WorkError) as caught:
        deploykit.export(source(tmp_path, "len(x) > 2"), output=tmp_path / "b", variants=["torchscript"])
    assert caught.value.code == "WORKER_CRASHED"
    assert not (tmp_path / "b").exists()
