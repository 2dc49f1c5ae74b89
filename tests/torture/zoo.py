"""Networks from the libraries that people really export, with random weights made informative. Most are slow."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from fixtures.informative import informative
from torch import nn
from torture.healthy import ALL
from torture.known import PASS, Known, Made, fails, unmade, warns

LOUD = 60.0
"""How much larger the loud channels of a trained vision transformer are than the others, about."""


class One(nn.Module):
    """A network of one image as a module whose input has a name, and whose output is one tensor."""

    def __init__(self, net: nn.Module, key: str = "") -> None:
        super().__init__()
        self.net, self.key = net, key

    def forward(self, image):
        found = self.net(image)
        return found[self.key] if self.key else found


def images(net: nn.Module, *size: int, key: str = "") -> Made:
    module = informative(One(net, key), (torch.randn(8, 3, *size),))
    return Made(module, torch.randn(2, 3, *size))


def resnet18() -> Made:
    from torchvision.models import resnet18 as build

    return images(build(weights=None), 64, 64)


def mobilenet() -> Made:
    from torchvision.models import mobilenet_v3_small as build

    return images(build(weights=None), 64, 64)


def deeplab() -> Made:
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large as build

    return images(build(weights=None, weights_backbone=None), 65, 97, key="out")


class Detector(nn.Module):
    """Boxes, scores and labels of each image, as many as there are."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image):
        return self.net(list(image))


def ssdlite() -> Made:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large as build

    return Made(Detector(build(weights=None, weights_backbone=None)).eval(), described=("image:float32[1,3,320,320]",))


def vit() -> Made:
    """With two loud channels behind each norm, as training leaves them, and their weights made quiet: the function
    is the same, and one scale for a whole activation no longer fits.
    """
    import timm

    net = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=20, img_size=32)
    with torch.no_grad():
        for block in net.blocks:
            for norm, reader in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                norm.weight[:2] *= LOUD
                norm.bias[:2] *= LOUD
                reader.weight[:, :2] /= LOUD
    return images(net, 32, 32)


def convnext() -> Made:
    import timm

    return images(timm.create_model("convnext_atto", pretrained=False, num_classes=20), 64, 64)


class Encoder(nn.Module):
    """A transformer from the library, called with tokens and the mask of its padding."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens, mask):
        found = self.net(input_ids=tokens, attention_mask=mask)
        return found.logits


def _padded(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of 60 kinds, right-padded to `length`; every row has at least one valid position."""
    tokens, lengths = torch.randint(1, 60, (rows, length)), 1 + torch.arange(rows) % length
    mask = (torch.arange(length)[None, :] < lengths[:, None]).long()
    return tokens * mask, mask


def bert() -> Made:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=5
    )
    tokens, mask = _padded(40, 9)
    module = informative(Encoder(BertForSequenceClassification(sizes)), (tokens, mask))
    samples = {"tokens": tokens.numpy(), "mask": mask.numpy()}
    return Made(module, described=("tokens:int64[N,T]", "mask:int64[N,T]"), samples=samples)


def gpt2() -> Made:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = GPT2Config(vocab_size=60, n_positions=64, n_embd=32, n_layer=2, n_head=4, use_cache=False)
    tokens, mask = _padded(40, 9)
    module = Encoder(GPT2LMHeadModel(sizes)).eval()
    samples = {"tokens": tokens.numpy(), "mask": mask.numpy()}
    return Made(module, described=("tokens:int64[N,T]", "mask:int64[N,T]"), samples=samples)


def _listed(package: str, *rows: Known) -> tuple[Known, ...]:
    """The rows when `package` is installed: the extra `zoo` brings it."""
    return rows if find_spec(package) else ()


VISION = (
    Known("T02-resnet18", resnet18, dict.fromkeys(ALL, PASS), slow=True),
    Known("T03-mobilenet-v3-small", mobilenet, slow=True),
    Known("T07-deeplab-odd-sizes", deeplab, slow=True),
    Known(
        "T08-ssdlite",
        ssdlite,
        {"onnx": unmade("EXPORT_ERROR", says=r"\.py")},
        slow=True,
    ),
)
TIMM = (
    Known(
        "T04-vit-tiny",
        vit,
        {"onnx": PASS, "onnx-int8-static": fails("SQNR_LOW")},
        slow=True,
    ),
    Known("T06-convnext-atto", convnext, slow=True),
)
TRANSFORMERS = (
    Known("T09-bert-with-padding", bert, {"onnx": warns("MASKED_ROW_SEMANTICS")}),
    Known("T11-gpt2-right-padded", gpt2, {"onnx": warns("MASKED_ROW_SEMANTICS")}),
)
KNOWN = (*VISION, *_listed("timm", *TIMM), *_listed("transformers", *TRANSFORMERS))
