"""What `deploykit serve` costs: until it is ready, per request over in-process, and how much it takes.

    python benchmarks/serving.py [--bundle DIR] [--seconds 120] [--clients 8] [--quick] [--report]

Without --bundle the seed model is trained and exported on the spot. Ready is measured on fresh processes, from exec to
the line that says so and to the first answer; the rest is `deploykit bench --url` on one server per measurement: one
client, JSON and binary tensors, next to the same file in-process; then the highest rate of Poisson arrivals that keeps
p99 under 10 ms. Client and server share the machine's cores. Results go to results/serving.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploykit.bundle import Bundle
from deploykit.endpoint import connect
from deploykit.environment import fingerprint

RESULTS = Path(__file__).parent / "results" / "serving.json"
STARTS = 7
DEPLOYKIT = [sys.executable, "-m", "deploykit"]
OBJECTIVE = "p99=10ms"
GRACE_S = 15


def made(folder: Path) -> Path:
    """The seed model's bundle with its `onnx`, verified."""
    bundle = folder / "mlp"
    for argv in (["export", "mlp", "-o", str(bundle), "--variants", "onnx"], ["verify", str(bundle)]):
        subprocess.run([*DEPLOYKIT, *argv, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return bundle


@contextlib.contextmanager
def served(bundle: Path) -> Iterator[tuple[str, float, float]]:
    """A fresh server: its URL, when it was started and when it said that it answers, by `perf_counter`."""
    argv = [*DEPLOYKIT, "serve", str(bundle), "--variant", "onnx", "--port", "0", "--json", "-", "--quiet"]
    started = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        ready = time.perf_counter()
        if b'"url"' not in line:  # standard error says why
            sys.exit(f"deploykit serve ended with {process.wait(GRACE_S)}")
        yield json.loads(line)["url"], started, ready
    finally:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


def starts(bundle: Path) -> dict[str, list[float]]:
    """Seconds from exec, by what they lead to; one start before them fills the page cache."""
    found: dict[str, list[float]] = {"python -c pass": [], "ready": [], "first answer": []}
    known = Bundle(bundle)
    feeds = known.case(known.manifest.reference.cases[0]).inputs
    for index in range(STARTS + 1):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare = time.perf_counter() - begin
        with served(bundle) as (url, started, ready):
            with contextlib.closing(connect(url, known.manifest.name, wire="binary")) as endpoint:
                endpoint.infer(feeds)
            answered = time.perf_counter()
        if index:
            for name, seconds in zip(found, (bare, ready - started, answered - started), strict=True):
                found[name].append(seconds)
    return found


def benched(bundle: Path, *options: str) -> dict[str, Any]:
    """The report of `deploykit bench --url` on a server of its own; exit codes 1 and 3 are answers, too."""
    with served(bundle) as (url, _, _):
        argv = [
            *DEPLOYKIT,
            "bench",
            str(bundle),
            "--url",
            url,
            "--variants",
            "onnx",
            "--json",
            "-",
            "--quiet",
            *options,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 1, 3}:
        sys.exit(done.stderr)
    document: dict[str, Any] = json.loads(done.stdout)
    del document["environment"]  # once is enough
    return document


def shown(stored: dict[str, Any]) -> None:
    """The table."""
    for name, seconds in stored["starts"].items():
        low, high = min(seconds), max(seconds)
        print(f"{name:16} {statistics.median(seconds):7.3f} s  [{low:.3f}, {high:.3f}], {len(seconds)} fresh processes")
    for wire in ("binary", "json"):
        report = stored[wire]
        for row in report["variants"]:
            median, rate = (row["median_ns"] or float("nan")) / 1e3, row["throughput_per_s"] or float("nan")
            tail = "refused" if row["p99_ns"] is None else f"{row['p99_ns'] / 1e3:.1f} µs"
            print(f"{wire:6} {row['name']:16} median {median:8.1f} µs, p99 {tail}, {rate:8,.0f} per second")
        for one in report["comparisons"]:
            low, high = (ns / 1e3 for ns in one["added_ci_ns"])
            sure = f"[{low:.1f}, {high:.1f}] at {one['ci_level']:.0%}"
            print(f"{wire:6} the server adds {one['added_ns'] / 1e3:.1f} µs {sure}, ratio {one['ratio']:.1f}")
    for load in stored["capacity"]["loads"]:
        rate = "no capacity found" if load["rate_per_s"] is None else f"{load['rate_per_s']:,.0f} requests per second"
        tail = next((one for one in load["latency"] if one["percentile"] == "p99"), {"ns": None})["ns"]
        said = "-" if tail is None else f"{tail / 1e6:.2f} ms"
        print(f"{load['name']:28} {rate} with {load['slo']} (p99 {said}; {load['verdict']}) {load['reason']}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="three launches instead of ten or more")
    parser.add_argument("--report", action="store_true", help="print what was measured before")
    given = parser.parse_args()
    if given.report:
        shown(json.loads(RESULTS.read_text(encoding="utf-8")))
        return
    quick = ["--quick"] if given.quick else []
    load = [
        "--scenario",
        "server",
        "--slo",
        OBJECTIVE,
        "--seconds",
        str(given.seconds),
        "--clients",
        str(given.clients),
    ]
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        bundle = given.bundle or made(Path(folder))
        stored: dict[str, Any] = {"starts": starts(bundle)}
        for wire in ("binary", "json"):
            stored[wire] = benched(bundle, "--wire", wire, *quick)
        stored["capacity"] = benched(bundle, "--wire", "binary", *load)
    stored["environment"] = fingerprint()
    RESULTS.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shown(stored)


if __name__ == "__main__":
    main()
