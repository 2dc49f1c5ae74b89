"""What is found out about subjects after their table is measured: profiles, and what only a device can tell.

Each question goes to a fresh worker that answers nothing else: a profiler slows down what it looks at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from deploykit.benchmark.plan import Subject
from deploykit.errors import DeploykitError, UsageError
from deploykit.measurements import BenchRow
from deploykit.pipeline.measuring import BenchRequest, Field
from deploykit.profile_results import OperatorTime, Profile
from deploykit.progress import Progress
from deploykit.session import CPU

CALLS = 20
"""Fewest calls in a profile, and those whose phases on a device are timed by its own events."""

LIMIT_NS = 1_000_000_000
"""A profile takes more calls until this much time has passed."""


def check(request: BenchRequest) -> None:
    """Raise UsageError BAD_PROFILE where what was asked for has no table to add a profile or a base line to."""
    asked = [name for name, value in (("--profile", request.profile), ("--compile", request.compiled)) if value]
    mode = "--against" if request.against else "--tune" if request.tune is not None else ""
    if not mode and request.profile and request.scenario.kind != "single-stream":
        asked, mode = ["--profile"], f"--scenario {request.scenario.kind}"
    if asked and mode:
        raise UsageError(asked[0], f"does not go with {mode}", "bench without it, apart", "BAD_PROFILE")


def profiles(field: Field, subjects: Iterable[Subject], rows: Sequence[BenchRow], progress: Progress) -> list[Profile]:
    """A profile of every subject that was measured, at the first batch; the traces go to the bundle's reports.

    Raises:
        StorageError: a trace cannot be written.
    """
    batch = field.subjects.batches[0]
    measured = _measured(subjects, rows, batch)
    progress.stage("profile", len(measured))
    found = []
    for subject in measured:
        found.append(_profile(field, subject, batch))
        progress.step(f"{subject.name} {found[-1].reason or 'profiled'}")
    return found


def told_by_devices(
    field: Field, subjects: Iterable[Subject], rows: Sequence[BenchRow], taken: Sequence[Profile], progress: Progress
) -> list[BenchRow]:
    """The rows, with memory, event times and nodes where they ran on a device; unchanged on the CPU.

    Args:
        field: prepared.
        subjects: those of the rows.
        rows: the table.
        taken: profiles that were made already; the nodes of others are counted here.
        progress: told one step per subject.
    """
    asked = {subject.name: subject for subject in _measured(subjects, rows, None) if subject.settings.provider != CPU}
    if not asked:
        return list(rows)
    progress.stage("device", len(asked))
    nodes = {profile.name: profile.nodes for profile in taken}
    told: dict[tuple[str, int], dict[str, Any]] = {}
    for name, subject in asked.items():
        if name not in nodes and subject.runtime == "onnxruntime":
            nodes[name] = _profile(field, subject, min(subject.feeds), keep=False).nodes
        for batch in subject.feeds:
            told[name, batch] = _on_device(field, subject, batch) | {"nodes": nodes.get(name, {})}
        progress.step(name)
    return [replace(row, **told.get((row.name, row.batch), {})) for row in rows]


def _measured(subjects: Iterable[Subject], rows: Sequence[BenchRow], batch: int | None) -> list[Subject]:
    alive = {row.name for row in rows if row.verdict != "not_measured" and batch in {None, row.batch}}
    return [subject for subject in subjects if subject.name in alive]


def _profile(field: Field, subject: Subject, batch: int, *, keep: bool = True) -> Profile:
    trace = field.folder / "trace.json"
    limits = {"min_calls": CALLS, "limit_ns": LIMIT_NS}
    try:
        told = _ask(field, subject, "profile", feeds=str(subject.feeds[batch]), trace=str(trace), **limits)
    except DeploykitError as error:
        return Profile(subject.name, subject.settings.provider, batch, reason=f"{error.code}: {error.message}")
    name = ""
    if keep and field.bundle.takes_reports:
        name = f"profile-{re.sub(r'[^A-Za-z0-9._=@-]+', '-', subject.name)}.json"
        field.bundle.write_report_file(name, trace)
    return Profile(
        subject.name,
        told["provider"],
        batch,
        told["calls"],
        told["wall_us"],
        told["median_us"] / told["call_us"],
        tuple(OperatorTime(**one) for one in told["operators"]),
        told["operator_count"],
        told["nodes"],
        f"reports/{name}" if name else "",
        call_us=told["call_us"],
    )


def _on_device(field: Field, subject: Subject, batch: int) -> dict[str, Any]:
    """Fields of a BenchRow."""
    try:
        told = _ask(field, subject, "on_device", feeds=str(subject.feeds[batch]), calls=CALLS)
    except DeploykitError as error:
        why = f"{error.code}: {error.message}"
        return {"gpu_memory_reason": why, "events_ns_reason": why}
    return {
        "gpu_memory_bytes": told["gpu_memory_bytes"],
        "gpu_memory_reason": told["gpu_memory_reason"],
        "events_ns": told["events_ns"],
        "events_ns_reason": told["events_reason"],
    }


def _ask(field: Field, subject: Subject, step: str, **arguments: Any) -> Any:
    worker = field.fresh_worker()
    try:
        limit_s = field.request.protocol.step_limit_s
        return worker.call(f"profiling:{step}", timeout_s=limit_s, **subject.opening, **arguments)
    finally:
        worker.close()
