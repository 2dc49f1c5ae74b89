"""What every way of measuring a bundle starts with: the request, the parity gate, the subjects."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deploykit.benchmark.plan import Protocol
from deploykit.bundle import Bundle
from deploykit.environment import usable_cores
from deploykit.errors import UsageError
from deploykit.isolation import Limits, Worker
from deploykit.model import SourceSpec
from deploykit.pipeline.subjects import Subjects
from deploykit.pipeline.verify import VerifyRequest, verify
from deploykit.progress import Progress
from deploykit.results import VariantReport, VerifyReport
from deploykit.session import CPU, SessionSettings
from deploykit.signature import MAX_DIM


@dataclass(frozen=True)
class BenchRequest:
    """What to measure and how.

    Attributes:
        variants: names, or None for all of the bundle.
        batches: batch sizes; the first one decides the recommendation.
        threads: intra-op threads for every variant; None takes every core this process may use.
        session: further settings of every session, in the words of `SessionSettings.with_words`.
        source: builds `eager` for bundles whose source is the user's own code; None where it is not at hand.
    """

    bundle: Path
    variants: tuple[str, ...] | None = None
    provider: str = CPU
    batches: tuple[int, ...] = (1,)
    threads: int | None = None
    quick: bool = False
    seed: int = 0
    trust_code: bool = False
    source: SourceSpec | None = None
    session: str = ""

    @property
    def settings(self) -> SessionSettings:
        """What sessions are opened with.

        Raises:
            UsageError: BAD_SETTING.
        """
        return SessionSettings(self.provider, self.threads or usable_cores()).with_words(self.session)

    @property
    def protocol(self) -> Protocol:
        """The protocol for a table."""
        return Protocol.short(self.seed) if self.quick else Protocol(seed=self.seed)


@dataclass(frozen=True)
class Field:
    """A bundle that went through the gate, ready to be measured; made by `prepared`.

    Attributes:
        verified: the gate's answer.
        subjects: what of the bundle can be timed.
        folder: for files that live as long as the measurement.
    """

    request: BenchRequest
    bundle: Bundle
    verified: VerifyReport
    subjects: Subjects
    folder: Path

    @cached_property
    def verdicts(self) -> dict[str, VariantReport]:
        """The gate's answer by variant."""
        return {report.name: report for report in self.verified.variants}

    def open_worker(self) -> Worker:
        """A fresh child process with limits for this model."""
        return Worker(Limits.for_model(max((record.size for record in self.bundle.manifest.files), default=0)))


@contextmanager
def prepared(request: BenchRequest, progress: Progress, verified: VerifyReport | None = None) -> Iterator[Field]:
    """Check the request, ask the gate, collect the subjects.

    Args:
        request: see BenchRequest.
        progress: is told what verify does.
        verified: the gate's answer for this bundle and provider from a moment ago; None asks it now.

    Raises:
        DeploykitError: the bundle cannot be used, or a batch size does not fit its signature.
    """
    _check_counts(request)
    settings = request.settings
    bundle = Bundle(request.bundle)
    if verified is None:
        verified = verify(
            VerifyRequest(request.bundle, request.variants, request.provider, request.trust_code), progress
        )
    else:
        bundle.check()
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        subjects = Subjects(bundle, request.batches, settings, Path(folder), request.source)
        yield Field(request, bundle, verified, subjects, Path(folder))


def _check_counts(request: BenchRequest) -> None:
    """The command line cannot ask for these, a program can."""
    if not request.batches or not all(0 < batch <= MAX_DIM for batch in request.batches):
        hint = "for example batches=(1, 8, 64)"
        raise UsageError(f"batches {request.batches}", f"a batch is 1 to {MAX_DIM}", hint, "BAD_BATCH")
    if request.seed < 0 or (request.threads is not None and request.threads < 1):
        raise UsageError("threads and seed", "a negative number, or no thread at all", "leave them out", "BAD_COUNT")
