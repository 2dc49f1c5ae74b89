"""docs/onnx-source.md, followed with a file that somebody else exported."""

from pathlib import Path

import pytest
import torch

from tests.examples.walking import blocks, walk

PAGE = (Path(__file__).parents[1] / "docs" / "onnx-source.md").read_text(encoding="utf-8")


class Pooled(torch.nn.Module):
    """Scores for a picture of any size: what lies in the file has three free dims."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.scores = torch.nn.Linear(8, 5)

    def forward(self, image):
        return self.scores(self.seen(image).relu().mean((2, 3)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_does_what_it_says(tmp_path):
    torch.manual_seed(0)
    size = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        Pooled().eval(), (torch.rand(2, 3, 64, 96),), tmp_path / "model.onnx", dynamo=True, verbose=False,
        input_names=["image"], output_names=["scores"], dynamic_shapes={"image": {0: size, 2: size, 3: size}},
    )  # fmt: skip
    # the second export of the page goes where the first one went
    page = PAGE.replace("64..512/32]'\n", "64..512/32]' -o ranges\n").replace("224,224]'\n", "224,224]' -o fixed\n")
    # an untrained network has too little to say for eight bits, which is what the gate says
    page = page.replace("--quick ", "--quick --variants onnx ")
    assert len([block for block in blocks(page) if block.kind == "bash"]) == 2
    walk(page, tmp_path)
    made = {path.parent.name for path in tmp_path.rglob("manifest.json")}
    assert made == {"model", "ranges", "fixed"}
    assert (tmp_path / "handoff/triton").is_dir()
