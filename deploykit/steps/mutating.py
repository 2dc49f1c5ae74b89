"""Step: make mutants of an artifact; onnx is imported here and never in the parent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploykit.mutation import make
from deploykit.mutation.faults import Site


def plan(artifact: str, runtime: str, precision: str, seed: int, count: int, rows: int) -> dict[str, Any]:
    """Which mutants can be made: `sites` as fields of a Site, and `probe`, a tensor to scale (empty without one)."""
    sites, probe = make.sites(Path(artifact), runtime, precision, seed, count, rows)
    return {"sites": [asdict(site) for site in sites], "probe": probe}


def one(artifact: str, runtime: str, folder: str, site: dict[str, Any]) -> dict[str, Any]:
    """Write one mutant into `folder`, over the one before it: `path`, relative `change`, and `place` in words."""
    made = make.one(Path(artifact), runtime, Path(folder), Site(**site))
    return {"path": str(made.path), "change": made.change, "place": made.place}
