"""Judging one variant's answers against the reference: cases in, checks and a verdict out. Pure numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from deploykit.distances import rms, rmse
from deploykit.parity import compare, indices, masking
from deploykit.parity.budget import Budget
from deploykit.parity.decisions import Decisions
from deploykit.parity.ledger import Ledger
from deploykit.parity.narrowing import Narrowing
from deploykit.parity.relations import Relations
from deploykit.parity.scale import IN_DISTRIBUTION, Scale, truth
from deploykit.parity.values import Values
from deploykit.reference import Case, IndexOutput, Noise, accurate
from deploykit.results import EXIT_OF, Check, CheckVerdict, VariantReport, VariantVerdict
from deploykit.signature import Feeds

UNUSUAL = {"non-finite", "straddle", "extreme", "outlier"}
"""Classes on which reduced precision may overflow, and integer arithmetic has no NaN: a difference there is told."""

CAUSES = ("WEIGHT_INTEGRITY", "FP16_RANGE", "MASKED_ROW_SEMANTICS", "STATE_LOST", "BATCH_DEPENDENCE")
"""Codes that name a cause: they speak for a variant before any that only says what differs."""


@dataclass(frozen=True)
class Failure:
    """A case that the session could not answer: code and message of its error."""

    code: str
    message: str


@dataclass
class Judge:
    """Collects the checks of one variant, case by case.

    Attributes:
        scale: sizes that the reference alone gives.
        budget: the limits; `by_output` those of single outputs that the user changed.
        related: ids of cases that others refer to.
        masks: inputs that hide positions.
        index_outputs: outputs that are indices, where eager's scores are stored.
        swallows: an operator of the artifact whose kernel is known to turn NaN into numbers; empty when there is none.
        swapped: outputs that fit when they change places, in words; empty when none do.
        forms: shapes of the inputs by case: what the diagnosis looks at.
        narrowing: whether wrong rows are those with large integers: the same.
    """

    scale: Scale
    budget: Budget
    by_output: Mapping[str, Budget] = field(default_factory=dict)
    related: frozenset[str] = frozenset()
    masks: tuple[str, ...] = ()
    index_outputs: Mapping[str, IndexOutput] = field(default_factory=dict)
    swallows: str = ""
    ledger: Ledger = field(default_factory=Ledger)
    decisions: Decisions | None = None
    swapped: str = ""
    forms: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    narrowing: Narrowing = field(default_factory=Narrowing)

    def __post_init__(self) -> None:
        self.values = Values(self.scale, self.ledger)
        self.relations = Relations(self.scale, self.ledger, self.related)
        if (output := self.scale.classifier) is not None:
            self.decisions = Decisions(output, self.budget_of(output), self.scale, self.values)

    @property
    def checks(self) -> list[Check]:
        """Everything marked so far."""
        return self.ledger.checks

    def budget_of(self, output: str) -> Budget:
        """The limits of one output."""
        return self.by_output.get(output, self.budget)

    def loosened(self) -> list[str]:
        """Every limit that the user widened, those of single outputs with their name."""
        own = [
            f"{name}: {note}"
            for name, budget in self.by_output.items()
            for note in budget.loosened
            if note not in self.budget.loosened
        ]
        return [*self.budget.loosened, *own]

    def add(self, case: Case, answer: Feeds | Failure) -> None:
        """Judge one case; `answer` holds the outputs in the order in which the session gave them."""
        self.forms[case.id] = tuple(array.shape for array in case.inputs.values())
        if case.gate == "outside" and self._outside(case, answer):
            return
        if isinstance(answer, Failure):
            self.ledger.mark(case, "", "fail", answer.code, "runs", None, None, answer.message)
            return
        if mismatch := compare.structure(tuple(case.expected), tuple(answer)):
            self.ledger.fail(case, mismatch)
            answer = {name: array for name, array in answer.items() if name in case.expected}
        marked = len(self.checks)
        if not case.relation.startswith("repeats:"):  # judged the first time
            for name, actual in answer.items():
                self._output(case, name, actual)
        self._look_for_swaps(case, answer, self.checks[marked:])
        self.relations.add(case, answer, self.budget_of)
        if self.decisions and self.decisions.output in answer and case.input_class in IN_DISTRIBUTION:
            self.decisions.add(case, answer[self.decisions.output])

    def _outside(self, case: Case, answer: Feeds | Failure) -> bool:
        """Whether a case outside the declared range is settled: refused, or answered where eager refuses."""
        if isinstance(answer, Failure) and answer.code == "WORKER_CRASHED":
            reason = f"outside the declared range the engine takes the whole process down: {answer.message}"
            self.ledger.mark(case, "", "warn", "GUARD_LOST", "refused", 0.0, 0.0, reason)
        elif isinstance(answer, Failure):
            self.ledger.mark(case, "", "pass", "", "refused", 0.0, 0.0, "refused, as it is outside the declared range")
        elif not case.expected:
            reason = "outside the declared range eager refuses and the variant answers"
            # an empty batch is nobody's declared limit
            verdict: CheckVerdict = "warn" if case.rows == 0 else "fail"
            self.ledger.mark(case, "", verdict, "GUARD_LOST", "answered", 1.0, 0.0, reason)
        else:
            return False
        return True

    def _output(self, case: Case, name: str, actual: np.ndarray) -> None:
        expected = case.expected[name]
        if mismatch := compare.form(name, expected, actual):
            self.ledger.fail(case, mismatch)
            return
        if expected.dtype.kind not in "fc":
            self._exact(case, name, actual)
            return
        case, actual = self._settled(case, name, actual)
        expected = case.expected[name]
        if mismatch := compare.pattern(name, expected, actual):
            same_places = np.array_equal(np.isfinite(expected), np.isfinite(actual))
            self._pattern(case, mismatch, compare.spoiled_rows(expected, actual), kinds_only=same_places)
        elif not expected.size:
            self.ledger.mark(case, name, "pass", "", "different", 0.0, 0.0, "empty, as eager's")
        elif case.gate == "pattern":
            self._clean_rows(case, name, actual)
        else:
            self.values.grade(case, name, actual, self.budget_of(name))

    def _settled(self, case: Case, name: str, actual: np.ndarray) -> tuple[Case, np.ndarray]:
        """The part of the output that is held to eager: valid positions, where eager is right, and off the edges."""
        if self.masks:
            case, actual = self._unmasked(case, name, actual)
        if case.gate == "accurate" and name in case.expected64:
            right = accurate(case.expected[name], case.expected64[name])
            case, actual = _chosen(case, name, actual, right, case.noise.get(name, Noise(None)).fp32 or 0.0)
        if name in case.near:
            actual = self._off_the_edges(case, name, actual)
        return case, actual

    def _unmasked(self, case: Case, name: str, actual: np.ndarray) -> tuple[Case, np.ndarray]:
        """Positions that no mask hides; what is hidden is compared, too, and told when it differs."""
        shape = case.expected[name].shape
        shown = [case.inputs[mask].astype(bool) for mask in self.masks if case.inputs[mask].ndim]
        valid = np.all([masking.valid(mask, shape) for mask in shown], axis=0) if shown else np.ones(shape, bool)
        if valid.all():
            return case, actual
        whole = np.any([masking.hidden_rows(mask, shape) for mask in shown], axis=0)
        limit = 2.0 * self.values.allowed(case, name, self.budget_of(name))
        target = truth(case, name)
        # a row that only the campaign hides whole may be answered otherwise, but not with NaN for a number
        own = case.input_class in {"real", "example"} or masking.breaks(target[whole], actual[whole])
        reasons: tuple[tuple[CheckVerdict, np.ndarray, str], ...] = (
            ("fail" if own else "warn", whole, "a fully masked row is answered otherwise"),
            ("warn", ~valid & ~whole, "hidden positions differ"),
        )
        for verdict, part, reason in reasons:
            if count := masking.differences(target[part], actual[part], limit):
                code, metric = "MASKED_ROW_SEMANTICS", "hidden_differences"
                self.ledger.mark(case, name, verdict, code, metric, float(count), 0.0, reason)
        return _chosen(case, name, actual, valid)

    def _off_the_edges(self, case: Case, name: str, actual: np.ndarray) -> np.ndarray:
        """Elements on the other side of an edge count as right: eager gives that value a hair away from the input."""
        target, limit = truth(case, name), self.values.allowed(case, name, self.budget_of(name))
        beside = np.min([compare.distance(side, actual) for side in case.near[name]], axis=0)
        crossed = (compare.distance(target, actual) > limit) & (beside <= limit)
        if not crossed.any():
            return actual
        count = int(np.count_nonzero(crossed))
        reason = f"{count} of {crossed.size} elements sit on a step: eager gives the same a hair beside the input"
        self.ledger.mark(case, name, "warn", "DISCONTINUITY", "on_an_edge", float(count), 0.0, reason)
        settled: np.ndarray = np.where(crossed, target.astype(actual.dtype), actual)
        return settled

    def _exact(self, case: Case, name: str, actual: np.ndarray) -> None:
        """Integers and bools: equal, or indices of equal scores, or on the other side of an edge."""
        mismatch = compare.exact(name, case.expected[name], actual)
        if mismatch is None:
            self.ledger.mark(case, name, "pass", "", "different", 0.0, 0.0, "exact")
            return
        if name in case.scores and name in self.index_outputs and self._indices(case, name, actual):
            return
        if name in case.near:
            wrong = case.expected[name] != actual
            beside = (case.near[name][0] == actual) | (case.near[name][1] == actual)
            if not (wrong & ~beside).any():
                reason = "every difference sits on a step: eager gives the same a hair beside the input"
                self.ledger.differ(case, replace(mismatch, code="DISCONTINUITY"), "warn", reason)
                return
        if case.input_class == "non-finite":
            self._pattern(case, replace(mismatch, code="NAN_PATTERN"), 0, kinds_only=False)
            return
        self.narrowing.add(case, case.expected[name] != actual)
        self.ledger.fail(case, mismatch)

    def _indices(self, case: Case, name: str, actual: np.ndarray) -> bool:
        """Whether the scores behind the indices settle the matter."""
        budget = self.budget_of(name)
        spread = max(case.score_noise.get(name, 0.0), 2.0**-24 * rms(case.scores[name]))
        allowed = 2.0 * 4.0 * (budget.max_r or 0.0) * spread
        found = indices.picked(case, name, self.index_outputs[name], actual, allowed)
        if found is None:
            return False
        if budget.max_r is None and case.input_class != "non-finite":  # reduced precision may reorder what is close
            verdict: CheckVerdict = "warn" if found.wrong <= budget.max_flips * found.count else "fail"
            reason = f"{found.wrong} of {found.count} indices differ, {found.tied} between ties; {found.first}"
            self.ledger.mark(case, name, verdict, "VALUE_MISMATCH", "index_flips", found.wrong, None, reason)
            return True
        if found.wrong:
            return False
        reason = f"{found.tied} of {found.count} indices differ where scores are equal"
        self.ledger.mark(case, name, "pass", "TIE", "different", 0.0, 0.0, reason)
        return True

    def _clean_rows(self, case: Case, name: str, actual: np.ndarray) -> None:
        """Same non-finite pattern; now the rows that eager keeps finite must not have felt their neighbours."""
        expected = case.expected[name]
        clean = np.isfinite(expected).reshape(len(expected), -1).all(axis=1) if expected.ndim else np.array(False)
        if not clean.any():
            self.ledger.mark(case, name, "pass", "", "different", 0.0, 0.0, "same non-finite pattern")
            return
        left = replace(case, gate="full", expected={name: expected[clean]}, expected64={}, rows=None, noise={})
        budget = self.budget_of(name)
        if budget.max_r is not None or budget.strict_pattern:
            self.values.grade(left, name, actual[clean], budget)

    def _pattern(self, case: Case, mismatch: compare.Mismatch, spoiled: int, *, kinds_only: bool) -> None:
        """A wrong non-finite pattern fails; where the arithmetic has no NaN or no such range, it is told.

        So is NaN for infinity on an infinite input (`kinds_only`): what comes out is no number either way.
        """
        budget = self.budget_of(mismatch.output)
        poisoned = case.input_class == "non-finite"
        swallowed = poisoned and bool(self.swallows) and not spoiled
        excused = case.input_class in UNUSUAL and budget.max_r is None and not (poisoned and budget.strict_pattern)
        no_number = poisoned and kinds_only
        if not (swallowed or excused or no_number):
            self.ledger.fail(case, mismatch)
            return
        reason = "beyond the range of this precision"
        if no_number:
            reason = f"{mismatch.reason}; no number either way"
        elif swallowed:
            reason = f"the {self.swallows} kernel turns NaN into numbers"
        elif poisoned:
            reason = f"one bad sample spoils {spoiled} good ones in its batch" if spoiled else "integers have no NaN"
        self.ledger.differ(case, mismatch, "warn", f"{reason}: screen inputs before the model")

    def _look_for_swaps(self, case: Case, answer: Feeds, checks: list[Check]) -> None:
        """Whether failed outputs of one form fit when they change places."""
        failed = [check.output for check in checks if check.verdict == "fail" and check.output in answer]
        names = list(dict.fromkeys(failed))
        if self.swapped or not 2 <= len(names) <= 5 or case.input_class not in {*IN_DISTRIBUTION, "example"}:
            return
        for order in permutations(names):
            if all(self._fits(case, name, answer[other]) for name, other in zip(names, order, strict=True)):
                moved = [f"{name} carries {other}" for other, name in zip(names, order, strict=True) if name != other]
                self.swapped = "; ".join(moved)
                return

    def _fits(self, case: Case, name: str, actual: np.ndarray) -> bool:
        expected = case.expected[name]
        if compare.form(name, expected, actual) or compare.exact(name, expected, actual):
            return False
        if expected.dtype.kind != "f":
            return True
        return rmse(truth(case, name), actual) <= 2.0 * self.values.rms_budget(case, name, self.budget_of(name))


def _chosen(
    case: Case, name: str, actual: np.ndarray, kept: np.ndarray, noise_there: float = 0.0
) -> tuple[Case, np.ndarray]:
    """Case and answer cut to the elements of one output that are `kept`, flat; their noise is this at least."""
    if kept.all():
        return case, actual
    expected64 = {name: case.expected64[name][kept]} if name in case.expected64 else {}
    near = {name: case.near[name][:, kept]} if name in case.near else {}
    expected = case.expected[name][kept]
    half = case.noise[name].half if name in case.noise else None
    noise = {name: Noise(max(noise_there, rmse(expected64.get(name, expected), expected)), half)}
    cut = replace(case, expected={name: expected}, expected64=expected64, noise=noise, near=near)
    return replace(cut, rows=None, relation=""), actual[kept]


def conclude(name: str, provider: str | None, judge: Judge, extra: Iterable[Check] = ()) -> VariantReport:
    """The variant's verdict: one failure fails it, else one open question leaves it open.

    Args:
        name: of the variant.
        provider: that ran it.
        judge: has seen all cases.
        extra: checks that come from the file instead of its answers.
    """
    judge.values.check_applied(judge.budget)
    checks = [*judge.checks, *extra, *(judge.decisions.checks() if judge.decisions else [])]
    failed = [check for check in checks if check.verdict == "fail"]
    open_ = [check for check in checks if check.verdict == "inconclusive"]
    verdict: VariantVerdict = "fail" if failed else "inconclusive" if open_ else "pass"
    warned = sum(check.verdict == "warn" for check in checks)
    code, reason = "", f"{len(checks)} checks" + (f", {warned} with a warning" if warned else "")
    # what mixes its rows up says nothing about a sample that feels its neighbours
    speaking = CAUSES if judge.relations.equivariant else CAUSES[: CAUSES.index("BATCH_DEPENDENCE")]
    causes = sorted((check for check in failed if check.code in speaking), key=lambda c: speaking.index(c.code))
    if (first := next(iter(causes), judge.ledger.worst) or next(iter((*failed, *open_)), None)) is not None:
        code, reason = first.code, f"{first.id}: {first.reason}"
    exit_code = EXIT_OF[verdict]
    ran = [check for check in judge.checks if check.metric not in {"runs", "refused"}]
    if judge.checks and not ran:
        verdict, exit_code = "error", 4
    if not checks:
        verdict, code, reason, exit_code = "inconclusive", "SAMPLE_SIZE", "no case was compared", 3
    if loosened := judge.loosened():
        reason += f" (loosened: {', '.join(loosened)})"
    return VariantReport(name, verdict, provider, tuple(checks), code, reason, judge.ledger.divergence, exit_code)
