"""`--self-check`: put mutants of a variant through the same gate, within a budget of time.

Every mutant is tried on a few cheap cases first; only one that gets through these is held to the rest of the gate.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deploykit import registry
from deploykit.bundle import CaseRecord, VariantRecord
from deploykit.errors import DeploykitError, RefusedError, WorkError
from deploykit.isolation import Pool
from deploykit.mutation import make
from deploykit.mutation.faults import Site
from deploykit.parity import judge, selfcheck
from deploykit.parity.budget import budget_for
from deploykit.parity.scale import IN_DISTRIBUTION
from deploykit.pipeline.judging import Answers, Gate
from deploykit.results import Check, Mutant, SelfCheck

Examine = Callable[[Path, Answers], Iterable[Check]]
"""What the gate asks of a file and its own answers beside their values, such as the integrity of quantized weights."""

_FAILED = (WorkError, RefusedError)
"""What a mutant may do to whoever reads it. A full disk, a wrong request and a bug are not about the mutant."""

MIN_TRIED = 4
"""Mutants that are always tried, whatever they cost."""

SHARE, FLOOR_S = 0.2, 1.0
"""Of verify's own time for the variant, and seconds on top of it."""

SEARCH_FROM, SEARCH_RUNS = 7, 6
"""First guess for the smallest visible change of a weight, 2⁻⁷ ≈ 0.8 %, and most runs spent on finding it."""

FINEST = 24
"""A relative change of 2⁻²⁴ is half a unit in the last place of float32: nothing smaller exists."""


def seconds_for(verify_s: float) -> float:
    """What a variant's self-check may cost: a fifth of what verify took for it, and a second."""
    return FLOOR_S + SHARE * verify_s


def self_check(
    gate: Gate,
    record: VariantRecord,
    artifact: Path,
    pool: Pool,
    answers: Answers,
    *,
    examine: Examine | None = None,
    seconds: float,
    seed: int = 0,
) -> SelfCheck:
    """Whether the gate can fail this variant.

    Args:
        gate: the one that judged it.
        record: of the variant.
        artifact: its file, which stays as it is.
        pool: gives the child.
        answers: the artifact's own answers to all cases, their files still there.
        examine: the rest of the gate, for a mutant's file.
        seconds: wall time; no mutant is started that would not fit, but `MIN_TRIED` are tried in any case.
        seed: chooses the mutants.

    Raises:
        DeploykitError: a copy cannot be written, or the artifact cannot be read; a mutant that no engine opens is a
            mutant that was caught.
    """
    with tempfile.TemporaryDirectory(prefix="deploykit-mutants-") as folder:
        run = _Run(gate, record, artifact, pool, answers, Path(folder), examine, time.perf_counter() + seconds)
        return run.whole(seed)


@dataclass(frozen=True)
class _Fate:
    """How far a mutant moved the answers, in budgets and in R, and the code it failed with; empty when it passed."""

    moved: float
    noise: float
    code: str


@dataclass
class _Run:
    """One variant's self-check.

    Attributes:
        deadline: of `time.perf_counter`.
        slowest: wall seconds of the slowest mutant so far.
        silent: mutants so far that got through and move the answers by eager's own rounding at most.
    """

    gate: Gate
    record: VariantRecord
    artifact: Path
    pool: Pool
    answers: Answers
    folder: Path
    examine: Examine | None
    deadline: float
    slowest: float = 0.0
    silent: int = 0
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        asked, default = self.gate.budget(self.record), budget_for(self.record.precision, self.gate.provider)
        indices = self.gate.bundle.manifest.reference.index_outputs
        self.unit = selfcheck.Unit(self.gate.scale, selfcheck.unit_budget(asked, default), tuple(indices))
        self.noise = selfcheck.Unit(self.gate.scale, selfcheck.noise_budget(), tuple(indices))
        self.loosened = asked.loosened
        self.cheap = _cheap(self.gate)
        self.every = tuple(case.id for case in self.gate.records)
        self.already: dict[tuple[str, ...], set[tuple[str, str, str]]] = {}

    def whole(self, seed: int) -> SelfCheck:
        """Every mutant that fits, then the search for the smallest change, then the verdict."""
        rows = next((case.rows for case in self.gate.records if case.id in self.cheap and case.rows), 2)
        try:
            planned = self._child(
                "mutating:plan", precision=self.record.precision, seed=seed, count=make.DOZEN, rows=rows
            )
        except _FAILED as error:  # an artifact in a layout that nobody here can edit
            planned = {"sites": [], "probe": "", "obstacle": error.message}
        mutants: list[Mutant] = []
        for entry in planned["sites"]:
            if len(mutants) >= MIN_TRIED and not self._fits():
                break
            if (mutant := self._tried(Site(**entry))) is not None:
                mutants.append(mutant)
        silent = self.silent
        searched = list(self._search(planned["probe"])) if planned["probe"] else []
        eager, needed = selfcheck.eager_sqnr_db(self.gate.scale, map(self.gate.case, self._judged()))
        smallest, place = _smallest([*mutants, *searched])
        spent = time.perf_counter() - self.started
        obstacle = planned.get("obstacle", "")
        probe = selfcheck.Probe(eager, needed, silent, smallest, place, self.loosened, spent, obstacle)
        return selfcheck.conclude(self.record.name, mutants, probe)

    def _judged(self) -> Iterable[CaseRecord]:
        return (case for case in self.gate.records if case.input_class in IN_DISTRIBUTION)

    def _fits(self) -> bool:
        return time.perf_counter() + self.slowest <= self.deadline

    def _child(self, step: str, **arguments: Any) -> Any:
        stack = registry.load("runtimes", self.record.runtime).stack
        runtime, artifact = self.record.runtime, str(self.artifact)
        return self.pool.worker(stack).call(step, artifact=artifact, runtime=runtime, **arguments)

    def _tried(self, site: Site) -> Mutant | None:
        """What the gate makes of one mutant; None when it could not be made, or changes nothing of round weights."""
        began = time.perf_counter()
        try:
            made = self._child("mutating:one", folder=str(self.folder), site=asdict(site))
        except _FAILED:
            return None
        if made["change"] == 0.0:
            return None
        fate = self._judge(Path(made["path"]))
        self.slowest = max(self.slowest, time.perf_counter() - began)
        self.silent += not fate.code and fate.noise <= 1.0
        place, caught = _told(made["place"]), bool(fate.code)
        equivalent = selfcheck.is_equivalent(fate.moved, caught=caught)
        return Mutant(site.fault, place, fate.moved, made["change"], caught, fate.code, equivalent)

    def _judge(self, path: Path) -> _Fate:
        """What the gate says to one mutant's file."""
        fate = self._asked(path, self.cheap, with_examination=True)
        rest = tuple(name for name in self.every if name not in self.cheap)
        if not fate.code and rest and (fate.moved >= selfcheck.KILLABLE or self._fits()):
            further = self._asked(path, self.every, with_examination=False)
            return _Fate(max(fate.moved, further.moved), max(fate.noise, further.noise), further.code)
        return fate

    def _asked(self, path: Path, cases: tuple[str, ...], *, with_examination: bool) -> _Fate:
        with tempfile.TemporaryDirectory(prefix="answers-", dir=self.folder) as folder:
            try:
                given = self.gate.answers(self.record, path, self.pool, Path(folder), cases=cases)
            except _FAILED as error:  # the engine does not open it, or died of it
                return _Fate(math.inf, math.inf, error.code)
            moved = noise = 0.0
            for case, answer in self.gate.pairs(given):
                original = self.answers.of(case.id)
                moved = max(moved, self.unit.moved(case, original, answer))
                noise = max(noise, self.noise.moved(case, original, answer))
            checks = self._concluded(given, path if with_examination else None)
        failed = [check for check in checks if check.verdict == "fail"]
        already = self._before(cases, with_examination=with_examination) if failed else set()
        found = [check for check in failed if _key(check) not in already]
        return _Fate(moved, noise, found[0].code if found else "")

    def _before(self, cases: tuple[str, ...], *, with_examination: bool) -> set[tuple[str, str, str]]:
        """What fails on these cases without any mutation: that is no evidence of sight."""
        if cases not in self.already:
            order = {case: names for case, names in self.answers.order.items() if case in cases}
            errors = {case: error for case, error in self.answers.errors.items() if case in cases}
            own = replace(self.answers, order=order, errors=errors)
            checks = self._concluded(own, self.artifact if with_examination else None)
            self.already[cases] = {_key(check) for check in checks if check.verdict == "fail"}
        return self.already[cases]

    def _concluded(self, answers: Answers, path: Path | None) -> list[Check]:
        """The checks of the whole gate: on the answers, and on the file where one is given."""
        found = judge.conclude(self.record.name, answers.provider, self.gate.judged(self.record, answers)).checks
        try:
            return [*found, *(self.examine(path, answers) if self.examine and path else ())]
        except _FAILED as error:
            return [*found, _unreadable(error)]

    def _search(self, place: str) -> Iterable[Mutant]:
        """Scale one weight by 1 + 2⁻ᵏ, closing in on the largest k that the gate still sees."""
        low, high, guess = 0, FINEST + 1, SEARCH_FROM
        for _ in range(SEARCH_RUNS):
            if high - low <= 1 or not self._fits():
                return
            mutant = self._tried(make.scaled(place, 2.0**-guess))
            if mutant is not None:
                yield mutant
            if mutant is not None and mutant.caught:
                low = guess
            else:
                high = guess
            guess = _next(guess, mutant.moved if mutant else 0.0, low, high)


def _next(guess: int, moved: float, low: int, high: int) -> int:
    """Where one budget would be moved if the answers followed the weight; the middle where that says nothing new."""
    if 0.0 < moved < math.inf:
        predicted = guess + int(moved).bit_length() - (1 if moved >= 1.0 else 2)
        if low < predicted < high:
            return predicted
    return (low + high) // 2


def _cheap(gate: Gate) -> tuple[str, ...]:
    """Ids of the first judged case, of one constant, and of the smallest case with another number of rows."""
    plain = [case for case in gate.records if not case.relation and not case.layout]
    judged = [case for case in plain if case.input_class in IN_DISTRIBUTION][:1]
    constant = [case for case in plain if case.input_class == "constant"][:1]
    rows = judged[0].rows if judged else None
    shapes = [case for case in plain if case.input_class == "shapes" and case.rows and case.rows != rows]
    return tuple(case.id for case in (*judged, *constant, *sorted(shapes, key=lambda case: case.rows or 0)[:1]))


def _key(check: Check) -> tuple[str, str, str]:
    return check.id, check.output, check.metric


def _unreadable(error: DeploykitError) -> Check:
    return Check("examine", "file", "", "fail", error.code, "runs", None, None, error.message)


def _smallest(mutants: Iterable[Mutant]) -> tuple[float | None, str]:
    """The smallest change of one weight tensor that was caught, with the tensor."""
    caught = [(mutant.change, mutant.place) for mutant in mutants if mutant.caught and mutant.change]
    return min(caught, default=(None, ""))


def _told(place: str) -> str:
    """A place in the program without the folders of the archive."""
    entry, at, offset = place.rpartition("@")
    return f"{entry.rpartition('/')[2]}{at}{offset}" if at else place
