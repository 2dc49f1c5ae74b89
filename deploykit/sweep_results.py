"""What a sweep finds out: a record per cell, a row per variant in it. Frozen, and JSON by `results.to_json`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from deploykit.errors import gravest
from deploykit.results import SCHEMA

Stage = Literal["prove", "measure"]
"""The halves of a cell: export and verify, which may run beside others, and bench, which has a machine to itself."""


@dataclass(frozen=True)
class CellRow:
    """One variant of a cell, at one batch size where it was measured.

    Attributes:
        verdict: the parity gate's; `base` for a base line, which is the model itself; `not_made`.
        code: stable code of the gravest finding; empty when it passed.
        batch: samples in one call; None where nothing was measured.
        median_ns: median time of one host-to-host call, nanoseconds; None where there is none, `bench_reason` says why.
        median_ci_ns: interval around it with confidence `ci_level`.
        ratio: of its median to that of `base` at the same batch, below 1 when this one is faster; with interval
            `ratio_ci`. None for the base itself.
        file_bytes: size of the artifact. `peak_rss_bytes`: largest resident memory of a process that ran it.
    """

    variant: str
    verdict: str
    code: str = ""
    reason: str = ""
    batch: int | None = None
    median_ns: float | None = None
    median_ci_ns: tuple[float, float] | None = None
    ci_level: float | None = None
    base: str = ""
    ratio: float | None = None
    ratio_ci: tuple[float, float] | None = None
    file_bytes: int | None = None
    peak_rss_bytes: int | None = None
    bench_reason: str = ""


@dataclass(frozen=True)
class Half:
    """What became of one half of a cell.

    Attributes:
        exit_code: of the commands that ran, the gravest.
        code: why there are no rows, or the gravest finding; empty when all is well.
        seconds: wall time.
        place: what ran it, without a name: `{"cpu": ..., "cores": ..., "packages": {...}}`.
        alone: nothing else of the sweep ran on that machine meanwhile; None for what may run beside others.
        digest: sha256 of the bundle's manifest, None where there is no bundle.
    """

    exit_code: int
    code: str = ""
    reason: str = ""
    hint: str = ""
    rows: tuple[CellRow, ...] = ()
    seconds: float = 0.0
    place: dict[str, Any] = field(default_factory=dict)
    alone: bool | None = None
    digest: str | None = None


@dataclass(frozen=True)
class CellRecord:
    """One cell, as it is stored in `cells/<key>.json`.

    Attributes:
        key: sha256 of all that defines the cell: the settings, the bytes of its files, and the versions of packages.
        prove, measure: its halves; None for one that has not run.
        bundle: folder of the bundle below the sweep's folder; None when there is none, or it was dropped.
        reused: it was finished by an earlier run.
    """

    key: str
    model: str
    setting: str
    source: str
    prove: Half
    measure: Half | None = None
    bundle: str | None = None
    engine: str = "local"
    reused: bool = False
    schema: int = SCHEMA

    @property
    def exit_code(self) -> int:
        """The graver of its halves."""
        return gravest([self.prove.exit_code, *([self.measure.exit_code] if self.measure else [])])

    @property
    def rows(self) -> tuple[CellRow, ...]:
        """A row per variant, and per batch where it was measured; base lines first, then as the gate lists them."""
        measured = self.measure.rows if self.measure else ()
        bases = [row for row in measured if row.verdict == "base"]
        found = [replace(times, **_said(row)) for row in self.prove.rows for times in measured if _same(times, row)]
        alone = [row for row in self.prove.rows if not any(_same(times, row) for times in measured)]
        order = [row.variant for row in self.prove.rows]
        return (*bases, *sorted((*found, *alone), key=lambda row: order.index(row.variant)))


def _same(measured: CellRow, proved: CellRow) -> bool:
    return measured.variant == proved.variant


def _said(proved: CellRow) -> dict[str, Any]:
    """What the gate said of a variant, for its measured rows."""
    return {"verdict": proved.verdict, "code": proved.code, "reason": proved.reason}


@dataclass(frozen=True)
class TableRow:
    """One line of the table: a variant of a cell, or a cell that has none.

    Attributes:
        variant: empty for a cell that could not be carried out; `verdict` is then `error` or `refused`.
        exit_code: of the whole cell.
        others: see CellRow.
    """

    model: str
    setting: str
    variant: str
    batch: int | None
    verdict: str
    code: str
    reason: str
    exit_code: int
    median_ns: float | None = None
    median_ci_ns: tuple[float, float] | None = None
    ci_level: float | None = None
    base: str = ""
    ratio: float | None = None
    ratio_ci: tuple[float, float] | None = None
    file_bytes: int | None = None
    peak_rss_bytes: int | None = None
    bench_reason: str = ""
    seconds: float = 0.0


def table_of(cells: tuple[CellRecord, ...]) -> tuple[TableRow, ...]:
    """Every variant of every cell, and a line for what is wrong with a cell as a whole."""
    return tuple(row for cell in cells for row in _lines(cell))


def _lines(cell: CellRecord) -> list[TableRow]:
    halves = [cell.prove, *([cell.measure] if cell.measure else [])]
    seconds = round(sum(half.seconds for half in halves), 1)
    lines = []
    for row in cell.rows:
        values = {name: getattr(row, name) for name in CellRow.__dataclass_fields__}
        lines.append(TableRow(cell.model, cell.setting, exit_code=cell.exit_code, seconds=seconds, **values))
    for half in halves:
        if not half.rows:
            verdict = "refused" if half.exit_code == 5 else "error"
            said = (verdict, half.code, half.reason, cell.exit_code)
            lines.append(TableRow(cell.model, cell.setting, "", None, *said, seconds=seconds))
    return lines


@dataclass(frozen=True)
class MatrixReport:
    """All cells of a sweep, in the order of the matrix.

    Attributes:
        measured: latency was asked for.
        rows: the table.
        ran, reused: cells that this run worked on, and that an earlier one had finished.
        notes: what has to be known to read the table.
        seconds: wall time of this run.
    """

    matrix: str
    engine: str
    exit_code: int
    measured: bool
    cells: tuple[CellRecord, ...]
    rows: tuple[TableRow, ...]
    ran: int = 0
    reused: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    schema: int = SCHEMA
