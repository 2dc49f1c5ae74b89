"""What verifying costs: wall time and memory of whole `deploykit` processes, parent and children.

    python benchmarks/verify_cost.py [MEASUREMENT …] [--runs 3] [--write]
    python benchmarks/verify_cost.py --list

Without names all but `large` run, which needs 12 GiB of free memory and 10 GB of disk. Figures go to
results/verify_cost.json with `--write`, each measurement replacing its own earlier figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from deploykit.environment import fingerprint

if TYPE_CHECKING:
    from torch import nn

RESULTS = Path(__file__).parent / "results" / "verify_cost.json"
POLL_SECONDS = 0.02
WIDTH, DEPTH = 8192, 9
"""The large model: nine square layers of 8192, 2.4 GB in fp32, over the 2 GB that one protobuf file holds."""


@dataclass
class Peaks:
    """The memory of a process and all below it, watched from a thread.

    `VmHWM` of each process is exact and read again and again; the sum over the tree is sampled, and counts pages that
    processes share (the libraries' code) once for each.

    Attributes:
        parent, child: largest VmHWM of the process itself, and of any one below it, bytes.
        tree: largest sum of resident sets, bytes.
        children: how many different processes were seen below it.
    """

    pid: int
    parent: int = 0
    child: int = 0
    tree: int = 0
    seen: set[int] = field(default_factory=set)

    def watch(self, stop: threading.Event) -> None:
        """Sample until told to stop."""
        while not stop.wait(POLL_SECONDS):
            total = 0
            for process in self._processes():
                resident, most = _memory(process.pid)
                total += resident
                if process.pid == self.pid:
                    self.parent = max(self.parent, most)
                else:
                    self.seen.add(process.pid)
                    self.child = max(self.child, most)
            self.tree = max(self.tree, total)

    def _processes(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.Error:
            return []


def _memory(pid: int) -> tuple[int, int]:
    """VmRSS and VmHWM in bytes; zeros for a process that has just ended."""
    found = {"VmRSS": 0, "VmHWM": 0}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) * 1024
    return found["VmRSS"], found["VmHWM"]


@dataclass(frozen=True)
class Run:
    """One command: how it ended and what it took."""

    seconds: float
    exit_code: int
    parent_bytes: int
    child_bytes: int
    tree_bytes: int
    children: int
    said: str = ""


def deploykit(*arguments: str) -> Run:
    """One `deploykit` command, watched."""
    argv = [sys.executable, "-m", "deploykit", *arguments, "--quiet"]
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=errors)
        peaks, stop = Peaks(process.pid), threading.Event()
        watcher = threading.Thread(target=peaks.watch, args=(stop,))
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - started
        stop.set()
        watcher.join()
        errors.seek(0)
        said = errors.read().strip().splitlines()
    return Run(seconds, code, peaks.parent, peaks.child, peaks.tree, len(peaks.seen), said[-1] if said else "")


@dataclass(frozen=True)
class Measurement:
    """One row of the table.

    Attributes:
        prepare: makes what is verified, below a folder; the arguments of the measured command and the model's bytes.
        expected: exit codes of the measured command; another one makes the figures worthless. Int8 of random weights
            may rightly fail: its cost is the same.
    """

    name: str
    what: str
    prepare: Callable[[Path], tuple[list[str], int]]
    expected: tuple[int, ...] = (0,)
    runs: int | None = None


def bundle(folder: Path, name: str, *arguments: str) -> Path:
    """Export into `folder` unless it is there.

    Raises:
        SystemExit: the export failed.
    """
    target = folder / name
    if not target.is_dir():
        print(f"exporting {name}", file=sys.stderr, flush=True)
        done = deploykit("export", *arguments, "-o", str(target))
        if done.exit_code:
            sys.exit(f"export of {name} ended with {done.exit_code}: {done.said}")
        print(f"export of {name}: {_row(done, 0)}", file=sys.stderr, flush=True)
    return target


def size_of(path: Path) -> int:
    """Bytes of a file and what lies beside it (external data)."""
    return sum(file.stat().st_size for file in path.parent.iterdir())


def seed(folder: Path) -> tuple[list[str], int]:
    """The seed model's six variants."""
    made = bundle(folder, "mlp", "mlp")
    return ["verify", str(made)], size_of(made / "variants" / "onnx" / "model.onnx")


def _resnet(folder: Path) -> Path:
    return bundle(folder, "resnet18", "torchvision:resnet18", "--variants", "onnx,onnx-int8-dynamic,onnx-int8-static")


def resnet(*variants: str) -> Callable[[Path], tuple[list[str], int]]:
    """Some variants of ResNet-18 at 224 pixels."""

    def prepare(folder: Path) -> tuple[list[str], int]:
        made = _resnet(folder)
        named = ",".join(variants)
        return ["verify", str(made), "--variants", named], size_of(made / "variants" / variants[0] / "model.onnx")

    return prepare


def broken(folder: Path) -> tuple[list[str], int]:
    """ResNet-18 with one filter bank a hundredth too large, in the middle of the network."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    made = _resnet(folder)
    source, target = made / "variants" / "onnx" / "model.onnx", folder / "resnet18-broken" / "model.onnx"
    if not target.is_file():
        model = onnx.load(source)
        tensor = next(t for t in model.graph.initializer if "layer2.1.conv1" in t.name and len(t.dims) == 4)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
        target.parent.mkdir()
        onnx.save(model, target)
    return ["verify", str(made), "--artifact", str(target)], size_of(target)


def large_model() -> nn.Module:
    """Square linear layers with ReLUs between them, seeded; `python:` sources call this."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layer = nn.Linear(WIDTH, WIDTH, device="meta").to_empty(device="cpu")
        with torch.no_grad():  # He's deviation; the default initialization takes as long and fades the signal
            layer.weight.normal_(0.0, (2.0 / WIDTH) ** 0.5)
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def large(folder: Path) -> tuple[list[str], int]:
    """A model over 2 GB, its weights in external data."""
    source = f"python:{Path(__file__).absolute()}:large_model"
    made = bundle(folder, "large", source, "--input", f"input:float32[N,{WIDTH}]", "--variants", "onnx")
    return ["verify", str(made)], size_of(made / "variants" / "onnx" / "model.onnx")


MEASUREMENTS = {
    m.name: m
    for m in (
        Measurement("seed", "seed MLP, six variants", seed),
        Measurement("resnet18-onnx", "ResNet-18, `onnx`", resnet("onnx")),
        Measurement("resnet18-int8-dynamic", "ResNet-18, `onnx-int8-dynamic`", resnet("onnx-int8-dynamic"), (0, 1)),
        Measurement("resnet18-int8-static", "ResNet-18, `onnx-int8-static`", resnet("onnx-int8-static"), (0, 1)),
        Measurement("resnet18-broken", "ResNet-18, one filter bank × 1.01", broken, (1,)),
        Measurement("large", "2.4 GB of linear layers, `onnx`", large, runs=1),
    )
}


def measured(measurement: Measurement, folder: Path, runs: int) -> dict[str, Any]:
    """Prepare once, run the command `runs` times.

    Raises:
        SystemExit: the command ended otherwise than expected.
    """
    arguments, model_bytes = measurement.prepare(folder)
    done = [deploykit(*arguments) for _ in range(measurement.runs or runs)]
    if wrong := [run for run in done if run.exit_code not in measurement.expected]:
        sys.exit(f"{measurement.name} ended with {wrong[0].exit_code}: {wrong[0].said}")
    return {
        "what": measurement.what,
        "command": " ".join(argument.replace(f"{folder}/", "") for argument in arguments),
        "model_bytes": model_bytes,
        "runs": [{key: value for key, value in asdict(run).items() if key != "said"} for run in done],
    }


def _row(run: Run, model_bytes: int) -> str:
    sizes = (run.parent_bytes, run.child_bytes, run.tree_bytes)
    text = ", ".join(
        f"{name} {size / 2**20:.0f} MiB" for name, size in zip(("parent", "child", "tree"), sizes, strict=True)
    )
    ratio = f", tree {run.tree_bytes / model_bytes:.1f} × model" if model_bytes else ""
    return f"{run.seconds:.1f} s, {text}{ratio}"


def table(found: dict[str, Any]) -> str:
    """Markdown, one row per measurement, ready for README.md."""
    lines = [
        "| verified | seconds, median [fastest, slowest] | parent | largest child | all processes | × model |\n",
        "| --- | --- | --- | --- | --- | --- |\n",
    ]
    for record in found.values():
        seconds = [run["seconds"] for run in record["runs"]]
        most = {key: max(run[f"{key}_bytes"] for run in record["runs"]) for key in ("parent", "child", "tree")}
        cells = (
            record["what"],
            f"{statistics.median(seconds):.1f} [{min(seconds):.1f}, {max(seconds):.1f}]",
            *(f"{most[key] / 2**20:.0f} MiB" for key in ("parent", "child", "tree")),
            f"{most['tree'] / record['model_bytes']:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def write(found: dict[str, Any]) -> None:
    """Replace these measurements in the results; others stay."""
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"measurements": {}}
    stored["measurements"].update(found)
    stored["environment"] = fingerprint()
    RESULTS.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parsed(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MEASUREMENT", help="all but `large` by default")
    parser.add_argument("--list", action="store_true", help="print the names and what they measure")
    parser.add_argument("--runs", type=int, default=3, help="runs of each command; the table shows their median")
    parser.add_argument("--write", action="store_true", help="store results/verify_cost.json")
    parser.add_argument("--keep", type=Path, help="keep bundles in this folder, and use those that are there")
    given = parser.parse_args(argv)
    given.names = given.names or [name for name in MEASUREMENTS if name != "large"]
    if unknown := [name for name in given.names if name not in MEASUREMENTS]:
        parser.error(f"no measurement {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    return given


def main() -> None:
    """Measure, print, and write on request."""
    given = parsed(sys.argv[1:])
    if given.list:
        print("\n".join(f"{m.name:22} {m.what}" for m in MEASUREMENTS.values()))
        return
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    with tempfile.TemporaryDirectory(prefix="deploykit-cost-") as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = {}
        for name in given.names:
            found[name] = measured(MEASUREMENTS[name], folder, given.runs)
            print(table({name: found[name]}).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(found))
    if given.write:
        write(found)


if __name__ == "__main__":
    main()
