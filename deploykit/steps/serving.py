"""Steps: serve a schedule of requests with the session that `measure:open` opened in this process."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from deploykit.benchmark import open_loop
from deploykit.benchmark.open_loop import Bounds, WallClock
from deploykit.reference import save_arrays
from deploykit.steps import measure


def serve(batch: int, rate: float, calls: int, seed: list[int], bounds: dict[str, Any], answer: str) -> dict[str, Any]:
    """Serve seeded Poisson arrivals, one request after another.

    Args:
        batch: a batch size that was warmed up; each request is one call with that many samples.
        rate: requests per second.
        calls: requests of the schedule.
        seed: of the schedule.
        bounds: fields of a `Bounds` where it is given up; those that are absent have no limit.
        answer: file for `due`, `begun` and `ended`: int64[n] nanoseconds from the origin of the schedule.

    Returns:
        `stopped`: why the rest of the schedule was given up, see `Served`.
    """
    turns = measure.calls_of(batch)
    due = open_loop.poisson(rate, calls, *seed)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        served = open_loop.serve(due, turns, Bounds(**bounds), WallClock())
    finally:
        if collecting:
            gc.enable()
    save_arrays({"due": served.due, "begun": served.begun, "ended": served.ended}, Path(answer))
    return {"stopped": served.stopped}
