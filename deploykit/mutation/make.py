"""The face of the folder: which mutants of an artifact there are, and one of them on disk at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deploykit.mutation import archive, archive_mutants, faults
from deploykit.mutation.faults import Made, Site

DOZEN = 12
_THIRDS = ("middle", "late", "early")


def sites(
    artifact: Path, runtime: str, precision: str, seed: int, count: int = DOZEN, rows: int = 2
) -> tuple[list[Site], str]:
    """Up to `count` faults with their places, the most telling first, and the tensor for `faults.PROBE`.

    Each kind comes once before any comes twice; places are drawn by `seed` from the middle, the late and the early
    third of the net in turn.

    Args:
        artifact: the file.
        runtime: plugin that opens it; decides which format it has.
        precision: of the variant.
        seed: makes the choice.
        count: most sites given.
        rows: the batch that `faults.DIM` bakes in.

    Raises:
        RefusedError: the archive cannot be read.
    """
    order, places, probe = _found(artifact, runtime, precision)
    left = {fault: places(fault) for fault in order}
    generator = random.Random(seed)  # noqa: S311 - places, not secrets
    chosen: list[Site] = []
    while len(chosen) < count and any(left.values()):
        for fault in order:
            if left[fault] and len(chosen) < count:
                place = _drawn(left[fault], _THIRDS[len(chosen) % 3], generator)
                left[fault].remove(place)
                amount = float(rows) if fault == faults.DIM else None
                chosen.append(Site(fault, place, generator.randrange(1 << 30), amount))
    return chosen, probe


def one(artifact: Path, runtime: str, folder: Path, site: Site) -> Made:
    """The mutant of `artifact` that `site` describes, in `folder` under the artifact's own name.

    Raises:
        UsageError: the artifact has no such place.
        StorageError: it cannot be written.
    """
    if runtime == "onnxruntime":
        from deploykit.mutation import onnx_mutants

        return onnx_mutants.mutate(artifact, folder, site)
    return archive_mutants.mutate(artifact, folder, site)


def scaled(place: str, amount: float) -> Site:
    """The site of `faults.PROBE`: `place` times 1 + `amount`."""
    return replace(Site(faults.PROBE, place), amount=amount)


def _found(artifact: Path, runtime: str, precision: str) -> tuple[tuple[str, ...], Callable[[str], list[str]], str]:
    """The faults to try, their places, and the tensor of the probe."""
    if runtime == "onnxruntime":
        from deploykit.mutation import onnx_mutants

        graph = onnx_mutants.opened(artifact)
        return (
            onnx_mutants.order(precision),
            lambda fault: onnx_mutants.places(graph, fault),
            onnx_mutants.probe(graph, precision),
        )
    tensors = archive.tensors(artifact)
    weights = archive_mutants.places(artifact, tensors, faults.SCALED)
    probe = weights[len(weights) // 2] if weights else ""
    return archive_mutants.ORDER, lambda fault: archive_mutants.places(artifact, tensors, fault), probe


def _drawn(places: list[str], third: str, generator: random.Random) -> str:
    """One of the places in a third of the net; of the whole of it where there are fewer than three."""
    size = len(places)
    start, end = {"early": (0, size // 3), "middle": (size // 3, size - size // 3), "late": (size - size // 3, size)}[
        third
    ]
    return generator.choice(places[start:end] or places)
