"""Raw readings and their circumstances: the record of a benchmark. Summaries are computed when it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.benchmark.covariates import Round, Surroundings
from deploykit.errors import RefusedError, from_os_error

SCHEMA = 3
"""Version of the file that `save` writes. Version 1 has no rounds: its n-th block was made in the n-th round. Up to
version 2 no calls overlapped: blocks have no length of their own."""

KEY = "deploykit.bench"
"""The one metadata key of that file: JSON with everything that is no array."""


@dataclass(frozen=True)
class Block:
    """Readings made in one go.

    Attributes:
        ns: int64[n] wall time of each reading.
        repeats: calls in each reading.
        round: in which round of its launch and batch it was made; blocks of one round belong together.
        wall_ns: length of the block where calls of several clients overlap; 0 where one follows the other.
    """

    ns: NDArray[np.int64]
    repeats: int
    round: int = 0
    wall_ns: int = 0

    @property
    def calls(self) -> int:
        """Calls in all readings."""
        return len(self.ns) * self.repeats

    @property
    def busy_ns(self) -> int:
        """Time spent in them, overlaps counted once."""
        return self.wall_ns or int(self.ns.sum())

    @property
    def call_ns(self) -> NDArray[np.float64]:
        """float64[n] time of one call, per reading."""
        return self.ns / self.repeats

    @property
    def median_ns(self) -> float:
        """Median of `call_ns`."""
        return float(np.median(self.ns)) / self.repeats


@dataclass(frozen=True)
class Series:
    """One subject at one batch size in one launch.

    Attributes:
        load_ms: opening the artifact, the engine's import included.
        first_call_ms: the first call of the process, at the smallest batch measured.
        peak_rss_bytes: VmHWM of the worker at the end of the launch, over all batches; None where unknown.
        steady: the warm-up settled.
        provider, threads: read back from the engine.
        pools: thread pools of the process, as threadpoolctl sees them.
        phases: int64[n, 3] host to device, compute, device to host, nanoseconds; empty where nothing is transferred.
    """

    subject: str
    batch: int
    launch: int
    blocks: tuple[Block, ...]
    load_ms: float
    first_call_ms: float
    peak_rss_bytes: int | None
    steady: bool
    provider: str
    threads: int | None
    pools: tuple[dict[str, Any], ...] = ()
    phases: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 3), np.int64))

    @property
    def call_ns(self) -> NDArray[np.float64]:
        """float64[n] time of one call, per reading, all blocks."""
        return np.concatenate([block.call_ns for block in self.blocks])

    @property
    def median_ns(self) -> float:
        """Median of `call_ns`."""
        return float(np.median(self.call_ns))

    @property
    def repeats(self) -> int:
        """The most calls that share a reading."""
        return max(block.repeats for block in self.blocks)


@dataclass(frozen=True)
class Missing:
    """A subject that could not be measured, and what became of it.

    Attributes:
        batch: the batch size it is about; None when the subject is out altogether.
        code: stable code (`WORKER_CRASHED`, `PROVIDER_FALLBACK`, `PARITY`, …).
        exit_code: what the command should end with for it.
    """

    subject: str
    batch: int | None
    launch: int
    code: str
    reason: str
    exit_code: int


@dataclass(frozen=True)
class Measured:
    """Everything that one benchmark found.

    Attributes:
        series: all of it, also what was read in rounds that are dropped.
        rounds: the rounds and what befell them.
        launches: the machine as each launch found it.
        ended: why no further launch was made: `planned`, `width`, `launches` or `time`; empty where unknown.
    """

    series: tuple[Series, ...]
    missing: tuple[Missing, ...] = ()
    rounds: tuple[Round, ...] = ()
    launches: tuple[Surroundings, ...] = ()
    ended: str = ""

    def of(self, subject: str, batch: int) -> tuple[Series, ...]:
        """The launches of one subject at one batch without dropped rounds; none when it went missing on the way."""
        return self._kept.get((subject, batch), ())

    @cached_property
    def _kept(self) -> dict[tuple[str, int], tuple[Series, ...]]:
        found: dict[tuple[str, int], list[Series]] = {}
        for one in self.series:
            out = {index for launch, batch, index in self.dropped if (launch, batch) == (one.launch, one.batch)}
            blocks = tuple(block for block in one.blocks if block.round not in out) if out else one.blocks
            if blocks and self.reason(one.subject, one.batch) is None:
                kept = one if len(blocks) == len(one.blocks) else replace(one, blocks=blocks)
                found.setdefault((one.subject, one.batch), []).append(kept)
        return {key: tuple(many) for key, many in found.items()}

    @cached_property
    def disturbed(self) -> tuple[Round, ...]:
        """The rounds from which the hypervisor or the control group took the processor away."""
        return tuple(one for one in self.rounds if one.disturbed)

    @property
    def overrun(self) -> bool:
        """More than half of all rounds were disturbed: that is how this machine is, and no undisturbed answer of it."""
        return 2 * len(self.disturbed) > len(self.rounds)

    @cached_property
    def dropped(self) -> frozenset[tuple[int, int, int]]:
        """(launch, batch, index) of the rounds left out for all subjects; none when the machine is `overrun`."""
        return frozenset() if self.overrun else frozenset((r.launch, r.batch, r.index) for r in self.disturbed)

    def with_more(self, other: Measured) -> Measured:
        """Both records as one; their launches, or their subjects, are different ones."""
        return Measured(
            self.series + other.series,
            self.missing + other.missing,
            self.rounds + other.rounds,
            self.launches + other.launches,
            other.ended,
        )

    def reason(self, subject: str, batch: int) -> Missing | None:
        """Why there is nothing to say about this subject and batch, None when there is."""
        about = (one for one in self.missing if one.subject == subject and one.batch in {None, batch})
        return next(about, None)

    def save(self, path: Path) -> None:
        """Write a safetensors file that `load` reads, whole or not at all.

        Raises:
            StorageError: the disk is full, or the path cannot be written.
        """
        from safetensors.numpy import save

        arrays: dict[str, NDArray[np.int64]] = {}
        for index, one in enumerate(self.series):
            arrays[f"{index}/ns"] = np.concatenate([block.ns for block in one.blocks])
            arrays[f"{index}/blocks"] = _shape(one.blocks)
            arrays[f"{index}/phases"] = np.ascontiguousarray(one.phases)
        document = {
            "schema": SCHEMA,
            "series": [_facts(one) for one in self.series],
            "missing": [asdict(one) for one in self.missing],
            "rounds": [asdict(one) for one in self.rounds],
            "launches": [asdict(one) for one in self.launches],
            "ended": self.ended,
        }
        raw = save(arrays, metadata={KEY: json.dumps(document, allow_nan=False)})
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_bytes(raw)
            partial.replace(path)
        except OSError as error:
            raise from_os_error(error, path.name) from error

    @classmethod
    def load(cls, path: Path) -> Measured:
        """Read what `save` wrote.

        Raises:
            RefusedError: the file is none of these, or of another schema.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as stored:
                document = json.loads((stored.metadata() or {})[KEY])
                if document["schema"] not in range(1, SCHEMA + 1):
                    hint = "use the deploykit that wrote it"
                    raise RefusedError(path.name, f"schema {document['schema']} is unknown", hint, "UNKNOWN_SCHEMA")
                facts = enumerate(document["series"])
                series = tuple(_series(index, one, stored.get_tensor) for index, one in facts)
                missing = tuple(Missing(**one) for one in document["missing"])
                rounds = tuple(Round(**one) for one in document.get("rounds", ()))
                launches = tuple(Surroundings(**one) for one in document.get("launches", ()))
                ended = str(document.get("ended", ""))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise RefusedError(
                path.name, f"no raw bench record: {error}", "measure again with deploykit bench"
            ) from error
        except OSError as error:
            raise from_os_error(error, path.name) from error
        return cls(series, missing, rounds, launches, ended)


_ARRAYS = ("blocks", "phases")


def _shape(blocks: tuple[Block, ...]) -> NDArray[np.int64]:
    """int64[n, 4]: readings, calls in each, round and length of each block."""
    return np.array([[len(b.ns), b.repeats, b.round, b.wall_ns] for b in blocks], np.int64)


def _facts(one: Series) -> dict[str, Any]:
    return {name: value for name, value in vars(one).items() if name not in _ARRAYS}


def _series(index: int, facts: dict[str, Any], array: Callable[[str], Any]) -> Series:
    rows = array(f"{index}/blocks")
    if rows.shape[1] == 2:  # schema 1
        rows = np.column_stack([rows, np.arange(len(rows))])
    if rows.shape[1] == 3:  # schema 2
        rows = np.column_stack([rows, np.zeros(len(rows), np.int64)])
    parts = np.split(array(f"{index}/ns"), np.cumsum(rows[:-1, 0]))
    blocks = tuple(Block(ns, *map(int, row[1:])) for ns, row in zip(parts, rows, strict=True))
    return Series(**{**facts, "pools": tuple(facts["pools"])}, blocks=blocks, phases=array(f"{index}/phases"))
