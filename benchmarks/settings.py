"""What the best variant and setting gain: per model and goal, against eager, torch.compile and onnxruntime's defaults.

    python benchmarks/settings.py [MODEL…] [--seconds 180] [--report]

Models: mlp, resnet18, transformer. Each bundle is exported, `deploykit bench --tune` looks for settings per goal, and
then everything is measured once more in one interleaved run: eager, eager under torch.compile, `onnx` as onnxruntime
opens it, and every variant under its tuned settings. Two limits stand beside each variant, on as many threads as it was
measured with: the bytes of its own artifact over the speed at which this machine reads that many, and the operations
over a large product of float32 matrices (no limit for other precisions); and the floor, an empty graph with the same
inputs through the same call. Results go to results/settings.json, model by model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import selfcheck
from threadpoolctl import threadpool_limits

from deploykit.benchmark import summary
from deploykit.benchmark.measure import measure
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.bundle import Bundle
from deploykit.environment import fingerprint, usable_cores
from deploykit.measurements import EAGER
from deploykit.pipeline.measuring import BenchRequest, Field, prepared
from deploykit.progress import Silent
from deploykit.results import to_data
from deploykit.session import CPU, SessionSettings
from deploykit.tuned import opened, tuned_for

RESULTS = Path(__file__).parent / "results" / "settings.json"
GOALS = ("latency", "throughput", "memory")
BASE = "onnx@default"
LAUNCHES = 10


def tuned(bundle: Path, seconds: int) -> dict[str, Any]:
    """What `--tune` found, by goal; written into the bundle as well."""
    found = {}
    for goal in GOALS:
        argv = [sys.executable, "-m", "deploykit", "bench", str(bundle), "--tune", goal, "--seconds", str(seconds)]
        done = subprocess.run([*argv, "--json", "-", "--quiet"], capture_output=True, text=True, check=False)
        found[goal] = json.loads(done.stdout)["tuned"]
    return found


def subjects(field: Field, goal: str) -> list[Subject]:
    """Base lines, and every variant that passed under its settings for `goal`."""
    cores = usable_cores()
    lines = [field.subjects.eager(), field.subjects.eager("torch-compile")]
    passed = field.subjects.passed(field.verdicts)
    default = next(record for record in passed if record.name == "onnx")
    plain = SessionSettings(CPU)
    found = [one for one in lines if one is not None]
    found.append(field.subjects.subject(default, plain, BASE))
    for record in passed:
        settings = opened(tuned_for(record.tuned, CPU, goal), plain, cores)  # type: ignore[arg-type]
        found.append(field.subjects.subject(record, replace(settings, threads=settings.threads or cores)))
    return found


def compared(bundle: Path, goal: str, batch: int) -> dict[str, Any]:
    """Rows of one interleaved run at one batch, with ratios to the base lines, and the floor."""
    with prepared(BenchRequest(bundle, batches=(batch,), trust_code=True), Silent()) as field:
        everyone = subjects(field, goal)
        empty = replace(
            next(one for one in everyone if one.name == BASE),
            name="empty graph",
            artifact=empty_graph(field.bundle, field.folder),
            check_case=None,
            variant="",
        )
        everyone.append(empty)
        protocol = Protocol(launches=LAUNCHES)
        measured = measure(everyone, protocol, field.open_worker, Silent(), field.subjects.judge)
        rows = summary.rows(everyone, measured)
        bases = [name for name in (EAGER, "torch-compile", BASE) if measured.of(name, batch)]
        ratios = {
            one.name: {base: to_data(summary.compare(measured, base, one.name, batch)) for base in bases}
            for one in everyone
        }
        settings = {one.name: one.settings.words for one in everyone}
    return {"batch": batch, "rows": to_data(rows), "ratios": ratios, "settings": settings}


def empty_graph(bundle: Bundle, folder: Path) -> Path:
    """The model's inputs, and of the first one the identity: what a call costs that computes nothing."""
    import onnx
    from onnx import TensorProto, helper

    specs = bundle.manifest.signature.inputs
    given = [
        helper.make_tensor_value_info(
            spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.shape)
        )
        for spec in specs
    ]
    answer = helper.make_tensor_value_info("nothing", TensorProto.INT64, [len(specs[0].shape)])
    node = helper.make_node("Shape", [specs[0].name], ["nothing"])
    graph = helper.make_graph([node], "empty", given, [answer])
    path = folder / "empty.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def limits(bundle: Path, table: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By row of the bundle's variants, what its call cannot undercut: see the module."""
    made = Bundle(bundle)
    names = {record.name for record in made.manifest.variants}
    operations = operations_of(bundle, table["batch"])
    return {
        row["name"]: limit(made.bytes_of(variant), operations, row["threads"])
        for row in table["rows"]
        if (variant := row["name"].partition("@")[0]) in names and row["threads"]
    }


def limit(weights: int, operations: int, threads: int) -> dict[str, float]:
    """Reading so many bytes once, and multiplying, on so many threads of numpy's BLAS."""
    with threadpool_limits(threads):
        return _limit(weights, operations) | {"threads": threads}


def _limit(weights: int, operations: int) -> dict[str, float]:
    left, right = (np.ones(max(weights // 8, 1024), np.float32) for _ in range(2))
    read = best(lambda: np.dot(left, right))
    side = 1024
    square = np.ones((side, side), np.float32)
    product = best(lambda: square @ square)
    return {
        "weights_bytes": weights,
        "operations": operations,
        "bytes_per_s": (left.nbytes + right.nbytes) / read,
        "operations_per_s": 2 * side**3 / product,
        "read_us": 1e6 * weights / ((left.nbytes + right.nbytes) / read),
        "compute_us": 1e6 * operations * product / (2 * side**3),
    }


def best(call: Callable[[], object]) -> float:
    """The fastest of many calls, in seconds."""
    found = []
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return min(found)


def operations_of(bundle: Path, batch: int) -> int:
    """Floating-point operations of one call of eager, as torch counts them (a multiply-add is two)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from deploykit import registry

    made = Bundle(bundle)
    spec = made.manifest.source.spec
    module = registry.load("sources", spec.kind)().load(replace(spec, checkpoint=None)).module
    case = made.case(made.manifest.reference.cases[0])
    rows = [torch.from_numpy(np.resize(array, (batch, *array.shape[1:]))) for array in case.inputs.values()]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(*rows)
    return int(counter.get_total_flops())


def report(stored: dict[str, Any]) -> None:
    """A line per model, goal and subject."""
    for model, found in stored.get("models", {}).items():
        for goal, table in found["compared"].items():
            print(f"\n{model}, {goal}, batch {table['batch']}")
            for row in table["rows"]:
                ratios = table["ratios"][row["name"]]
                said = ", ".join(f"{base} × {one['ratio']:.3f}" for base, one in ratios.items() if one["ratio"])
                memory = (row["peak_rss_bytes"] or 0) / 2**20
                median = (row["median_ns"] or 0) / 1e3
                words = table["settings"][row["name"]]
                if bound := found["limits"][goal].get(row["name"]):
                    read, compute = bound["read_us"], bound["compute_us"]
                    words += f"  (at {bound['threads']} threads: weights {read:.1f} µs, operations {compute:.1f} µs)"
                print(f"  {row['name']:20} {median:10.1f} µs {memory:6.0f} MiB  {said}  {words}")


def one_model(model: str, folder: Path, seconds: int) -> dict[str, Any]:
    """Export, tune, compare."""
    bundle = selfcheck.bundle_of(model, folder)
    found = tuned(bundle, seconds)
    batches = [entry["batch"] for entry in found["throughput"] if entry["variant"] == "onnx"]
    at = {"latency": 1, "throughput": batches[0] if batches else 1, "memory": 1}
    tables = {goal: compared(bundle, goal, batch) for goal, batch in at.items()}
    return {
        "tuned": found,
        "compared": tables,
        "limits": {goal: limits(bundle, table) for goal, table in tables.items()},
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[])
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    stored: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"models": {}}
    folder = Path(os.environ.get("DEPLOYKIT_BENCH") or tempfile.mkdtemp(prefix="settings-"))
    wanted = given.models or [name for name in selfcheck.SOURCES if name not in stored["models"]]
    for model in [] if given.report else wanted:
        print(f"== {model}", flush=True)
        stored["models"][model] = one_model(model, folder, given.seconds)
        stored["environment"] = fingerprint()
        RESULTS.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    report(stored)


if __name__ == "__main__":
    main()
