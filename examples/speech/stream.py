"""A recording in chunks of any even length through the exported file: the same answer as eager's for the whole."""

import numpy as np
import onnxruntime
import torch
from model import BANDS, build, silence

model, _ = build()
recording = torch.randn(1, 300, BANDS, generator=torch.Generator().manual_seed(1))
session = onnxruntime.InferenceSession("artifacts/speech/variants/onnx/model.onnx")

before, hidden = (tensor.numpy() for tensor in silence(1))
parts = []
for chunk in recording.split((50, 50, 20, 100, 80), dim=1):
    feeds = {"frames": chunk.numpy(), "before": before, "hidden": hidden}
    scores, before, hidden = session.run(["log_probs", "next_before", "next_hidden"], feeds)
    parts.append(scores)

with torch.no_grad():
    whole = model(recording, *silence(1))["log_probs"].numpy()
streamed = np.concatenate(parts, axis=1)
print(f"{len(parts)} chunks, {streamed.shape[1]} steps, largest difference {np.abs(streamed - whole).max():.0e}")
assert np.allclose(streamed, whole, atol=1e-5)
