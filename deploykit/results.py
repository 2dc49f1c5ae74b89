"""What the verbs find out: checks and verdicts, samples and summaries. Frozen, and JSON in one step.

`to_json` and the schemas in `schemas/` are the contract with other programs: a change of meaning raises `SCHEMA`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA = 1
"""Version of the JSON documents that `to_json` writes."""

CheckVerdict = Literal["pass", "warn", "fail", "inconclusive", "skipped"]
VariantVerdict = Literal["pass", "fail", "inconclusive", "error", "refused", "skipped"]

EXIT_OF: dict[str, int] = {"pass": 0, "warn": 0, "skipped": 0, "fail": 1, "inconclusive": 3, "error": 4, "refused": 5}
"""Verdict to exit code."""


@dataclass(frozen=True)
class Check:
    """One comparison and what became of it.

    Attributes:
        id: the case (`real`, `batch-7`, `zeros`) or the statistic (`top1-drop`).
        output: the model output it is about; empty for checks on the whole.
        code: stable diagnosis code; empty when the check passed.
        metric: what `value` and `limit` measure (`R`, `centred_sqnr_db`, `max_abs`, …).
        reason: why the limit is what it is, or what went wrong.
        at_least: the value must not be below the limit (SQNR) instead of not above it.
    """

    id: str
    input_class: str
    output: str
    verdict: CheckVerdict
    code: str
    metric: str
    value: float | None
    limit: float | None
    reason: str
    at_least: bool = False

    @property
    def headroom(self) -> float | None:
        """How far the value is from its limit: a ratio ≥ 1 when it holds, or decibels for `_db` metrics."""
        if self.value is None or self.limit is None:
            return None
        if self.metric.endswith("_db"):
            return self.value - self.limit if self.at_least else self.limit - self.value
        if self.at_least:
            return self.value / self.limit if self.limit else math.inf
        return self.limit / self.value if self.value else math.inf


Stage = Literal["CAPTURE", "CONVERSION", "RUNTIME", "QUANTIZATION"]

REPRODUCE = "reproduce.py"
"""The script in a reproducer's folder; a folder without it is not ours to replace."""


@dataclass(frozen=True)
class Location:
    """Where a variant starts to differ from eager.

    Attributes:
        stage: the step that made the difference: capturing the program, converting it, the engine's own rewriting, or
            the change of precision.
        value: name of the first bad value in the artifact's graph; empty when unknown.
        operator: what computes it, for example `Resize`.
        module: path and class of the module it belongs to, for example `layer2.up (Upsample)`.
        source: file and line of the model, for example `model.py:88`; empty when unknown.
        born: whether the operator alone is wrong on the reference's inputs, or passes an error on; None when not tried.
        evidence: one line that says how this was found.
        reproducer: folder that reproduces it, None when none was written.
        keep_float: nodes whose precision costs most, worst first; for `export --keep-float`.
    """

    stage: Stage
    value: str = ""
    operator: str = ""
    module: str = ""
    source: str = ""
    born: bool | None = None
    evidence: str = ""
    reproducer: str | None = None
    keep_float: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mutant:
    """A copy of an artifact with one known fault, and whether the gate saw it.

    Attributes:
        fault: what was done, for example `weight x 1.01`.
        place: where, for example `fc1.weight`.
        moved: how far the output moved on the probes, in budgets (1.0 is the most that the budget allows).
        change: relative size of the change of the weight, RMS; None for changes of structure.
        caught: whether the gate failed it.
        code: with which code.
        equivalent: it was not caught and moves the output by no more than rounding does: no evidence of anything.
    """

    fault: str
    place: str
    moved: float
    change: float | None
    caught: bool
    code: str = ""
    equivalent: bool = False


@dataclass(frozen=True)
class SelfCheck:
    """Whether the gate can fail: what it made of seeded mutants of one artifact.

    Attributes:
        verdict: `pass`; `fail` when a mutant that moves the output by three budgets or more got through;
            `inconclusive` (PROBE_POWER) when too few could be seen at all.
        tried, seen, killable, killed: mutants made; caught by any check; that move the output by ≥ 3 budgets; of those
            caught.
        smallest: the smallest relative change of a single weight tensor that was caught, None when none was.
        eager_sqnr_db: eager's own centred SQNR on the probes: what could be seen at best.
        reason: one line.
        seconds: wall time.
        equivalent: of those tried, how many change no answer.
        smallest_place: the tensor in which `smallest` was seen.
    """

    variant: str
    verdict: VariantVerdict
    code: str
    tried: int
    seen: int
    killable: int
    killed: int
    smallest: float | None
    eager_sqnr_db: float | None
    reason: str
    seconds: float
    mutants: tuple[Mutant, ...] = ()
    equivalent: int = 0
    smallest_place: str = ""


@dataclass(frozen=True)
class Ranked:
    """A node that a variant computes in reduced precision, and what it costs.

    Attributes:
        node: name in the float32 graph, as `keep_float` takes it.
        module: the weight that it reads, without the ending `.weight`; the node's output where that has no name.
        local_db: SQNR of its output when it alone is quantized.
        cumulative_db: SQNR of its output when all are.
        noise: mean square of the model's output error when it alone is quantized, relative to the output's variance.
        gain_db: what the model's outputs gain when it alone stays in float, of the noise of all nodes.
        weights: share of all weights of matrix products and convolutions.
        keep: what has to stay in float for it: the node; in half precision also what makes its input, which would
            otherwise arrive rounded.
    """

    node: str
    module: str
    local_db: float
    cumulative_db: float
    noise: float
    gain_db: float
    weights: float
    keep: tuple[str, ...]


@dataclass(frozen=True)
class VariantReport:
    """Everything verify found out about one variant.

    Attributes:
        provider: the execution provider that really ran, read back; None when nothing ran.
        code: stable code of the gravest finding; empty when it passed.
        reason: one line for the table.
        first_divergence: where the outputs part from eager, in words; None when they do not, or nobody looked.
    """

    name: str
    verdict: VariantVerdict
    provider: str | None
    checks: tuple[Check, ...] = ()
    code: str = ""
    reason: str = ""
    first_divergence: str | None = None
    exit_code: int = 0
    location: Location | None = None


@dataclass(frozen=True)
class Drift:
    """One difference from a baseline.

    Attributes:
        variant: empty when it is about eager itself.
        check: the check's id, or the reference's case; empty for the variant as a whole.
        verdict: `fail` when it is worse, `warn` when it should be looked at, `inconclusive` when nothing could be
            compared, `pass` when it is better.
        before, after: the values of `metric`; None where there is none.
    """

    variant: str
    check: str
    output: str
    metric: str
    verdict: CheckVerdict
    code: str
    before: float | None
    after: float | None
    reason: str


@dataclass(frozen=True)
class BaselineReport:
    """How the gate's answer compares with a stored one, or that it was stored.

    Attributes:
        code: of the gravest difference (`BASELINE_DRIFT`, `REFERENCE_DRIFT`, …); empty when nothing is worse.
        drifts: gravest first; improvements last.
        changed_packages: what else is not as it was, `torch 2.14.0 → 2.15.0`.
    """

    verdict: VariantVerdict
    exit_code: int
    code: str
    reason: str
    drifts: tuple[Drift, ...] = ()
    changed_packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyReport:
    """The parity gate's answer for a bundle.

    Attributes:
        self_check: per variant, whether the gate can fail; None when that was not asked for.
        weak_reference: eager has no float64 answer: everything is compared with fp32, which is noisy itself.
        baseline: how this compares with a stored answer; None when that was not asked for.
        reference: what everything is compared with; checks call it eager whatever it is.
    """

    bundle: str
    verdict: VariantVerdict
    exit_code: int
    environment: dict[str, Any]
    variants: tuple[VariantReport, ...]
    self_check: tuple[SelfCheck, ...] | None = None
    weak_reference: bool = False
    baseline: BaselineReport | None = None
    reference: str = "eager PyTorch"
    schema: int = SCHEMA


def to_data(value: Any) -> Any:
    """`value` as plain JSON data: dataclasses as dicts, NaN and infinities as the strings `nan`, `inf`, `-inf`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_data(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


@dataclass(frozen=True)
class HandoffReport:
    """What was handed over.

    Attributes:
        path: the folder.
        model: its name on the server.
        version: the one that was added or replaced; `versions` are all that the folder holds now.
        verdict: `pass`, or `unverified` where the gate was not asked; `reason` is the gate's, or why not.
        choice: why it is this variant.
        settings: what sessions open with, in the words of `--session`.
        files: how many the folder holds.
        cases: of the reference, that travel along.
        start: what starts the server, in bash, in the folder; empty where nothing is served.
    """

    target: str
    path: str
    model: str
    version: int
    variant: str
    verdict: Literal["pass", "unverified"]
    reason: str
    choice: str
    release: str | None = None
    versions: tuple[int, ...] = ()
    settings: str = ""
    files: int = 0
    cases: int = 0
    start: str = ""
    exit_code: int = 0
    schema: int = SCHEMA


def to_json(value: Any) -> str:
    """The JSON document for a result, two-space indented, newline at the end."""
    return json.dumps(to_data(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def from_data(kind: type, data: Any) -> Any:
    """The inverse of `to_data` for result class `kind`, checked.

    Raises:
        pydantic.ValidationError: the data does not describe a `kind`.
    """
    from pydantic import TypeAdapter  # 100 ms that commands without stored results do not pay

    return TypeAdapter(kind).validate_python(data)
