"""Does it work on any model: every architecture of torchvision, families of timm and transformers, and odd modules.

    python benchmarks/zoo.py [--only PATTERN,PATTERN…] [--seconds 600] [--memory-gib 12] [--jobs 1] [--again]
    python benchmarks/zoo.py --report

For each model `deploykit export` and `deploykit verify` of the variants onnx, torchscript, torch-export and
onnx-int8-static, as a user types them; then what people do without deploykit: `torch.onnx.export(dynamo=True)` and
`numpy.allclose` on the example, whose file `deploykit verify --artifact` judges. Every command is a process of its own,
all of a model together within a limit of time and each within one of memory. A model's row goes to results/zoo.json as
soon as it is known, and a model that is there is passed over. `--report` writes results/zoo.md from it.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from false_alarms import watched
from zoo_entry import REFERENCE, VARIANTS, Entry

from deploykit.diagnosis import remedy
from deploykit.environment import fingerprint

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "zoo.json"
OTHER = {"WORKER_CRASHED": "crashed", "TIME_LIMIT": "too slow", "MEMORY_LIMIT": "too large"}
"""Codes that are no refusals: the model did not get as far as an answer."""

ERROR = re.compile(r"^error\[(?P<code>[A-Z_0-9]+)\]: (?P<said>.*?)(; hint: (?P<hint>.*))?$", re.MULTILINE)


def zoo() -> list[Entry]:
    """All models, the cheap ones first."""
    from zoo_libraries import timm_models, torchvision_models, transformers_models
    from zoo_list import by_hand

    return [*by_hand(), *transformers_models(), *timm_models(), *torchvision_models()]


@dataclass
class Commands:
    """Runs the commands of one model, with one clock over all of them.

    Attributes:
        folder: of this model alone; goes away with it.
        until: monotonic second at which the time is over.
        memory_bytes: resident memory of one command's processes.
        over: which limit was hit, empty while none was.
        peak: largest resident memory so far.
    """

    folder: Path
    until: float
    memory_bytes: int
    over: str = ""
    peak: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, step: str, *argv: str) -> tuple[int, str]:
        """Exit status and standard error; standard output goes nowhere, results are read from files."""
        started = time.monotonic()
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            process = subprocess.Popen(
                [sys.executable, *argv],
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=self._environment(),
                cwd=self.folder,
            )
            over, peak = watched(process, max(1.0, self.until - started), self.memory_bytes)
            said.seek(0)
            text = said.read()
        self.over, self.peak = self.over or over, max(self.peak, peak)
        self.seconds[step] = round(time.monotonic() - started, 1)
        return process.returncode, text

    def _environment(self) -> dict[str, str]:
        mine = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("GITHUB_")}
        return {**mine, "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1"}


def one(entry: Entry, seconds: float, memory_bytes: int) -> dict[str, Any]:
    """The row of one model."""
    with tempfile.TemporaryDirectory(prefix="deploykit-zoo-") as scratch:
        folder = Path(scratch)
        commands = Commands(folder, time.monotonic() + seconds, memory_bytes)
        source = sourced(entry, folder)
        row: dict[str, Any] = {"family": entry.family, "variants": ours(entry, source, folder, commands)}
        row["exceeded"] = commands.over
        if not commands.over:
            row["plain"] = plain(entry, source, folder, commands)
        row["seconds"] = commands.seconds
        row["peak_tree_bytes"] = commands.peak
        # no path of this machine in a result
        text = json.dumps(row).replace(f"{scratch}/", "").replace(scratch, "").replace(f"{HERE}/", "")
        return dict(json.loads(text))


def sourced(entry: Entry, folder: Path) -> str:
    """SOURCE for the command line; a configuration is written into the folder first."""
    kind, _, target = entry.source.partition(":")
    if entry.config:
        path = folder / target / "config.json"
        path.parent.mkdir()
        path.write_text(json.dumps(dict(entry.config)))
        return f"{kind}:{path}"
    return f"{kind}:{HERE / target}" if kind == "python" else entry.source


def ours(entry: Entry, source: str, folder: Path, commands: Commands) -> dict[str, dict[str, Any]]:
    """What export and verify say, by variant; under `reference` alone where there was no export at all."""
    bundle, said = folder / "bundle", folder / "verify.json"
    inputs = [text for spec in entry.inputs for text in ("--input", spec)]
    options = ["--variants", ",".join(VARIANTS), "--quiet", "-o", str(bundle)]
    status, errors = commands.run("export", "-m", "deploykit", "export", source, *inputs, *options)
    if not (bundle / "manifest.json").is_file():
        return {REFERENCE: stopped(status, errors, commands.over)}
    status, errors = commands.run("verify", "-m", "deploykit", "verify", str(bundle), "--quiet", "--json", str(said))
    if not said.is_file():
        return {variant: stopped(status, errors, commands.over) for variant in VARIANTS}
    return {variant["name"]: outcome(variant) for variant in json.loads(said.read_text())["variants"]}


def stopped(status: int, errors: str, over: str) -> dict[str, Any]:
    """The outcome of a command that gave no result: its one line of error, else a crash or a limit of this script."""
    if over:
        return {"verdict": "too large" if "GiB" in over else "too slow", "code": "", "reason": over, "remedy": ""}
    found = ERROR.search(errors)
    if found is None or status == 70:
        last = (errors.strip().splitlines() or ["nothing said"])[-1]
        return {"verdict": "crashed", "code": "", "reason": f"ended with {status}: {last}"[:400], "remedy": ""}
    code = found["code"]
    return {"verdict": OTHER.get(code, "refused"), "code": code, "reason": found["said"], "remedy": found["hint"] or ""}


def outcome(variant: dict[str, Any]) -> dict[str, Any]:
    """A variant of verify's report: `pass`, `fail`, `refused` where it was not made, or one of `OTHER`."""
    code, verdict = variant["code"], variant["verdict"]
    word = {"error": "refused", "skipped": "refused"}.get(verdict, verdict)
    return {
        "verdict": OTHER.get(code, word),
        "code": code,
        "reason": variant["reason"][:400],
        "remedy": "" if verdict == "pass" else remedy(code),
    }


def plain(entry: Entry, source: str, folder: Path, commands: Commands) -> dict[str, Any]:
    """What plain torch makes of it, whether its check is green, and what verify says of its file."""
    bundle, file, said = folder / "bundle", folder / "plain.onnx", folder / "plain.json"
    status, errors = commands.run(
        "plain", str(HERE / "zoo_plain.py"), source, str(bundle), str(file), str(said), *entry.inputs
    )
    if not said.is_file():
        last = (errors.strip().splitlines() or ["nothing said"])[-1]
        return {"check": "crashed", "reason": commands.over or f"ended with {status}: {last}"[:300]}
    found = dict(json.loads(said.read_text()))
    if found["check"] != "green" or not bundle.is_dir():
        return found
    report = folder / "judged.json"
    argv = ["-m", "deploykit", "verify", str(bundle), "--artifact", str(file), "--quiet", "--json", str(report)]
    status, errors = commands.run("judge", *argv)
    judged = json.loads(report.read_text())["variants"][0] if report.is_file() else None
    found["judge"] = outcome(judged) if judged else stopped(status, errors, commands.over)
    return found


_KEEPING = threading.Lock()


def stored() -> dict[str, Any]:
    """What earlier runs wrote; the fingerprint is that of the latest run."""
    if RESULTS.is_file():
        return dict(json.loads(RESULTS.read_text(encoding="utf-8")))
    return {"models": {}}


def keep(name: str, row: dict[str, Any]) -> None:
    """Add one row; the file is whole at every moment."""
    with _KEEPING:
        everything = stored()
        everything["environment"] = fingerprint()
        everything["models"][name] = row
        everything["models"] = dict(sorted(everything["models"].items()))
        fresh = RESULTS.with_suffix(".new")
        fresh.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        fresh.replace(RESULTS)


def chosen(entries: list[Entry], patterns: str) -> list[Entry]:
    """Those whose name or family fits one of the comma-separated patterns.

    Raises:
        SystemExit: a pattern fits none.
    """
    wanted = [p for p in patterns.split(",") if p]
    if not wanted:
        return entries
    fits = {p: [e for e in entries if fnmatch.fnmatch(e.name, f"*{p}*") or e.family == p] for p in wanted}
    if empty := [p for p, found in fits.items() if not found]:
        sys.exit(f"no model fits {', '.join(empty)}")
    return [entry for entry in entries if any(entry in found for found in fits.values())]


def parsed(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="comma-separated patterns of names, or families")
    parser.add_argument("--seconds", type=float, default=600.0, help="wall time for one model, all commands together")
    parser.add_argument("--memory-gib", type=float, default=12.0, help="resident memory for one command's processes")
    parser.add_argument("--jobs", type=int, default=1, help="models at once")
    parser.add_argument("--again", action="store_true", help="also models that are in the results already")
    parser.add_argument("--report", action="store_true", help="only write results/zoo.md and print the summary")
    return parser.parse_args(argv)


def main() -> None:
    """Run what is missing, model by model, and write the table."""
    from zoo_table import line, markdown, summary

    given = parsed(sys.argv[1:])
    entries = zoo()
    if not given.report:
        done = stored()["models"]
        todo = [e for e in chosen(entries, given.only) if given.again or e.name not in done]

        def work(entry: Entry) -> None:
            row = one(entry, given.seconds, int(given.memory_gib * 2**30))
            keep(entry.name, row)
            print(line(entry, row), flush=True)

        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(work, todo))
    models = stored()["models"]
    RESULTS.with_suffix(".md").write_text(markdown(entries, models), encoding="utf-8")
    print(summary(entries, models))


if __name__ == "__main__":
    main()
