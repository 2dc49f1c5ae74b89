"""A small transformer encoder for short messages: batches padded by a tokenizer, scores and an embedding out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

WORDS, WIDTH, LONGEST, CLASSES = 500, 64, 128, 5


@dataclass
class Answer:
    """What comes out.

    Attributes:
        logits: float32[N,5].
        embedding: float32[N,64], of length one.
    """

    logits: Tensor
    embedding: Tensor


class Encoder(nn.Module):
    """Two layers, learned positions, the mean over what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 128, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, encoded: dict[str, Tensor]) -> Answer:
        """Answer to `input_ids` int64[N,T] and `attention_mask` int64[N,T], which is 1 on words and 0 on padding."""
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        place, padding = torch.arange(ids.shape[1], device=ids.device), mask == 0
        # a number, not -inf: where all is padding -inf gives NaN, and 8-bit ranges span the batch
        hidden = padding.float() * -1e4
        x = self.layers(self.words(ids) + self.positions(place), src_key_padding_mask=hidden)
        # filled, not multiplied by zero: torch's fast path gives NaN there all the same
        x = self.norm(x).masked_fill(padding.unsqueeze(2), 0.0)
        mean = x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return Answer(self.head(mean), nn.functional.normalize(mean, dim=1))


def encode(texts: list[str]) -> dict[str, Tensor]:
    """Words to numbers, padded to the longest text: what a tokenizer gives."""
    rows = [torch.tensor([1 + sum(word.encode()) % (WORDS - 1) for word in text.lower().split()]) for text in texts]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def build() -> tuple[nn.Module, tuple[dict[str, Tensor]]]:
    """The network with random weights, and two messages of different lengths."""
    torch.manual_seed(0)
    return Encoder().eval(), (encode(["the parcel never came please help", "thank you it works"]),)
