"""Answer cases with the onnxruntime of another Python: run there as a script, with a request as its only argument.

    PYTHON -I _preflight.py REQUEST.json

Needs onnxruntime and numpy and nothing of deploykit; works from Python 3.8 on, as old releases do. Exit status: 0 and
`answered.json` among the answers when the file was opened or refused, 3 when the packages are not there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
NO_PACKAGES = 3


def limit(memory_bytes: int, file_bytes: int, cpu_s: int) -> None:
    """Set this process's limits, where the system knows them."""
    try:
        import resource
    except ImportError:
        return
    for what, most in ((resource.RLIMIT_DATA, memory_bytes), (resource.RLIMIT_FSIZE, file_bytes)):
        resource.setrlimit(what, (most, resource.getrlimit(what)[1]))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def opened(ort: Any, artifact: str, settings: dict[str, Any]) -> Any:
    """A session with the settings that go out."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    if settings["threads"] is not None:
        options.intra_op_num_threads = settings["threads"]
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[settings["graph_level"]])
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings["spinning"] else "0")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = settings["arena"]
    return ort.InferenceSession(artifact, options, providers=[settings["provider"]])


def answer(np: Any, session: Any, cases: dict[str, str], folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Write an `.npz` per case; gives the outputs' order, and what went wrong, by case."""
    order: dict[str, list[str]] = {}
    errors: dict[str, str] = {}
    names = [output.name for output in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    for case, file in cases.items():
        with np.load(file, allow_pickle=False) as arrays:
            feeds = {name: arrays[name] for name in arrays.files if name in wanted}
        try:
            values = session.run(names, feeds)
        except Exception as error:  # noqa: BLE001 - the edge to onnxruntime, whose exceptions share no base
            errors[case] = str(error)
            continue
        np.savez(folder / f"{case}.npz", **{name: values[index] for index, name in enumerate(names)})
        order[case] = names
    return order, errors


def main(request_file: str) -> int:
    """Read the request, answer its cases, write `started` and `answered.json`."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    limit(**request["limits"])
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import numpy as np
        import onnxruntime as ort
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return NO_PACKAGES
    folder = Path(request["answers"])
    (folder / "started").touch()  # from here on it is a Python with the packages, and what fails is the file's fault
    found: dict[str, Any] = {"version": ort.__version__, "provider": "", "refused": "", "order": {}, "errors": {}}
    try:
        session = opened(ort, request["artifact"], request["settings"])
    except Exception as error:  # noqa: BLE001 - as above
        found["refused"] = str(error)
    else:
        found["provider"] = session.get_providers()[0]
        found["order"], found["errors"] = answer(np, session, request["cases"], folder)
    (folder / "answered.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
