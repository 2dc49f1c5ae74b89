"""`handoff --preflight PYTHON`: the file that goes out answers the reference in the onnxruntime that will load it.

Another Python with that onnxruntime and numpy runs a script of ours; its answers are held to the same limits as those
of the onnxruntime that is installed here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import deploykit.handoff
from deploykit.errors import DeploykitError, RefusedError, UsageError
from deploykit.foreign import brief
from deploykit.isolation import Limits, Pool
from deploykit.parity.judge import Failure, conclude
from deploykit.pipeline.fitting import ENGINE
from deploykit.pipeline.judging import ANSWER_SECONDS, Answers, Gate
from deploykit.pipeline.reexport import Shipped
from deploykit.pipeline.trial import SWALLOWING
from deploykit.reference import save_arrays
from deploykit.releases import Release
from deploykit.session import SessionSettings

SCRIPT = Path(next(iter(deploykit.handoff.__path__))) / "_preflight.py"
NO_PACKAGES = 3
STARTED = "started"
"""What the script writes first, once its packages are there."""

ANSWERED = "answered.json"


def preflight(gate: Gate, shipped: Shipped, python: Path, release: Release | None) -> str:
    """Try what goes out in the onnxruntime of another Python; gives in words what was proven.

    Args:
        gate: the reference, and the settings that go out.
        shipped: the variant's record and files.
        python: an interpreter that has onnxruntime and numpy.
        release: its onnxruntime has to be this one; None takes any.

    Raises:
        UsageError: NOT_FOUND, no such interpreter; BAD_PREFLIGHT, it has not the packages, or another onnxruntime, or
            the variant is no ONNX file.
        RefusedError: PREFLIGHT_FAILED, the file does not load there, or answers wrongly.
    """
    record = shipped.record
    if record.runtime != ENGINE:
        raise UsageError("--preflight", f"{record.name} is {record.runtime}", "leave it out", "BAD_PREFLIGHT")
    if not python.is_file():
        raise UsageError(str(python), "no such Python", f"make one: {recipe(release)}", "NOT_FOUND")
    with tempfile.TemporaryDirectory(prefix="deploykit-") as place:
        folder = Path(place)
        found = _asked(gate, shipped, python, release, folder)
        where = f"onnxruntime {found['version']}"
        if release is not None and not release.fits(found["version"]):
            message = f"has {where}, and {release.label} is onnxruntime {release.onnxruntime}"
            raise UsageError(str(python), message, f"make one: {recipe(release)}", "BAD_PREFLIGHT")
        if found["refused"]:
            raise _failed(shipped, f"{where} does not open it: {brief(found['refused'])}")
        errors = {case: Failure("RUN_ERROR", brief(text)) for case, text in found["errors"].items()}
        answers = Answers(found["provider"], _converted(folder, found["order"]), found["order"], errors, 0.0)
        judge = gate.judged(record, answers, swallows=_swallowing(shipped))
        report = conclude(record.name, found["provider"], judge)
    if report.verdict != "pass":
        raise _failed(shipped, f"in {where} it is {report.verdict}, {report.code}: {report.reason}")
    return f"{len(found['order'])} cases pass in {where}, too"


def recipe(release: Release | None) -> str:
    """The commands that make a Python for this."""
    version = release.installable if release else ""
    package = f"onnxruntime=={version}" if version else "onnxruntime"
    old = bool(version) and [int(part) for part in version.split(".")[:2]] < [1, 19]  # built against numpy 1
    numpy = "'numpy<2'" if old else "numpy"
    return f"python -m venv ort && ort/bin/pip install {package} {numpy}"


def _asked(gate: Gate, shipped: Shipped, python: Path, release: Release | None, folder: Path) -> dict[str, Any]:
    """What the script found out, its answers in `folder`."""
    cases = _cases(gate, folder)
    if not cases:
        raise _failed(shipped, "its reference has no case that can be asked there")
    limits = Limits.for_model(gate.bundle.largest_file)
    request = {
        "artifact": str(shipped.artifact.absolute()),
        "cases": cases,
        "answers": str(folder),
        "settings": asdict(gate.settings or SessionSettings(gate.provider)),
        "limits": asdict(limits),
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    status, said = _run([str(python.absolute()), "-I", str(SCRIPT), str(folder / "request.json")])
    if status == NO_PACKAGES:
        raise UsageError(str(python), f"has not the packages: {said}", f"make one: {recipe(release)}", "BAD_PREFLIGHT")
    if status is None:
        raise _failed(shipped, f"no answer within {ANSWER_SECONDS:g} s")
    if not (folder / STARTED).exists():
        message = f"is no Python with numpy and onnxruntime: it ended with status {status}: {said}"
        raise UsageError(str(python), message, f"make one: {recipe(release)}", "BAD_PREFLIGHT")
    try:
        found: dict[str, Any] = json.loads((folder / ANSWERED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _failed(shipped, f"{python} ended with status {status}: {said}") from None
    return found


def _cases(gate: Gate, folder: Path) -> dict[str, str]:
    """The inputs of every case that can be asked through files of arrays, written to `folder`.

    Sizes that nobody promised and memory layouts stay at home: the one may end the process, the other is not in a file.
    """
    found = {}
    for record in gate.records:
        if record.gate == "outside" or record.layout:
            continue
        inputs = gate.case(record).inputs
        if all(array.dtype.kind in "biuf" for array in inputs.values()):
            file = folder / f"{record.id}.in.npz"
            np.savez(file, **inputs)  # type: ignore[arg-type]
            found[record.id] = str(file)
    return found


def _run(argv: list[str]) -> tuple[int | None, str]:
    """Exit status, None where it took too long, and the last line that was printed; nothing of it outlives this."""
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        except OSError as error:
            raise UsageError(
                argv[0], f"cannot be started: {error.strerror}", "give a Python", "BAD_PREFLIGHT"
            ) from error
        status: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(ANSWER_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        lines = log.read(1 << 20).decode("utf-8", "replace").strip().splitlines()
    return status, brief(lines[-1]) if lines else "it said nothing"


def _converted(folder: Path, order: dict[str, list[str]]) -> Path:
    """The answers in the form in which the judge reads them."""
    for case in order:
        with np.load(folder / f"{case}.npz", allow_pickle=False) as arrays:
            save_arrays({name: arrays[name] for name in arrays.files}, folder / f"{case}.safetensors")
    return folder


def _swallowing(shipped: Shipped) -> str:
    """An operator of the file whose kernel turns NaN into numbers, as the gate excuses it here."""
    with Pool() as pool:
        try:
            found = pool.worker(ENGINE).call("inspecting:onnx_summary", artifact=str(shipped.artifact))
        except DeploykitError:
            return ""  # only an excuse is missing: a failure would stand
    return next((name for name in SWALLOWING if name in found["operators"]), "")


def _failed(shipped: Shipped, message: str) -> RefusedError:
    hint = "choose another variant or a newer release; nothing was written"
    return RefusedError(shipped.record.name, message, hint, "PREFLIGHT_FAILED")
