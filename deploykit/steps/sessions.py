"""Step: open one artifact and answer cases with it. The answers go to files; judging them is somebody else's work."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from deploykit import registry
from deploykit.child import error_data
from deploykit.errors import DeploykitError
from deploykit.reference import load_arrays, part, save_arrays
from deploykit.session import SessionSettings, laid_out


def answer(
    runtime: str,
    artifact: str,
    input_names: list[str],
    output_names: list[str],
    settings: dict[str, Any],
    cases: dict[str, str],
    answers: str,
    layouts: dict[str, str] | None = None,
    feed: dict[str, str] | None = None,
    rename: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run every case; a case that fails is that case's error, the others go on.

    Args:
        runtime: plugin that opens `artifact`.
        artifact: path of the file.
        input_names: the call order.
        output_names: names for outputs of engines whose artifacts do not name theirs.
        settings: fields of a SessionSettings.
        cases: case id to the file that holds `inputs/NAME`.
        answers: folder that receives `ID.safetensors` with the outputs, in `order`.
        layouts: how the arrays of a case lie in memory when the engine gets them, where that is not contiguous.
        feed: inputs that get the values stored under another name.
        rename: outputs that are stored under another name than the artifact gives them.

    Returns:
        `provider` and `threads` read back, `order` of the output names per case, `errors` per case, `seconds`.
    """
    started = time.perf_counter()
    session = registry.load("runtimes", runtime)().open(
        Path(artifact), tuple(output_names), SessionSettings(**settings)
    )
    order: dict[str, list[str]] = {}
    errors: dict[str, Any] = {}
    for case, file in cases.items():
        stored = part(load_arrays(Path(file)), "inputs")
        layout = (layouts or {}).get(case, "")
        try:
            outputs = session.run({n: laid_out(stored[(feed or {}).get(n, n)], layout) for n in input_names})
        except DeploykitError as error:
            errors[case] = error_data(error)
            continue
        outputs = {(rename or {}).get(name, name): array for name, array in outputs.items()}
        save_arrays(outputs, Path(answers) / f"{case}.safetensors")
        order[case] = list(outputs)
    return {
        "provider": session.provider,
        "threads": session.threads,
        "order": order,
        "errors": errors,
        "seconds": time.perf_counter() - started,
    }
