"""How far the speed gate can be trusted: real gates between files of known difference, and what the clock costs.

    python benchmarks/harness.py PART… [--gates N] [--first-seed N] [--into FILE] [--report]

Parts, each of which adds to results/harness.json and can be interrupted and taken up again:

    aa          the seed model against itself: every FAIL is a false alarm
    power       a model of about 1 ms against itself with 5 % busy-wait: every PASS is a miss
    tail        one call in eight takes twice as long: the median must not fail, the 90th percentile must
    warm-up     only the first 50 ms of calls are slow: nothing may fail
    neighbour   the seed model against itself while another process loads one core: nothing may fail
    spread      how far launches of onnxruntime and torch lie apart: what the simulation in the tests assumes
    overhead    the harness's median next to a bare loop around the same call, in the same process

A gate here is what `deploykit bench --against` makes of one pair: the same launches, rule and retry, but without the
floor of 5 µs a call, under which nothing fails.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import slowed
from harness_models import ROWS, SEED, SLOW, WIDTH, feeds, network, scripted, seed_model, slow_model

from deploykit.benchmark.duel import Duel
from deploykit.benchmark.gate import Rules
from deploykit.benchmark.measure import measure
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.environment import fingerprint
from deploykit.isolation import Worker
from deploykit.progress import Silent
from deploykit.results import to_data
from deploykit.session import SessionSettings

RESULTS = Path(__file__).parent / "results" / "harness.json"
Keep = Callable[[dict[str, Any]], None]
GATES = {"aa": 100, "power": 40, "tail": 10, "warm-up": 10, "neighbour": 20}
SLOWER = 0.05
THREADS = 1
"""Two threads on two shared cores measure the neighbours."""

OVERHEAD_ROUNDS = 30


def subject(name: str, artifact: Path, inputs: Path, runtime: str = "onnxruntime") -> Subject:
    """One side of a pair."""
    return Subject(name, runtime, artifact, SessionSettings(threads=THREADS), ("x",), ("y",), {1: inputs}, 1)


def injected(name: str, model: Path, inputs: Path, **plan: int) -> Subject:
    """The model behind the slowed runtime; without a plan it only goes through the same Python."""
    path = inputs.parent / f"{name}.json"
    path.write_text(json.dumps({"artifact": str(model), **plan}))
    return subject(name, path, inputs, slowed.NAME)


@contextmanager
def installed() -> Iterator[dict[str, str]]:
    """An environment in which the slowed runtime is an installed plugin: metadata in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        info = Path(folder) / "deploykit_harness-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deploykit-harness\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[deploykit.runtimes]\n{slowed.NAME} = slowed:Runtime\n")
        paths = [folder, str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        yield {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@contextmanager
def neighbour(wanted: bool) -> Iterator[None]:
    """A process that keeps one core busy."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def call_ns(model: Path, inputs: Path) -> int:
    """Median nanoseconds of one call of the ONNX file on this machine, now."""
    from deploykit.reference import load_arrays
    from deploykit.runtimes.onnxruntime import Runtime

    session = Runtime().open(model, ("y",), SessionSettings(threads=THREADS))
    call = session.prepare({"x": load_arrays(inputs)["0/x"]})
    readings = []
    for _ in range(500):
        begin = time.perf_counter_ns()
        call()
        readings.append(time.perf_counter_ns() - begin)
    return int(statistics.median(readings[100:]))


def pair(part: str, folder: Path) -> tuple[Subject, Subject]:
    """Base and candidate of a part."""
    if part in {"aa", "neighbour"}:
        model, inputs = seed_model(folder), feeds(folder, 784)
        return subject("base", model, inputs), subject("candidate", model, inputs)
    model, inputs = slow_model(folder), feeds(folder, WIDTH, ROWS)
    typical = call_ns(model, inputs)
    plans: dict[str, dict[str, int]] = {
        "power": {"extra_ns": round(SLOWER * typical)},
        "tail": {"extra_ns": typical, "every": 8},
        "warm-up": {"first_ns": 50_000_000, "extra_first_ns": typical},
    }
    return injected("base", model, inputs), injected("candidate", model, inputs, **plans[part])


def one_gate(part: str, seed: int, environment: dict[str, str]) -> dict[str, Any]:
    """One gate of a part, as it is stored."""
    # without the floor of 5 µs, under which nothing fails: calls of the seed model are shorter than three of them
    rules = Rules(metrics=("median", "p90") if part == "tail" else ("median",), floor_ns=0.0)
    with tempfile.TemporaryDirectory() as name, neighbour(part == "neighbour"):
        sides = pair(part, Path(name))
        sides = (replace(sides[0], twin=sides[1].name), replace(sides[1], twin=sides[0].name))
        began = time.monotonic()
        duel = Duel(Protocol(seed=seed), lambda _: Worker(environment=environment), Silent(), rules)
        _, reports = duel.fought(*sides, (1,))
        report = to_data(reports[1])
    return {"seed": seed, "seconds": round(time.monotonic() - began, 1), **report}


def run_gates(part: str, count: int, stored: dict[str, Any], keep: Keep, first_seed: int = 0) -> None:
    """Make gates until the part has `count` of them; each one is stored as soon as it is there."""
    done: list[dict[str, Any]] = stored.setdefault("gates", {}).setdefault(part, [])
    with installed() as environment:
        while len(done) < count:
            done.append(one_gate(part, first_seed + len(done), environment))
            keep(stored)
            last = done[-1]
            print(f"{part} {len(done)}/{count}: {last['verdict']} in {last['seconds']} s: {last['reason']}", flush=True)


def run_spread(stored: dict[str, Any], keep: Keep) -> None:
    """Robust spread of launch medians, block medians within a launch, and calls within a block, in per cent."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs, slow_inputs = feeds(folder, 784), feeds(folder, WIDTH, ROWS)
        seed, slow = seed_model(folder), slow_model(folder)
        subjects = [
            subject("onnxruntime, seed model", seed, inputs),
            subject("onnxruntime, about 1 ms", slow, slow_inputs),
            subject("torch, seed model", scripted(folder, SEED), inputs, "torchscript"),
            subject("torch, about 1 ms", scripted(folder, SLOW), slow_inputs, "torchscript"),
        ]
        for one in subjects:
            measured = measure([one], Protocol(launches=20), lambda _: Worker(), Silent())
            launches = measured.of(one.name, 1)
            blocks = [[float(np.median(block.call_ns)) for block in launch.blocks] for launch in launches]
            found[one.name] = {
                "median_us": float(np.median([launch.median_ns for launch in launches])) / 1e3,
                "launches_percent": spread([launch.median_ns for launch in launches]),
                "blocks_percent": statistics.median(spread(row) for row in blocks),
                "calls_percent": statistics.median(spread(launch.call_ns) for launch in launches),
                "launches": len(launches),
            }
            print(one.name, found[one.name], flush=True)
    stored["spread"] = found
    keep(stored)


def spread(values: Any) -> float:
    """1.4826 × the median absolute deviation from the median, in per cent of the median (the σ of a normal law)."""
    array = np.asarray(values, np.float64)
    middle = float(np.median(array))
    return 100 * 1.4826 * float(np.median(np.abs(array - middle))) / middle


def run_overhead(stored: dict[str, Any], keep: Keep) -> None:
    """The harness's own readings and those of a bare loop around `session.run`, alternating, in this process."""
    import onnxruntime as ort

    from deploykit.reference import load_arrays
    from deploykit.steps import measure as step

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, widths in (("some 100 µs", SLOW[:3]), ("about 1 ms", SLOW)):
            model, inputs = network(folder / "model.onnx", widths), feeds(folder, WIDTH, ROWS)
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
            session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
            arrays = load_arrays(inputs)
            sets = [{"x": arrays[f"{index}/x"]} for index in range(4)]
            settings = {"threads": THREADS}
            step.open(
                runtime="onnxruntime", artifact=str(model), input_names=["x"], output_names=["y"], settings=settings,
                feeds=str(inputs),
            )  # fmt: skip
            step.warm_up(1, str(inputs), 500_000_000, 5_000_000_000)
            ratios, medians = [], []
            for round_ in range(OVERHEAD_ROUNDS):
                sides = (partial(harness_median, step), partial(bare_median, session, sets))
                answers = {index: sides[index]() for index in ((0, 1) if round_ % 2 else (1, 0))}
                ratios.append(answers[0] / answers[1])
                medians.append(answers[1])
            ratio = float(np.median(ratios))
            found[label] = {
                "bare_median_us": statistics.median(medians) / 1e3,
                "harness_over_bare": ratio,
                "rounds": OVERHEAD_ROUNDS,
                "quartiles": [float(value) for value in np.quantile(ratios, (0.25, 0.75))],
            }
            print(label, found[label], flush=True)
    stored["overhead"] = found
    keep(stored)


def harness_median(step: Any) -> float:
    """One block of the harness."""
    block = step.block(1, 100_000_000, 2_000_000_000, 5, 5_000_000)
    return float(statistics.median(block["ns"]) / block["repeats"])


def bare_median(session: Any, sets: list[Any]) -> float:
    """One block of a loop that does nothing but call and read the clock."""
    for feed in sets * 10:
        session.run(None, feed)
    clock = time.perf_counter_ns
    readings = []
    end = clock() + 100_000_000
    while clock() < end:
        for feed in sets:
            begin = clock()
            session.run(None, feed)
            readings.append(clock() - begin)
    return float(statistics.median(readings))


def write(path: Path, stored: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    stored["environment"] = fingerprint()
    fresh = path.with_suffix(".partial")
    fresh.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fresh.replace(path)


def report(stored: dict[str, Any]) -> None:
    """Print what is stored, a line per part."""
    for part, gates in stored.get("gates", {}).items():
        verdicts = Counter(gate["verdict"] for gate in gates)
        seconds = statistics.median(gate["seconds"] for gate in gates)
        line = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        print(f"{part:12} {len(gates):4} gates: {line}; {seconds:.0f} s each")
        if part == "tail":
            metrics = Counter((m["name"], m["verdict"]) for gate in gates for m in gate["metrics"])
            print(" " * 17, ", ".join(f"{name} {verdict} {count}" for (name, verdict), count in metrics.items()))
    for part in ("spread", "overhead"):
        for name, figures in stored.get(part, {}).items():
            print(f"{part:12} {name}: {figures}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*GATES, "spread", "overhead", []])
    parser.add_argument("--gates", type=int)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--into", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    stored: dict[str, Any] = json.loads(given.into.read_text(encoding="utf-8")) if given.into.is_file() else {}
    keep = partial(write, given.into)
    for part in given.parts:
        if part == "spread":
            run_spread(stored, keep)
        elif part == "overhead":
            run_overhead(stored, keep)
        else:
            run_gates(part, given.gates or GATES[part], stored, keep, given.first_seed)
    report(stored)


if __name__ == "__main__":
    main()
