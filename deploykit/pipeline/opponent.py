"""What `bench --against REF` means: which bundle, which variant, opened how; or a stored report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deploykit.bundle import Bundle
from deploykit.errors import UsageError
from deploykit.pipeline.measuring import BenchRequest


@dataclass(frozen=True)
class Opponent:
    """The base of a comparison.

    Attributes:
        bundle: where it lies; the candidate's own bundle for its variants and settings.
        variant: the one base of every candidate; empty where each is held against its namesake.
        words: how the base's sessions are opened, in the words of `BenchRequest.session`.
        stored: a report of earlier; None where the base can be measured.
    """

    bundle: Path
    variant: str = ""
    words: str = ""
    stored: Path | None = None

    @classmethod
    def of(cls, request: BenchRequest) -> Opponent:
        """Reads `PATH`, `VARIANT`, either with `@SETTINGS`, `@SETTINGS` alone, or a stored `bench.json`.

        Raises:
            UsageError: QUICK_GATE, BAD_SETTING, or NOT_FOUND.
        """
        if request.quick:
            hint = "leave --quick out: the gate needs its ten launches"
            raise UsageError("--quick", "three launches decide nothing", hint, "QUICK_GATE")
        others = {
            "--tune": request.tune is not None,
            "--scenario": request.scenario.kind != "single-stream",
            "constraints": bool(request.wish.constraints),
        }
        if given := [name for name, there in others.items() if there]:
            raise UsageError("--against", f"does not go with {given[0]}", "measure the one, then the other")
        head, at, words = request.against.rpartition("@")
        if not at or not ("=" in words or words == "default"):
            head, words = request.against, ""
        _ = replace(request, session=words).settings  # BAD_SETTING before anything starts
        if not head:
            return cls(request.bundle, "", words)
        if head in {record.name for record in Bundle(request.bundle).manifest.variants}:
            return cls(request.bundle, head, words)
        path = Path(head)
        if path.is_dir():
            return cls(path, "", words)
        if path.is_file() and not words:
            return cls(request.bundle, stored=path)
        hint = "a bundle, a stored bench.json, or VARIANT@threads=1"
        raise UsageError(
            f"--against {request.against}", "neither a path nor a variant of the bundle", hint, "NOT_FOUND"
        )

    def is_in(self, bundle: Path) -> bool:
        """The base is in that bundle too."""
        return self.bundle.resolve() == bundle.resolve()

    def involved(self, request: BenchRequest) -> tuple[str, ...] | None:
        """The variants of the candidate's bundle that parity is asked about; None for all."""
        if not self.variant:
            return request.variants
        if request.variants is not None:
            return tuple(dict.fromkeys((*request.variants, self.variant)))
        return (self.variant,) if self.words else None

    def wanted(self, request: BenchRequest, candidates: list[str], bases: list[str]) -> list[str]:
        """The candidates to judge: those asked for, else what both have.

        Args:
            request: the command.
            candidates: variants that the candidate's bundle has.
            bases: variants that the base's bundle has.
        """
        if request.variants is not None:
            return list(request.variants)
        if not self.variant:
            return [name for name in candidates if name in bases]
        # the same variant opened in another way, or all others against this one
        return [self.variant] if self.words else [name for name in candidates if name != self.variant]

    def label(self, request: BenchRequest, variant: str) -> str:
        """What the base of `variant` is called in the report; of a path only the last folder is kept."""
        place = "" if self.is_in(request.bundle) else f"{self.bundle.resolve().name}/"
        return f"{place}{self.variant or variant}" + (f"@{self.words}" if self.words else "")
