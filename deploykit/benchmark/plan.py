"""What is to be measured, and how long: the protocol's numbers in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from deploykit.session import SessionSettings

MS = 1_000_000
"""Nanoseconds in a millisecond."""


@dataclass(frozen=True)
class Protocol:
    """How the measurement is made; the whole of it is kept in the report.

    Attributes:
        launches: rounds of fresh worker processes; the launch is the unit of replication, not the call.
        blocks: blocks per subject, batch and launch.
        block_ns: shortest block; it also holds at least `block_calls` calls.
        block_limit_ns: a block ends here, however few calls it holds.
        discard_ns: after a switch between workers, calls are made and not recorded for this long (at least one).
        warm_up_ns: shortest warm-up on the CPU; `device_warm_up_ns` is that of other providers.
        warm_up_limit_ns: where the warm-up is given up; the subject is then `not_steady`.
        step_limit_s: wall time after which one step of one worker counts as hung.
        seed: of the order in which subjects take turns.
        quick: few launches; the answer is a first impression, and no gate may be built on it.
        half_width: launches are added until the interval of every ratio that decides is at most this wide to either
            side, whatever the ratio is.
        more: launches added at a time.
        max_launches: where adding ends.
        limit_s: no launch is added that would not end within this wall time, counted from the first one.
    """

    launches: int = 10
    blocks: int = 8
    block_ns: int = 100 * MS
    block_calls: int = 5
    block_limit_ns: int = 2000 * MS
    discard_ns: int = 5 * MS
    warm_up_ns: int = 500 * MS
    device_warm_up_ns: int = 1000 * MS
    warm_up_limit_ns: int = 10_000 * MS
    step_limit_s: float = 300.0
    seed: int = 0
    quick: bool = False
    half_width: float = 0.015
    more: int = 4
    max_launches: int = 30
    limit_s: float = 240.0

    @classmethod
    def short(cls, seed: int = 0) -> Self:
        """The `--quick` variant: 3 launches of 2 blocks and a shorter warm-up, labelled so."""
        return cls(
            launches=3, blocks=2, warm_up_ns=100 * MS, device_warm_up_ns=300 * MS, warm_up_limit_ns=1500 * MS,
            seed=seed, quick=True, max_launches=3,
        )  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One variant to measure.

    Attributes:
        name: how the report calls it, unique: the variant's name, `eager`, or a variant with its settings.
        runtime: the runtime plugin that opens `artifact`.
        settings: what the session is opened with; what is read back must agree with provider and threads.
        input_names: the model's inputs in call order.
        output_names: the model's outputs, for engines whose artifacts do not name theirs.
        feeds: per batch size a safetensors file with the input sets that are rotated through, at least four, each
            array named `<set index>/<input name>`.
        file_bytes: size of everything the artifact consists of; None for `eager`.
        check_case: the reference case (`inputs/NAME`, see `reference.py`) that is answered once before any timing.
        variant: whose artifact it is; empty for what is in no bundle, `eager` for one.
        twin: the subject it is held against; both are then timed with the same number of calls to a reading.
        clients: threads that ask a running server at once, over a connection each; `artifact` then says which one
            (`remote/session.py`), and `runtime` is not used. 0 opens the artifact in the worker.
    """

    name: str
    runtime: str
    artifact: Path
    settings: SessionSettings
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    feeds: Mapping[int, Path]
    file_bytes: int | None = None
    check_case: Path | None = None
    variant: str = ""
    twin: str = ""
    clients: int = 0

    @property
    def opening(self) -> dict[str, Any]:
        """What a step needs to open it, as JSON data."""
        asking = {"clients": self.clients} if self.clients else {}
        return {
            "runtime": self.runtime,
            "artifact": str(self.artifact),
            "input_names": list(self.input_names),
            "output_names": list(self.output_names),
            "settings": asdict(self.settings),
            **asking,
        }
