"""Where the time of the main job goes: `deploykit run mlp --quick`, training included, whole processes.

    python benchmarks/main_job.py [RUNS]

Prints the wall time of each run, the seconds of each stage, and the largest resident set of any one process.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deploykit.environment import fingerprint


def once(folder: Path) -> dict[str, Any]:
    """One run into a fresh directory: wall seconds, and what the run says of itself."""
    argv = [
        sys.executable,
        "-m",
        "deploykit",
        "run",
        "mlp",
        "--quick",
        "--quiet",
        "--json",
        "-",
        "-o",
        str(folder / "mlp"),
    ]
    started = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr)
    report = json.loads(done.stdout)
    stages = {"training": report["training"]["seconds"], **report["seconds"]}
    stages["export"] -= stages["training"]
    return {"wall": wall, **stages, "accuracy": report["training"]["test_accuracy"], "exit_code": report["exit_code"]}


def main() -> None:
    """Print the table as text and JSON."""
    runs = []
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(once(Path(folder)))
            print(", ".join(f"{name} {value:.4g}" for name, value in runs[-1].items()), flush=True)
    for name in ("wall", "training", "export", "verify", "bench"):
        values = [run[name] for run in runs]
        print(f"{name:10} median {statistics.median(values):6.1f} s  [{min(values):.1f}, {max(values):.1f}]")
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"largest process of a run: {largest:.0f} MiB resident")
    print(json.dumps({"runs": runs, "environment": fingerprint()}))


if __name__ == "__main__":
    main()
