"""The reference, recorded in a child. A question that kills the child is left out where eager may refuse it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploykit.errors import WorkError
from deploykit.isolation import Caller
from deploykit.model import SourceSpec
from deploykit.progress import Progress

SECONDS = 900.0
"""Wall time for loading a model and recording its reference: eager answers every case several times."""

MOST_DEATHS = 6
"""Children that one capture may cost: a kernel that dies of NaN dies of each of the four non-finite cases."""


def capture(
    workers: Callable[[], Caller],
    source: SourceSpec | None,
    samples: Path | None,
    stage: Path,
    scratch: Path,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """What `steps.capturing.capture` gives, whose files are then in `stage` and `scratch`.

    Args:
        workers: gives a live worker, another one where the last died.
        source: what to load; None takes the live model of this process, which a crash would take along.
        samples: real inputs, or None.
        stage: folder of the bundle in the making, empty.
        scratch: folder for files that other steps need.
        seed: of the campaign.
        progress: is told what was recorded, and of everything odd.

    Raises:
        DeploykitError: the model cannot be loaded, or its reference is invalid.
    """
    asked, deadly = scratch / "asked", dict[str, str]()
    while True:
        try:
            captured: dict[str, Any] = workers().call(
                "capturing:capture",
                timeout_s=SECONDS,
                source=asdict(source) if source else None,
                samples=str(samples) if samples else None,
                stage=str(stage),
                scratch=str(scratch),
                seed=seed,
                asked=str(asked),
                without=deadly,
            )
            break
        except WorkError as error:
            if error.code != "WORKER_CRASHED" or not asked.exists() or len(deadly) >= MOST_DEATHS:
                raise
            case = asked.read_text(encoding="utf-8")
            deadly[case] = error.message
            asked.unlink()
            for path in stage.iterdir():
                shutil.rmtree(path)
            progress.note(f"{case}: left out, {error.message}")
    progress.step(f"reference: {len(captured['reference']['cases'])} cases answered by eager")
    for name, odd in captured["odd"].items():
        progress.note(f"{name}: {odd}")
    return captured
