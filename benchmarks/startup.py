"""What a command costs before it does anything: `--help`, and `verify` of an ONNX variant, next to a bare interpreter.

    python benchmarks/startup.py [BUNDLE]

Whole processes, interleaved, medians; the ratio to `python -c pass` is what carries over to another machine. Also
checks, in the same processes, that the parent imports neither torch nor onnx nor onnxruntime, and that verifying an
ONNX variant imports torch nowhere.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploykit.environment import fingerprint

RUNS = 11
SPY = """
import os, sys

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name in {"torch", "onnx", "onnxruntime"}:
            who = "child" if "deploykit.child" in sys.orig_argv else "parent"
            with open(os.environ["DEPLOYKIT_SPY"], "a") as stream:
                stream.write(f"{who} {name}\\n")

if os.environ.get("DEPLOYKIT_SPY"):
    sys.meta_path.insert(0, Spy())
"""


def once(argv: list[str], environment: dict[str, str] | None = None) -> float:
    """Wall seconds of one process."""
    started = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, **(environment or {})})
    return time.perf_counter() - started


def imports(argv: list[str]) -> list[str]:
    """`parent torch`, `child onnxruntime`, …: every heavy package that some process began to import."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(SPY)
        log = Path(folder) / "log"
        log.touch()
        once(argv, {"PYTHONPATH": folder, "DEPLOYKIT_SPY": str(log)})
        return sorted(set(log.read_text().splitlines()))


def main() -> None:
    """Print the table as text and JSON."""
    bundle = sys.argv[1] if len(sys.argv) > 1 else "artifacts/mlp"
    deploykit = [sys.executable, "-m", "deploykit"]
    contenders = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import click": [sys.executable, "-c", "import click"],
        "deploykit --help": [*deploykit, "--help"],
        "deploykit verify --help": [*deploykit, "verify", "--help"],
        "deploykit verify --variants onnx": [*deploykit, "verify", bundle, "--variants", "onnx", "--quiet"],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for argv in contenders.values():
        once(argv)
    for _ in range(RUNS):
        for name, argv in contenders.items():
            seconds[name].append(once(argv))
    base = statistics.median(seconds["python -c pass"])
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(
            f"{name:34} {middle:7.3f} s  [{min(values):.3f}, {max(values):.3f}]  {middle / base:6.1f} x python -c pass"
        )
    for name in ("deploykit --help", "deploykit verify --variants onnx"):
        print(f"imported by {name}: {', '.join(imports(contenders[name])) or 'none of torch, onnx, onnxruntime'}")
    print(json.dumps({"seconds": seconds, "environment": fingerprint()}))


if __name__ == "__main__":
    main()
