"""`deploykit sweep`: every cell of a matrix through export, verify and bench, and one table of what came out.

A cell's record is written as it ends, so an interrupted sweep goes on where it stopped. Everything is exported and
verified first, cells side by side; then latency is measured, each cell with a machine to itself: numbers taken beside
another cell's export would say more about that export.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from deploykit import matrix, registry, strict_json
from deploykit.bundle import MANIFEST
from deploykit.errors import StorageError, UsageError, WorkError, from_os_error, gravest
from deploykit.pipeline.sweep_jobs import Planned, plan, versions
from deploykit.progress import Progress
from deploykit.report import sweep as report
from deploykit.results import from_data, to_json
from deploykit.sweep.interface import Job, Session
from deploykit.sweep_results import CellRecord, Half, MatrixReport, Stage, table_of
from deploykit.writing import make_folder, write_text

MARK = "sweep.json"
"""A folder without it is not ours to write into."""

FAILED = frozenset({2, 4, 5, 6, 70})
"""Exit codes that are no gate's answer."""

Retry = Literal["none", "failed"]


@dataclass(frozen=True)
class SweepRequest:
    """What to sweep over, and how.

    Attributes:
        folder: takes records, bundles, logs and the table.
        engine: name of a plugin in `sweep/`; `jobs` and `address` are its options.
        bench: latency is measured, too.
        bundles: they are kept; else a cell leaves only its record.
        fresh: what earlier runs found out is thrown away.
        retry: `failed` runs those cells again that could not be carried out (exit code 4 or graver).
    """

    matrix: Path
    folder: Path
    engine: str = "local"
    jobs: int = 0
    address: str = ""
    bench: bool = True
    bundles: bool = True
    fresh: bool = False
    retry: Retry = "none"


def sweep(request: SweepRequest, progress: Progress) -> MatrixReport:
    """Run what is not done yet; writes the records, and `table.json`, `table.md` and `table.csv` at the end.

    Raises:
        UsageError: the matrix is wrong, or something else is in the folder.
        WorkError: PACKAGE_MISSING; or the engine cannot be had, or is lost.
        StorageError: LOCKED, another sweep works in the folder; or it cannot be written.
    """
    clock = time.monotonic()
    engine = registry.load("sweep", request.engine)(jobs=request.jobs, address=request.address)
    if reason := engine.unavailable():
        hint = f"pip install 'deploykit[{request.engine}]', or run here: --engine local"
        raise WorkError(f"--engine {request.engine}", reason, hint, "PACKAGE_MISSING")
    cells = matrix.read(request.matrix)
    packages = versions()
    planned = [plan(cell, matrix.home(request.matrix), packages) for cell in cells]
    _check_keys(planned)
    with _held(request):
        state = _State(request, planned, progress)
        if state.unproved or state.unmeasured:
            with engine.opened(request.folder) as session:
                state.run(session)
        found = state.report(time.monotonic() - clock)
        _write_tables(request.folder, found)
    return found


def _check_keys(planned: list[Planned]) -> None:
    """Two cells that are the same are a slip of the pen: the second would be the first one's copy."""
    seen: dict[str, Planned] = {}
    for one in planned:
        if (other := seen.setdefault(one.content, one)) is not one:
            message, hint = f"is the same as {other.cell.label}", "take one away, or change what it is to differ in"
            raise UsageError(one.cell.label, message, hint, "BAD_MATRIX")


def _marked(folder: Path) -> bool:
    """Whether a sweep wrote its mark there; a file of that name may be anybody's."""
    try:
        mark = strict_json.parse((folder / MARK).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(mark, dict) and mark.keys() == {"schema", "matrix"}


@contextmanager
def _held(request: SweepRequest) -> Iterator[None]:
    """The sweep's folder, ours alone until the end of the block.

    Raises:
        UsageError: EXISTS, something else is there.
        StorageError: LOCKED, or it cannot be written.
    """
    folder, subject = request.folder, str(request.folder)
    hint = "choose another folder with -o"
    try:
        if folder.is_dir() and not _marked(folder) and any(folder.iterdir()):
            raise UsageError(subject, "something that is no sweep is there", hint, "EXISTS")
        make_folder(folder)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(subject, "a file is where a directory should be", hint, "EXISTS") from error
    except OSError as error:
        raise from_os_error(error, subject) from error
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        hint = "wait for it, or choose another folder with -o"
        raise StorageError(subject, "another sweep is at work there", hint, "LOCKED") from error
    except OSError as error:
        raise from_os_error(error, subject) from error
    try:
        if request.fresh:
            for name in ("cells", "bundles", "logs", "store"):
                shutil.rmtree(folder / name, ignore_errors=True)
        write_text(folder / MARK, json.dumps({"schema": 1, "matrix": request.matrix.name}) + "\n")
        for name in ("cells", "bundles", "logs"):
            make_folder(folder / name)
        yield
    except OSError as error:
        raise from_os_error(error, error.filename or subject) from error
    finally:
        lock.release()


@dataclass
class _State:
    """What is known of each cell, and what is left to do."""

    request: SweepRequest
    planned: list[Planned]
    progress: Progress
    records: dict[str, CellRecord] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for one in self.planned:
            if (record := self._stored(one)) is not None:
                self.records[one.key] = record

    @property
    def unproved(self) -> list[Planned]:
        """Cells without a first half."""
        return [one for one in self.planned if one.key not in self.records]

    @property
    def unmeasured(self) -> list[Planned]:
        """Cells whose bundle is there to be measured, and is not yet."""
        return [one for one in self.planned if self.request.bench and self._measurable(self.records.get(one.key))]

    def run(self, session: Session) -> None:
        """First halves, then second ones; each is recorded as it ends."""
        for stage, title in (("prove", "export and verify"), ("measure", "bench")):
            cells = self.unproved if stage == "prove" else self.unmeasured
            if not cells:
                continue
            self.progress.stage(title, len(cells))
            bring = self.request.bundles or (stage == "prove" and self.request.bench)
            place = self.request.folder.absolute()  # commands run in the matrix's folder
            session.run([one.job(_stage(stage), place, bring=bring) for one in cells], self._heard)
        shutil.rmtree(self.request.folder / "store", ignore_errors=True)  # all of it lies in the bundles now

    def report(self, seconds: float) -> MatrixReport:
        """The table, in the order of the matrix."""
        cells = tuple(replace(self.records[one.key], reused=one.key not in self.touched) for one in self.planned)
        stale = sum(1 for _ in (self.request.folder / "cells").glob("*.json")) - len(cells)
        if stale > 0:
            self.notes.append(f"{stale} records of other cells lie in the folder, from another matrix or other files")
        self.notes += report.notes(cells)
        return MatrixReport(
            self.request.matrix.name,
            self.request.engine,
            gravest(record.exit_code for record in cells),
            self.request.bench,
            cells,
            table_of(cells),
            len(self.touched),
            len(cells) - len(self.touched),
            tuple(self.notes),
            round(seconds, 1),
        )

    def _heard(self, job: Job, half: Half) -> None:
        one = next(one for one in self.planned if one.key == job.key)
        if job.stage == "prove":
            made = (job.bundle / MANIFEST).is_file()
            record = CellRecord(
                job.key,
                one.cell.model,
                one.cell.setting,
                str(one.recipe["source"]),
                half,
                bundle=one.folder if made else None,
                engine=self.request.engine,
            )
        else:
            record = replace(self.records[job.key], measure=half)
        if not self.request.bundles and (job.stage == "measure" or not self._measurable(record)):
            shutil.rmtree(job.bundle.parent, ignore_errors=True)
            record = replace(record, bundle=None)
        write_text(self._file(job.key), to_json(record))
        self.records[job.key] = record
        self.touched.add(job.key)
        self.progress.step(f"{job.label}: {report.outcome(half)} ({half.seconds:.0f} s)")

    def _measurable(self, record: CellRecord | None) -> bool:
        """Something was made, and what could be said of it is not all that there will be."""
        return record is not None and record.bundle is not None and _unmeasured(record)

    def _stored(self, one: Planned) -> CellRecord | None:
        """What an earlier run found out; None when there is nothing, or it is to be done again."""
        file = self._file(one.key)
        if not file.is_file():
            return None
        try:
            record: CellRecord = from_data(CellRecord, strict_json.parse(file.read_bytes()))
        except (ValueError, RecursionError):
            self.notes.append(f"{one.cell.label}: its record could not be read; it was run again")
            return None
        retried = FAILED if self.request.retry == "failed" else frozenset[int]()
        if record.prove.exit_code in retried or record.key != one.key:
            return None
        if record.measure is not None and record.measure.exit_code in retried:
            record = replace(record, measure=None)
        if record.bundle is not None and not (self.request.folder / record.bundle / MANIFEST).is_file():
            record = replace(record, bundle=None)
        if self.request.bench and record.bundle is None and _unmeasured(record):
            return None
        return replace(record, model=one.cell.model, setting=one.cell.setting)

    def _file(self, key: str) -> Path:
        return self.request.folder / "cells" / f"{key}.json"


def _unmeasured(record: CellRecord) -> bool:
    """Whether variants were judged and never measured."""
    judged = any(row.verdict in {"pass", "fail", "inconclusive"} for row in record.prove.rows)
    return judged and record.measure is None


def _stage(name: str) -> Stage:
    return "prove" if name == "prove" else "measure"


def _write_tables(folder: Path, found: MatrixReport) -> None:
    for name, text in (
        ("table.json", to_json(found)),
        ("table.md", report.markdown(found)),
        ("table.csv", report.csv(found)),
    ):
        write_text(folder / name, text)
