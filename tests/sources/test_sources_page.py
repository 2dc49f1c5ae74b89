"""docs/sources.md: it names every source, and its blocks run as printed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit import registry

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]


def test_every_source_is_named():
    assert [name for name in registry.names("sources") if f"`{name}" not in PAGE] == []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """The files that the page speaks of: `mine`, `net.pt2`, `net.pt`."""
    folder = tmp_path_factory.mktemp("sources")
    script = """
import warnings, torch, transformers
warnings.simplefilter("ignore")
torch.manual_seed(0)
sizes = dict(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
config = transformers.BertConfig(max_position_embeddings=40, **sizes)
transformers.BertForSequenceClassification(config).save_pretrained("mine")
net = torch.nn.Linear(8, 3).eval()
batch = torch.export.Dim("batch", min=1, max=64)
torch.export.save(torch.export.export(net, (torch.randn(2, 8),), dynamic_shapes=({0: batch},)), "net.pt2")
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = net
    def forward(self, x):
        return self.layer(x)
torch.jit.trace(Net().eval(), torch.randn(2, 8)).save("net.pt")
"""
    pytest.importorskip("transformers")
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[2])
def test_blocks_run_as_printed(line, workplace):
    words = shlex.split(line, comments=True)
    assert words[:2] == ["deploykit", "export"]
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=workplace, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(workplace) not in (workplace / words[words.index("-o") + 1] / "manifest.json").read_text()


def test_what_can_run_code_needs_trust_on_the_command_line(workplace):
    command = [sys.executable, "-m", "deploykit", "export", "exported:net.pt2", "-o", "untrusted", "--quiet"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith("error[UNTRUSTED_CODE]: exported:net.pt2:")
    assert done.stderr.count("\n") == 1
