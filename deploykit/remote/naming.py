"""Names on the server and names in the signature: libtorch and the like have their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deploykit.endpoint import ModelFacts, shown
from deploykit.results import Check
from deploykit.signature import Feeds, Signature, TensorSpec

INPUT_CLASS = "wire"
"""What checks belong to that no case of the reference makes."""


@dataclass(frozen=True)
class Naming:
    """How the signature's names are said to the server, and the server's understood.

    Attributes:
        inputs: own name to the server's.
        outputs: the server's name to the own one.
    """

    inputs: dict[str, str]
    outputs: dict[str, str]

    def sent(self, feeds: Feeds) -> Feeds:
        """`feeds` under the server's names."""
        return {self.inputs.get(name, name): array for name, array in feeds.items()}

    def received(self, outputs: Feeds) -> Feeds:
        """The server's answer under the signature's names, in the order in which it came."""
        return {self.outputs.get(name, name): array for name, array in outputs.items()}


def agreed(signature: Signature, facts: ModelFacts) -> tuple[Naming, list[Check]]:
    """The naming, and what the server's own description says that the signature does not.

    A server that declares nothing is asked by the signature's names. One that declares as many under other names is
    taken by position, and that is said.
    """
    naming = Naming(
        _paired(signature.inputs, facts.inputs),
        {theirs: own for own, theirs in _paired(signature.outputs, facts.outputs).items()},
    )
    checks = [*_renamed(naming)]
    for side, own, declared in (
        ("input", signature.inputs, facts.inputs),
        ("output", signature.outputs, facts.outputs),
    ):
        if declared:
            checks += _differences(side, own, declared, naming)
    return naming, checks


def _paired(own: Sequence[TensorSpec], declared: Sequence[TensorSpec]) -> dict[str, str]:
    mine, theirs = [spec.name for spec in own], [spec.name for spec in declared]
    if set(mine) == set(theirs) or len(mine) != len(theirs):
        return {name: name for name in mine}
    return dict(zip(mine, theirs, strict=True))


def _renamed(naming: Naming) -> list[Check]:
    pairs = [f"{own} to {shown(theirs)}" for own, theirs in naming.inputs.items() if own != theirs]
    pairs += [f"{own} from {shown(theirs)}" for theirs, own in naming.outputs.items() if own != theirs]
    if not pairs:
        return []
    reason = f"names are not the signature's and were taken by position: {', '.join(pairs)}"
    return [_check("names", "", "warn", "NAMES_BY_POSITION", reason, float(len(pairs)))]


def _differences(side: str, own: Sequence[TensorSpec], declared: Sequence[TensorSpec], naming: Naming) -> list[Check]:
    """What is declared otherwise than promised: a tensor that is missing, its dtype, its dims."""
    back = {theirs: mine for mine, theirs in naming.inputs.items()} if side == "input" else naming.outputs
    there = {back.get(spec.name, spec.name): spec for spec in declared}
    checks = []
    for spec in own:
        found = there.pop(spec.name, None)
        if found is None:
            code = "INPUT_MISSING" if side == "input" else "SERVER_OUTPUTS"
            checks.append(_check("metadata", spec.name, "fail", code, f"the server declares no {side} {spec.name}"))
        elif found.dtype != spec.dtype:
            reason = f"declared as {found.dtype}, the signature says {spec.dtype}"
            checks.append(_check("metadata", spec.name, "fail", "DTYPE_MISMATCH", reason))
        elif not _fits(spec.shape, found.shape):
            reason = f"declared as {_text(found.shape)}, the signature says {_text(spec.shape)}"
            checks.append(_check("metadata", spec.name, "warn", "SHAPE_MISMATCH", reason))
    code = "SHAPE_MISMATCH" if side == "input" else "SERVER_OUTPUTS"
    said = f"the server declares the {side} {{}}, which the signature does not have"
    return [*checks, *(_check("metadata", shown(name), "warn", code, said.format(shown(name))) for name in there)]


def of_answers(check: Check) -> Check:
    """A check on answers that came from a server, with its own code where outputs are missing or too many."""
    if check.code != "OUTPUT_MISSING":
        return check
    return replace(check, code="SERVER_OUTPUTS", reason=f"the server's answer has {shown(check.reason)}")


def _fits(own: tuple[int | str, ...], declared: tuple[int | str, ...]) -> bool:
    """Whether a declared shape allows what is promised; an empty one declares nothing."""
    if not declared:
        return True
    pairs = zip(own, declared, strict=False)
    return len(own) == len(declared) and all(isinstance(theirs, str) or mine == theirs for mine, theirs in pairs)


def _text(shape: tuple[int | str, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _check(id_: str, name: str, verdict: str, code: str, reason: str, value: float | None = None) -> Check:
    return Check(id_, INPUT_CLASS, name, verdict, code, "declared", value, 0.0, reason)  # type: ignore[arg-type]
