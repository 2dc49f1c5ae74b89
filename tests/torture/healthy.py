"""Sound models of every kind: they pass, whatever their scale, or the gate cries wolf."""

from __future__ import annotations

import torch
from fixtures.informative import informative
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torture.known import PASS, Known, Made, of, warns


class Classifier(nn.Module):
    """64-48-10 with log-softmax: the seed model in small."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(64, 48), nn.Linear(48, 10)

    def forward(self, image):
        return torch.log_softmax(self.output(torch.relu(self.hidden(image))), dim=-1)


def classifier() -> Made:
    """Ten clusters, the head fitted to them by least squares; 640 labelled samples."""
    module = Classifier().eval()
    labels = torch.arange(640) % 10
    image = 1.5 * torch.randn(10, 64)[labels] + 0.5 * torch.randn(640, 64)
    with torch.no_grad():
        features = torch.cat([torch.relu(module.hidden(image)), torch.ones(640, 1)], dim=1)
        fitted = torch.linalg.lstsq(features, 8.0 * F.one_hot(labels, 10).float()).solution
        module.output.weight.copy_(fitted[:-1].T)
        module.output.bias.copy_(fitted[-1])
    return Made(module, image[:2], samples={"image": image.numpy(), "labels": labels.numpy()})


class Residual(nn.Module):
    """Convolutions, batch-norms, a shortcut, global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, groups=8), nn.BatchNorm2d(16), nn.SiLU())
        self.head = nn.Linear(16, 5)

    def forward(self, image):
        x = self.stem(image)
        x = self.down(F.max_pool2d(x + self.branch(x), 2))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def residual() -> Made:
    module = informative(Residual(), (torch.randn(32, 3, 16, 16),))
    return Made(module, torch.randn(2, 3, 16, 16))


class Encoder(nn.Module):
    """A transformer layer in both forms, position embedding, dynamic length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu", norm_first=True)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 7)

    def forward(self, tokens):
        where = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embed(tokens) + torch.sin(where[:, None] / 10.0)
        return self.head(self.norm(self.layer(x)))


def encoder() -> Made:
    return Made(Encoder().eval(), described=("tokens:int64[N,T]",))


class Decoder(nn.Module):
    """Upsampling of every kind, instance and group norm, pixel shuffle, transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.Conv2d(8, 12, 1)
        self.group, self.instance = nn.GroupNorm(2, 8), nn.InstanceNorm2d(3, affine=True)

    def forward(self, x):
        x = F.gelu(self.group(self.first(x)), approximate="tanh")
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.instance(F.pixel_shuffle(self.second(x), 2))
        return F.interpolate(x, size=(21, 19), mode="nearest")


def decoder() -> Made:
    return Made(Decoder().eval(), torch.randn(2, 4, 5, 6))


class Scaled(nn.Module):
    """A perceptron whose answer is `offset + scale * …`."""

    def __init__(self, scale: float, offset: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 4))
        self.scale, self.offset = scale, offset

    def forward(self, x):
        return self.net(x) * self.scale + self.offset


def scaled(scale: float, offset: float = 0.0):
    return lambda: Made(Scaled(scale, offset).eval(), torch.randn(2, 12))


class Cancelling(nn.Module):
    """Large terms that nearly cancel: eager itself keeps four digits, and no fixed tolerance fits that."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(32, 16)

    def forward(self, x):
        big = self.left(x) * 1e4
        return (big + torch.sin(x[:, :16])) - big


class Recurrent(nn.Module):
    """LSTM or GRU, bidirectional, dynamic batch and length."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1) -> None:
        super().__init__()
        self.cell = kind(6, 10, num_layers=layers, batch_first=True, bidirectional=True)
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        states, _ = self.cell(x)
        return self.head(states), states[:, -1]


def recurrent(kind: type[nn.RNNBase], layers: int = 1, length: str = "T"):
    return lambda: Made(Recurrent(kind, layers).eval(), described=(f"x:float32[N,{length},6]",))


class Attention(nn.Module):
    """Scaled dot-product attention that is causal, and one written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        b = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / 8**0.5, -1) @ v
        return self.out((a + b).transpose(1, 2).flatten(2))


class Causal(nn.Module):
    """Dilated one-dimensional convolutions over a dynamic length."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 3, dilation=2**i) for i in range(3))

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = x + torch.tanh(layer(F.pad(x, (2 * 2**i, 0))))
        return x


class OverBatch(nn.Module):
    """Centred over its batch: what a sample gets depends on the others, and rightly so."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 4)

    def forward(self, x):
        return self.net(x - x.mean(dim=0, keepdim=True))


class Bilinear(nn.Module):
    """Two inputs of different dtypes, an index and a weighted lookup."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.mix = nn.Bilinear(6, 5, 4)

    def forward(self, item, features):
        return self.mix(self.table(item), features)


def bilinear() -> Made:
    return Made(Bilinear().eval(), (torch.tensor([0, 10]), torch.randn(2, 5)))


def simple(module: type[nn.Module], *shape: int, described: tuple[str, ...] = ()):
    def build() -> Made:
        return Made(module().eval(), None if described else torch.randn(*shape), described=described)

    return build


ALL = ("torchscript", "torch-export", "onnx", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static")

KNOWN = (
    Known("T01-classifier", classifier),
    Known("T01-classifier-all-variants", classifier, dict.fromkeys(ALL, PASS), slow=True),
    Known("H-residual", residual, {"onnx": PASS, "onnx-fp16": PASS, "onnx-int8-static": PASS}),
    Known("H-encoder", encoder, {"onnx": PASS, "onnx-int8-dynamic": PASS}),
    Known("H-decoder", decoder),
    Known("H-large-outputs", scaled(1e7), {"onnx": PASS}),
    Known("H-small-outputs", scaled(1e-9), {"onnx": PASS}),
    Known("H-large-offset", scaled(1e-2, 1e3), {"onnx": PASS}),
    Known("H-cancelling", simple(Cancelling, 2, 32)),
    # torch.export takes the length of recurrent layers for a number: the exporter has to get round that
    Known("T43-lstm", recurrent(nn.LSTM)),
    Known("T43-gru-two-layers", recurrent(nn.GRU, 2), {"onnx": PASS, "torchscript": PASS}, slow=True),
    Known("T43-lstm-of-fixed-length", recurrent(nn.LSTM, length="7")),
    Known("H-attention", simple(Attention, described=("x:float32[N,T,16]",))),
    Known("H-causal-convolution", simple(Causal, described=("x:float32[N,4,T]",))),
    Known("H-over-batch", simple(OverBatch, 2, 8)),
    Known("H-two-dtypes", bilinear),
    Known("H-image-to-size", of(lambda x: F.interpolate(x, size=(9, 7), mode="bicubic", align_corners=True), 2, 6, 5)),
    Known(
        "H-grid", of(lambda x: F.grid_sample(x, x.new_zeros(x.shape[0], 4, 4, 2) + 0.3, align_corners=False), 1, 6, 6)
    ),
    Known("H-similarity", of(lambda x: F.cosine_similarity(x, x.flip(-1), dim=-1), 8), {"onnx": warns("NAN_PATTERN")}),
)
