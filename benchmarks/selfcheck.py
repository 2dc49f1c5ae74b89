"""Can the gate fail? A dozen mutants of every variant of three models, each put through the whole gate.

    python benchmarks/selfcheck.py [MODEL ...]

Bundles are made once in FOLDER (the environment variable DEPLOYKIT_BENCH, a temporary folder otherwise). A process per
model; models that are in the results already are left out unless they are named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deploykit.bundle import Bundle, VariantRecord
from deploykit.environment import fingerprint
from deploykit.isolation import Limits, Pool
from deploykit.pipeline import quantized
from deploykit.pipeline.judging import Answers, Gate
from deploykit.pipeline.selfcheck import self_check
from deploykit.results import Check, to_data

RESULTS = Path(__file__).parent / "results" / "selfcheck.json"
SECONDS = 45.0
"""For one variant: enough for the whole dozen, which a fifth of verify's time seldom is."""

TRANSFORMER = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(16, 64), nn.LayerNorm(64), nn.Linear(64, 10)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(64, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(3)
        )

    def forward(self, x):
        hidden = self.embed(x)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden).mean(1))


def build():
    torch.manual_seed(0)
    return Net().eval(), torch.randn(4, 12, 16)
"""

SOURCES = {
    "mlp": ("mlp", ()),
    "resnet18": ("torchvision:resnet18", ("--input", "image:float32[N,3,64,64]")),
    "transformer": ("python:{folder}/transformer.py:build", ()),
}


def bundle_of(model: str, folder: Path) -> Path:
    """The bundle of a model, made when it is not there."""
    path = folder / model
    if not path.is_dir():
        (folder / "transformer.py").write_text(TRANSFORMER)
        source, more = SOURCES[model]
        argv = [sys.executable, "-m", "deploykit", "export", source.format(folder=folder), "-o", str(path), *more]
        subprocess.run(argv, check=False)  # one variant that cannot be made leaves the others to be tried
    return path


def one(gate: Gate, record: VariantRecord, pool: Pool) -> dict[str, Any]:
    """What became of a variant's mutants, and how long the gate itself took."""
    artifact = gate.bundle.path / str(record.file)

    def examine(mutant: Path, given: Answers) -> list[Check]:
        return quantized.examine(gate, record, mutant, pool, given)

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        answers = gate.answers(record, artifact, pool, Path(folder))
        gate.judged(record, answers)
        took = time.perf_counter() - started
        found = self_check(gate, record, artifact, pool, answers, examine=examine, seconds=SECONDS)
    print(
        f"{record.name}: {found.verdict}, {found.seen}/{found.tried} seen, {found.killed}/{found.killable} killed",
        flush=True,
    )
    return {"verify_s": took, **to_data(found)}


def measure(bundle: Path) -> list[dict[str, Any]]:
    """Every variant of one bundle that was made."""
    gate = Gate(Bundle(bundle))
    with Pool(Limits.for_model(1 << 28)) as pool:
        return [one(gate, record, pool) for record in gate.bundle.manifest.variants if record.file is not None]


def main(arguments: list[str]) -> None:
    """Every model that has no result yet, or those named; prints and stores after each."""
    if arguments[:1] == ["--one"]:
        Path(arguments[2]).write_text(json.dumps(measure(Path(arguments[1]))))
        return
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"models": {}}
    folder = Path(os.environ.get("DEPLOYKIT_BENCH") or tempfile.mkdtemp(prefix="selfcheck-"))
    for model in arguments or [name for name in SOURCES if name not in stored["models"]]:
        answer = folder / f"{model}.json"
        print(f"== {model}", flush=True)
        subprocess.run([sys.executable, __file__, "--one", str(bundle_of(model, folder)), str(answer)], check=True)
        stored["models"][model] = json.loads(answer.read_text())
        stored["environment"] = fingerprint()
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    rows = [row for model in stored["models"].values() for row in model]
    killed, killable = (sum(row[key] for row in rows) for key in ("killed", "killable"))
    print(f"{killed} of {killable} killable mutants caught in {len(rows)} variants")


if __name__ == "__main__":
    main(sys.argv[1:])
