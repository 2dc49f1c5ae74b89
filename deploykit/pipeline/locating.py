"""Where did it go wrong? Takes a failed variant through the stages: capture, conversion, runtime, precision."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.bundle import WEIGHTS, CaseRecord, VariantRecord
from deploykit.errors import DeploykitError
from deploykit.finished import SOURCES
from deploykit.isolation import Pool
from deploykit.lines import LINES, Line, Lines
from deploykit.parity.diagnose import DEGENERATE
from deploykit.pipeline import quantized
from deploykit.pipeline.judging import Gate
from deploykit.reference import Case, save_arrays
from deploykit.results import Location, Stage, VariantReport
from deploykit.signature import Feeds

ROWS = 4
"""Rows of the failing case that a search looks at, the worst ones: enough to see a fault, few enough to be quick."""

SECONDS = 120.0
"""Wall time for one step of a search: it comes on top of a verdict that stands already."""

KEPT = 5
"""Nodes that are proposed to stay in float, at most: with more the variant loses its point."""

CAPTURED, CONVERTED = "torch-export", "onnx"
"""Variants that tell the stages apart: the captured program itself, and its conversion."""


def locate(
    gate: Gate,
    record: VariantRecord,
    artifact: Path,
    pool: Pool,
    report: VariantReport,
    *,
    trusted: bool,
    reproduce: Path | None,
) -> Location | None:
    """Where `record` starts to differ from eager.

    Args:
        gate: the bundle's reference.
        record: the variant that failed; its `made_by` may be `elsewhere`.
        artifact: its file.
        pool: gives children.
        report: what the gate said.
        trusted: the bundle's own code-carrying variants may be run.
        reproduce: folder that receives a reproducer as `<variant>/`; None for none.

    Returns:
        None when no case failed that could be looked into. A search that fails says so in `evidence`.
    """
    case = _failing(gate, report)
    if case is None:
        return None
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        search = _Search(gate, record, artifact, pool, case, trusted, reproduce, Path(folder))
        try:
            return search.location()
        except DeploykitError as error:
            return Location(search.stage, evidence=f"the search failed on {case.id}: {error.message}")


def _failing(gate: Gate, report: VariantReport) -> CaseRecord | None:
    """The failed case that shows most at the least cost.

    One with values before one with a pattern only, ordinary inputs before constants, about `ROWS` rows before many. A
    variant that failed on a statistic has no failed case: its first real one stands for it.
    """
    failed = {check.id for check in report.checks if check.verdict == "fail"}
    found = [record for record in gate.records if record.id in failed and not record.layout]
    if found:
        return min(found, key=_cost)
    if any(record.id in failed for record in gate.records):
        return None
    return next((record for record in gate.records if record.gate == "full" and not record.layout), None)


def _cost(record: CaseRecord) -> tuple[bool, bool, int]:
    return record.gate != "full", record.input_class in DEGENERATE, abs((record.rows or ROWS) - ROWS)


@dataclass
class _Search:
    gate: Gate
    record: VariantRecord
    artifact: Path
    pool: Pool
    failed: CaseRecord
    trusted: bool
    reproduce: Path | None
    folder: Path
    stage: Stage = field(default="CONVERSION", init=False)

    def location(self) -> Location:
        """The first stage that is wrong, searched as deep as it goes."""
        if self.record.precision != "fp32" and not self._is_source:
            self.stage = "QUANTIZATION"
            return self._quantization()
        if self.record.runtime != "onnxruntime":
            self.stage = "CAPTURE"
            return self._capture(self.record)
        if self._right(self.record, self.artifact, "disable"):
            self.stage = "RUNTIME"
            return self._runtime()
        sound = self._sound_onnx()
        program = self._made(CAPTURED) if self.trusted and sound is None else None
        if program is not None and not self._right(program, self._file(program)):
            self.stage = "CAPTURE"
            return self._capture(program)
        return self._conversion(sound, program)

    # -- stages ------------------------------------------------------------------------------------------------

    def _capture(self, program: VariantRecord) -> Location:
        """The captured program is wrong already: nothing behind it has to be looked at."""
        where = "" if program is self.record else f"{program.name} is wrong on it, too; "
        evidence = f"{self.failed.id}: {where}what was captured is not what eager computes"
        if baked := str(program.facts.get("baked") or self._baked()):
            kind, _, source = baked.partition(",")[0].partition(" at ")
            evidence = f"{self.failed.id}: {where}tracing made constants of Python values ({baked})"
            return Location("CAPTURE", operator=kind, source=source, evidence=evidence)
        wrong = self._wrong_weights(program)
        if not wrong:
            return Location("CAPTURE", evidence=evidence)
        first = next(iter(wrong))
        readers = (name for name, line in self.lines.captured.items() if first in line.parameters)
        value = next(readers, "")
        line = self.lines.captured.get(value, Line())
        place = _at(line, Location("CAPTURE", value, line.operator, born=True))
        return replace(place, evidence=f"{evidence}; {wrong[first]}")

    def _wrong_weights(self, program: VariantRecord) -> dict[str, str]:
        """Parameters of a captured program that are not the source's; a traced one has no names for them."""
        weights = self.gate.bundle.path / WEIGHTS
        if program.runtime != CAPTURED or not weights.is_file():
            return {}
        path = self.artifact if program is self.record else self._file(program)
        found: dict[str, str] = self.pool.worker("torch").call(
            "localizing:weights", timeout_s=SECONDS, artifact=str(path), weights=str(weights)
        )
        return found

    def _baked(self) -> str:
        """What the tracer said, when a traced variant of the bundle recorded it."""
        facts = (record.facts.get("baked") for record in self.gate.bundle.manifest.variants)
        return next((str(found) for found in facts if found), "")

    def _runtime(self) -> Location:
        evidence = f"{self.failed.id}: right with graph optimizations off, wrong with them on"
        found = self.pool.worker("onnxruntime").call(
            "localizing:rewriting",
            timeout_s=SECONDS,
            artifact=str(self.artifact),
            feeds=str(self._feeds),
            expected=str(self._expected),
            title=f"variant {self.record.name}",
            reproduce=self._target,
        )
        if not found:
            return Location("RUNTIME", evidence=f"{evidence}; a few rows of it do not show it")
        evidence += f", from level {found['level']}"
        if found["optimizers"]:
            evidence += f"; right without {', '.join(found['optimizers'])}"
        value = str(found.get("value", ""))
        place = self._place(value, Location("RUNTIME", value, str(found.get("operator", ""))))
        born = True if value else None
        return replace(place, born=born, evidence=evidence, reproducer=found.get("reproducer"))

    def _conversion(self, sound: Path | None, program: VariantRecord | None) -> Location:
        if sound is not None:
            known, how = self._base(sound), f"against the values of the bundle's {CONVERTED}"
        elif program is not None:
            known, how = self._reference(program), "against the captured program, value by value"
        elif self._is_source:
            evidence = f"{self.failed.id}: wrong with graph optimizations off, too; {self.record.facts.get('origin')}"
            return Location("CONVERSION", evidence=f"{evidence}: it no longer computes what the source file did")
        else:
            why = "it may run code" if self._made(CAPTURED) else "the bundle has none"
            evidence = f"{self.failed.id}: wrong with graph optimizations off; capture and conversion cannot be told "
            return Location("CONVERSION", evidence=f"{evidence}apart without {CAPTURED} ({why})")
        found = self._find(known, sound)
        if not found["matched"]:
            return Location("CONVERSION", evidence=f"{self.failed.id}: no value of the graph has a name known here")
        if "value" not in found:
            seen = f"{found['matched']} of {found['values']} values"
            return Location("CONVERSION", evidence=f"{self.failed.id}: none of {seen} is bad on its own; errors add up")
        return self._told(found, how)

    def _quantization(self) -> Location:
        base = self._made(CONVERTED)
        if base is None or self.record.runtime != "onnxruntime":
            return Location("QUANTIZATION", evidence=f"the bundle has no {CONVERTED} to compare values with")
        minimum = self.gate.budget(self.record).min_sqnr_db
        found = self._find(self._base(self._file(base)), self._file(base), minimum_db=minimum)
        keep = self._ranked()
        if "value" not in found:
            evidence = f"{self.failed.id}: no value inside is under {minimum:g} dB; the loss is at the output"
            return Location("QUANTIZATION", evidence=evidence, keep_float=keep)
        place = self._place(found["value"], Location("QUANTIZATION", found["value"], found["operator"]))
        evidence = (
            f"{self.failed.id}: {_db(found['cumulative'])} is under {minimum:g} dB; on the inputs of {CONVERTED} "
            f"alone {_db(found['local'])}"
        )
        return replace(place, born=found["born"], evidence=evidence, keep_float=keep)

    def _ranked(self) -> tuple[str, ...]:
        """Nodes whose precision costs most, worst first."""
        try:
            ranked = quantized.rank(self.gate, self.record, self.artifact, self.pool, (self.failed.id,))
        except DeploykitError:
            return ()  # the place is known; only the proposal is missing
        nodes = (node for entry in ranked if entry.gain_db > 0.0 for node in entry.keep)
        return tuple(dict.fromkeys(nodes))[:KEPT]

    def _told(self, found: dict[str, Any], how: str) -> Location:
        """One line of evidence from the numbers of a search."""
        missing = found["missing"]
        value, operator = (missing[0][0], missing[0][1]) if missing else (found["value"], found["operator"])
        texts = [f"{self.failed.id}, {how}"]
        if missing:
            texts.append(f"{operator} is not in the graph, {found['value']} reads past it")
        texts.append(f"on right inputs {_times(found['local'])} its noise")
        if "after" in found:
            fall = f"{float(found['before']):.2g} to {float(found['after']):.2g}"
            texts.append(f"put right, the outputs' relative error falls from {fall}")
        if others := found["others"]:
            texts.append(f"bad on their own, too: {', '.join(others[:3])}{'…' * (len(others) > 3)}")
        texts += found["notes"]
        place = self._place(value, Location("CONVERSION", value, operator))
        return replace(place, born=found["born"], evidence="; ".join(texts), reproducer=found.get("reproducer"))

    def _place(self, value: str, location: Location) -> Location:
        return _at(self.lines.of(value) if value else Line(), location)

    # -- what the stages ask -----------------------------------------------------------------------------------

    def _made(self, name: str) -> VariantRecord | None:
        """The bundle's variant of that name, when it was made."""
        variants = self.gate.bundle.manifest.variants
        return next((record for record in variants if record.name == name and record.file is not None), None)

    def _file(self, record: VariantRecord) -> Path:
        return self.gate.bundle.path / str(record.file)

    def _sound_onnx(self) -> Path | None:
        """The bundle's own ONNX file, when another one is in question and this one is right."""
        base = self._made(CONVERTED)
        if base is None or self._file(base) == self.artifact:
            return None
        return self._file(base) if self._right(base, self._file(base), "disable") else None

    def _right(self, record: VariantRecord, artifact: Path, level: str = "all") -> bool:
        """Whether the failed case passes for another artifact, or at another graph level."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            answers = self.gate.answers(
                record, artifact, self.pool, Path(folder), cases=(self.failed.id,), graph_level=level
            )
            return all(check.verdict != "fail" for check in self.gate.judged(record, answers).checks)

    def _reference(self, program: VariantRecord) -> dict[str, Any]:
        wanted = sorted({*self.lines.values.values()})
        answer: dict[str, Any] = self.pool.worker("torch").call(
            "localizing:reference",
            timeout_s=SECONDS,
            artifact=str(self._file(program)),
            feeds=str(self._feeds),
            input_names=[spec.name for spec in self.gate.bundle.manifest.signature.inputs],
            wanted=wanted,
            folder=str(self.folder),
        )
        return answer

    def _base(self, artifact: Path) -> dict[str, Any]:
        answer: dict[str, Any] = self.pool.worker("onnxruntime").call(
            "localizing:base",
            timeout_s=SECONDS,
            artifact=str(artifact),
            feeds=str(self._feeds),
            folder=str(self.folder),
        )
        return answer

    def _find(self, known: dict[str, Any], sound: Path | None, minimum_db: float | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = self.pool.worker("onnxruntime").call(
            "localizing:find",
            timeout_s=SECONDS,
            artifact=str(self.artifact),
            feeds=str(self._feeds),
            expected=str(self._expected),
            index=known["index"],
            folder=str(self.folder),
            lines=str(self.gate.bundle.path / LINES),
            weights=str(self.gate.bundle.path / WEIGHTS),
            title=f"variant {self.record.name}",
            sound=str(sound) if sound else None,
            minimum_db=minimum_db,
            reproduce=self._target,
        )
        return answer

    @property
    def _is_source(self) -> bool:
        """Whether the variant is the file that was the source: no stage of deploykit's lies before it."""
        return SOURCES.get(self.gate.bundle.manifest.source.spec.kind) == self.record.made_by

    @property
    def _target(self) -> str | None:
        return str(self.reproduce / self.record.name) if self.reproduce else None

    @cached_property
    def lines(self) -> Lines:
        """Source lines of the bundle; empty for older ones."""
        return Lines.load(self.gate.bundle.path / LINES)

    @cached_property
    def case(self) -> Case:
        """The failed case, at most `ROWS` rows of it."""
        case = self.gate.case(self.failed)
        if not case.rows or case.rows <= ROWS:
            return case
        rows = self._worst(case)
        kept = {name: _of(array, rows, case.rows) for name, array in case.inputs.items()}
        expected = {name: _of(array, rows, case.rows) for name, array in case.expected.items()}
        return replace(case, rows=len(rows), inputs=kept, expected=expected)

    def _worst(self, case: Case) -> list[int]:
        """Rows with the largest error, in order; the first ones when the variant does not answer."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            answers = self.gate.answers(self.record, self.artifact, self.pool, Path(folder), cases=(case.id,))
            found = answers.of(case.id)
            error = np.zeros(case.rows or 0)
            for name, expected in case.expected.items() if isinstance(found, dict) else ():
                actual = found.get(name) if isinstance(found, dict) else None
                if actual is None or actual.shape != expected.shape or expected.shape[:1] != (case.rows,):
                    continue
                with np.errstate(invalid="ignore", over="ignore"):
                    off = np.abs(actual.astype(np.float64) - expected.astype(np.float64)) ** 2
                error += np.nan_to_num(off.reshape(len(off), -1).sum(axis=1), nan=np.inf)
        return sorted(int(row) for row in np.argsort(-error, kind="stable")[:ROWS])

    @cached_property
    def _feeds(self) -> Path:
        return self._saved("feeds", self.case.inputs)

    @cached_property
    def _expected(self) -> Path:
        return self._saved("expected", self.case.expected)

    def _saved(self, name: str, arrays: Feeds) -> Path:
        path = self.folder / f"{name}.safetensors"
        save_arrays(arrays, path)
        return path


def _at(line: Line, location: Location) -> Location:
    return replace(location, module=line.module, source=line.source)


def _of(array: np.ndarray[Any, Any], rows: list[int], count: int) -> np.ndarray[Any, Any]:
    return array[rows] if array.shape[:1] == (count,) else array


def _times(value: Any) -> str:
    number = float(value)
    return "beyond all of" if not np.isfinite(number) else f"{number:.2g}×"


def _db(value: Any) -> str:
    return f"{float(value):.1f} dB"
