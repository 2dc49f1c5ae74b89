"""How often the gate refuses a sound export: every classifier of torchvision, exported and verified.

    python benchmarks/false_alarms.py [NAME,NAME…] [--seconds 900] [--memory-gib 12] [--again]
    python benchmarks/false_alarms.py --report

Random weights made informative, the smallest image that the architecture takes, variants `onnx` and `torchscript`
through the Python API. Each model runs in a process of its own with a limit of time and memory; its result goes to
results/false_alarms.json as soon as it is known, and a model that is there already is passed over: a run can be
interrupted and started again. `--report` prints what is stored.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from deploykit.environment import fingerprint

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deploykit.results import VariantReport

RESULTS = Path(__file__).parent / "results" / "false_alarms.json"
SIZES = (32, 64, 96, 128, 224, 299)
"""Heights and widths tried, in pixels; the first one that the architecture takes is used."""

VARIANTS = ("onnx", "torchscript")
SEED = 0
POLL_SECONDS = 0.2
TOO_LARGE = "too large here"


def informative(module: nn.Module, inputs: Tensor) -> tuple[str, ...]:
    """Batch norms calibrated and the head rescaled in place, as for `torchvision:NAME`; what was done, in words.

    Args:
        module: a classifier in eval mode.
        inputs: float32[rows, 3, height, width]; only their size matters.
    """
    from deploykit.signature import TensorSpec
    from deploykit.sources._probing import make_informative

    return make_informative(module, TensorSpec("image", "float32", ("N", *inputs.shape[1:])), SEED)


def classifiers() -> list[str]:
    """The names of torchvision's classification models."""
    import torchvision

    return sorted(torchvision.models.list_models(module=torchvision.models))


def built(name: str) -> nn.Module:
    """The architecture with seeded random weights, in eval mode."""
    import torch
    from torchvision.models import get_model

    torch.manual_seed(SEED)
    # their own initialization takes a minute and seeds no better
    options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    return get_model(name, weights=None, **options).eval()


def smallest(module: nn.Module) -> Tensor:
    """A random batch of two at the first of `SIZES` that the module takes.

    Raises:
        ValueError: it takes none.
    """
    import torch

    said = ""
    for size in SIZES:
        batch = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(SEED))
        try:
            with torch.no_grad():
                module(batch)
        except (RuntimeError, AssertionError, ValueError) as error:  # each architecture refuses in its own way
            said = str(error)
            continue
        return batch
    raise ValueError(f"takes none of {SIZES}: {said}")


def judged(name: str, folder: Path) -> dict[str, Any]:
    """Export and verify one model in this process."""
    import deploykit
    from deploykit.errors import DeploykitError

    module = built(name)
    batch = smallest(module)
    record: dict[str, Any] = {"size": batch.shape[-1], "parameters": sum(p.numel() for p in module.parameters())}
    started = time.perf_counter()
    try:
        record["weights"] = informative(module, batch)
        bundle = deploykit.export(module, batch, folder / "bundle", variants=VARIANTS)
        record["export_seconds"] = round(time.perf_counter() - started, 1)
        started = time.perf_counter()
        report = deploykit.verify(bundle.path)
        record["verify_seconds"] = round(time.perf_counter() - started, 1)
    except DeploykitError as error:
        return {**record, "verdict": "refused", "code": error.code, "reason": str(error)}
    record["variants"] = {variant.name: _variant(variant) for variant in report.variants}
    return {**record, "verdict": report.verdict}


def _variant(report: VariantReport) -> dict[str, Any]:
    """Verdict, code and the tightest value against its limit: how far a sound model is from a false alarm."""
    values = [c for c in report.checks if c.metric == "R" and c.value is not None and c.headroom is not None]
    tightest = min(values, key=lambda check: check.headroom or 0.0, default=None)
    return {
        "verdict": report.verdict,
        "code": report.code,
        "reason": report.reason,
        "tightest": None if tightest is None else [tightest.id, str(tightest.value), str(tightest.limit)],
    }


def one(name: str, seconds: float, memory_bytes: int) -> dict[str, Any]:
    """The record of one model, from a process of its own that is ended when it goes over a limit."""
    with tempfile.TemporaryDirectory(prefix="deploykit-alarms-") as folder, tempfile.TemporaryFile("w+") as said:
        argv = [sys.executable, __file__, "--inside", folder, name]
        process = subprocess.Popen(argv, stdout=said, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": folder})
        over, peak = watched(process, seconds, memory_bytes)
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.startswith('{"record"')]
    if over:
        return {"verdict": TOO_LARGE, "reason": over, "peak_tree_bytes": peak}
    if not lines:
        return {"verdict": "crashed", "reason": f"the process ended with {process.returncode}", "peak_tree_bytes": peak}
    return {**json.loads(lines[-1])["record"], "peak_tree_bytes": peak}


def watched(process: subprocess.Popen[Any], seconds: float, memory_bytes: int) -> tuple[str, int]:
    """Wait for the process; which limit it went over (empty: none), and the largest resident memory of its tree."""
    started, peak = time.monotonic(), 0
    while process.poll() is None:
        tree = _tree(process.pid)
        peak = max(peak, sum(_rss(member) for member in tree))
        took = time.monotonic() - started
        over = f"over {seconds:.0f} s" if took > seconds else ""
        over = over or (f"over {memory_bytes / 2**30:.0f} GiB of memory" if peak > memory_bytes else "")
        if over:
            for member in tree:
                with contextlib.suppress(psutil.Error):
                    member.kill()
            process.wait()
            return over, peak
        time.sleep(POLL_SECONDS)
    return "", peak


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def stored() -> dict[str, Any]:
    """What earlier runs wrote; the fingerprint is that of the latest run."""
    if RESULTS.is_file():
        return dict(json.loads(RESULTS.read_text(encoding="utf-8")))
    return {"models": {}}


def keep(name: str, record: dict[str, Any]) -> None:
    """Add one record; the file is whole at every moment."""
    everything = stored()
    everything["environment"] = fingerprint()
    everything["models"][name] = record
    everything["models"] = dict(sorted(everything["models"].items()))
    fresh = RESULTS.with_suffix(".new")
    fresh.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fresh.replace(RESULTS)


def summary(models: dict[str, dict[str, Any]]) -> str:
    """How many models passed, and a line for each that did not."""
    passed = [name for name, record in models.items() if record["verdict"] == "pass"]
    lines = [f"{len(passed)} of {len(models)} models pass"]
    for name, record in models.items():
        if record["verdict"] == "pass":
            continue
        found = [f"{key} {v['verdict']} {v['code']}: {v['reason']}" for key, v in record.get("variants", {}).items()]
        alone = f"{record.get('code', '')} {record.get('reason', '')}".strip()
        lines.append(f"  {name}: {record['verdict']}: {'; '.join(found) or alone}")
    return "\n".join(lines)


def parsed(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="?", default="", help="comma-separated models; all by default")
    parser.add_argument("--seconds", type=float, default=900.0, help="wall time for one model")
    parser.add_argument("--memory-gib", type=float, default=12.0, help="resident memory for one model's processes")
    parser.add_argument("--again", action="store_true", help="also models that are in the results already")
    parser.add_argument("--report", action="store_true", help="only print what is stored")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def inside(name: str, folder: Path) -> None:
    """The far end of `one`: the record as one line on stdout."""
    try:
        record = judged(name, folder)
    except Exception as error:  # noqa: BLE001 - whatever happens to one model is its record
        where = traceback.extract_tb(error.__traceback__)[-1]
        record = {"verdict": "crashed", "reason": f"{type(error).__name__} in {where.name}: {error}"}
    record = json.loads(json.dumps(record).replace(str(folder), ""))
    print("\n" + json.dumps({"record": record}), flush=True)


def main() -> None:
    """Run what is missing, model by model, and print the summary."""
    given = parsed(sys.argv[1:])
    if given.inside is not None:
        inside(given.names, given.inside)
        return
    if not given.report:
        known = classifiers()
        names = [name for name in given.names.split(",") if name] or known
        if unknown := [name for name in names if name not in known]:
            sys.exit(f"no classifier {', '.join(unknown)} in torchvision")
        done = stored()["models"]
        for index, name in enumerate(names, 1):
            if name in done and not given.again:
                continue
            record = one(name, given.seconds, int(given.memory_gib * 2**30))
            keep(name, record)
            reason = record.get("reason", "")
            print(f"{index}/{len(names)} {name}: {record['verdict']} {reason}".rstrip(), flush=True)
    print(summary(stored()["models"]))


if __name__ == "__main__":
    main()
