"""A training script as people have them: a checkpoint per epoch, and at the end the whole object."""

from pathlib import Path

import torch
from model import FEATURES, STATES, build
from torch import nn

torch.manual_seed(0)
model = build()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
centers = torch.randn(STATES, FEATURES)
Path("runs").mkdir(exist_ok=True)
for epoch in range(1, 4):
    for _ in range(60):
        states = torch.randint(STATES, (64,))
        loss = nn.functional.cross_entropy(model(centers[states] + 0.4 * torch.randn(64, FEATURES)), states)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss:.3f}")
    stored = {
        "epoch": epoch,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "loss": loss.item(),
    }
    torch.save(stored, f"runs/epoch-{epoch}.pt")
torch.save(model, "runs/final.pt")  # the whole object: a pickle that names the class, which whoever opens it has to run
