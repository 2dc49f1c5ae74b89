"""The settings that `bench --tune` found for a variant, as its record keeps them, and how a session opens with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from deploykit.errors import UsageError
from deploykit.session import MAX_THREADS, SessionSettings
from deploykit.tune_results import Goal

USUAL: Goal = "latency"
"""The goal whose settings a session is opened with when nobody names another."""

PLAIN = "default"
"""The word for `--session` that leaves tuned settings aside."""


class TunedRecord(BaseModel):
    """What was found for one goal on one provider, and where; it was kept only because it beat the default there.

    Attributes:
        provider: full name of the execution provider it was measured on, and holds for.
        settings: what differs from the default, in the words of `SessionSettings.with_words`; empty where only the
            batch was found.
        batch: samples in a call: for `throughput` the one that was found, else the one it was measured at.
        ratio: of times (peak memory for `memory`) to the default settings; `low` and `high` enclose it with `level`.
        cpu: its model, None where the system does not tell.
        cores: usable ones.
        engine: name and version of what opened the artifact.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    goal: Goal
    provider: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+$", max_length=80)]
    settings: Annotated[str, StringConstraints(max_length=200)]
    batch: Annotated[int, Field(ge=1)]
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    cpu: Annotated[str, StringConstraints(max_length=120)] | None = None
    cores: Annotated[int, Field(ge=1, le=MAX_THREADS)]
    engine: Annotated[str, StringConstraints(max_length=80)] = ""

    @field_validator("settings")
    @classmethod
    def _known(cls, text: str) -> str:
        """A record comes from anywhere: words that no session has are refused with the manifest."""
        try:
            SessionSettings().with_words(text)
        except UsageError as error:
            raise ValueError(f"{error.subject}: {error.message}") from error
        return text


def tuned_for(records: Iterable[TunedRecord], provider: str, goal: Goal = USUAL) -> TunedRecord | None:
    """The record for one goal on one provider."""
    return next((one for one in records if (one.goal, one.provider) == (goal, provider)), None)


def opened(record: TunedRecord | None, plain: SessionSettings, cores: int) -> SessionSettings:
    """`plain` settings with those of a record, whose threads are cut to the cores there are here."""
    if record is None:
        return plain
    settings = plain.with_words(record.settings)
    if settings.threads is None or settings.threads == plain.threads:
        return settings
    return replace(settings, threads=min(settings.threads, max(cores, 1)))


def parted(session: str) -> tuple[bool, str]:
    """What `--session` asks for: whether tuned settings are left aside, and the words on top (`default,threads=1`)."""
    entries = [entry.strip() for entry in session.split(",")]
    return PLAIN in entries, ",".join(entry for entry in entries if entry != PLAIN)


def elsewhere(record: TunedRecord, cpu: str | None, cores: int) -> str:
    """What a reader should know where the settings were found on another machine; empty on one like this."""
    if record.cpu == (cpu or None) and record.cores == cores:
        return ""
    return f"tuned on {record.cpu or 'an unknown CPU'} with {record.cores} usable cores, this is another machine"
