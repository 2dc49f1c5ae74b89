"""`deploykit bench --scenario offline` and `server`: throughput by batch size, and latency under load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from deploykit.benchmark.launch import Setting
from deploykit.benchmark.load import Serving
from deploykit.benchmark.offline import Offline
from deploykit.benchmark.plan import MS, Protocol
from deploykit.benchmark.series import Missing
from deploykit.benchmark.server import Ask, Server
from deploykit.environment import fingerprint
from deploykit.errors import UsageError, gravest
from deploykit.isolation import Limits
from deploykit.measurements import EAGER, BenchReport, Load, Sweep
from deploykit.pipeline.keeping import keep
from deploykit.pipeline.measuring import BenchRequest, Field
from deploykit.progress import Progress
from deploykit.recommend.choose import Wish
from deploykit.reference import save_arrays
from deploykit.signature import Feeds

VERDICTS = {"met": 0, "measured": 0, "missed": 1, "inconclusive": 3, "not_measured": 0}
"""Exit code by verdict on a load; what could not be measured has a code of its own among the missing."""


def check(request: BenchRequest) -> None:
    """Refuse a scenario that does not fit the rest of the request, before anything is asked of the bundle.

    Raises:
        UsageError: BAD_SCENARIO, BAD_RATE, BAD_SECONDS.
    """
    kind = request.scenario.kind
    request.scenario.check()
    others = {
        "--goal and limits": request.wish != Wish(),
        "--against": bool(request.against),
        "--tune": request.tune is not None,
        "--profile": request.profile,
        "--compile": request.compiled,
    }
    clash = [name for name, given in others.items() if given]
    if kind != "single-stream" and clash:
        message = f"does not go with --scenario {kind}"
        raise UsageError(clash[0], message, "ask for one after the other", "BAD_SCENARIO")
    if kind == "offline" and request.batches != (1,):
        message = "the sweep of --scenario offline takes all batch sizes by itself"
        raise UsageError("--batch", message, "leave --batch out", "BAD_SCENARIO")
    if kind == "server" and len(request.batches) > 1:
        message = "a request of --scenario server has one batch size"
        raise UsageError("--batch", message, "give one number", "BAD_SCENARIO")


def offline(field: Field, progress: Progress) -> BenchReport:
    """The batch sweep; writes `reports/bench-offline.json` and the readings beside it."""
    request = field.request
    protocol = _sweep_protocol(request)
    subjects = field.subjects.every(field.verdicts)
    sweep = Offline(
        subjects,
        _setting(field, protocol),
        field.subjects.feeds,
        field.subjects.batched,
        _memory(field),
        request.scenario.limit_s,
        progress,
    )
    opened = {one.name: one.settings.words for one in subjects}
    found = [replace(one, settings=opened[one.name]) for one in sweep.run()]
    found += [Sweep(name, request.provider, None, "not_measured", why) for name, why in field.left_out.items()]
    report = replace(_report(field, protocol, sweep.missing, ()), sweeps=tuple(found))
    arrays = {
        f"{subject.name}/{batch}": np.array(readings, np.float64)
        for subject, ladder in zip(subjects, sweep.ladders, strict=True)
        for batch, readings in ladder.throughput.items()
    }
    return _written(field, report, arrays)


def server(field: Field, progress: Progress) -> BenchReport:
    """Latency under load or capacity; writes `reports/bench-server.json` and the schedules beside it."""
    request = field.request
    protocol = load_protocol(request)
    wanted = request.scenario
    ask = Ask(wanted.rate, wanted.objective, wanted.limit_s, protocol.launches)
    subjects = field.subjects.every(field.verdicts)
    run = Server(subjects, _setting(field, protocol), ask, field.subjects.batches[0], progress)
    opened = {one.name: one.settings.words for one in subjects}
    found = [replace(one, settings=opened[one.name]) for one in run.run()]
    batch = field.subjects.batches[0]
    found += [Load(name, request.provider, batch, None, "not_measured", why) for name, why in field.left_out.items()]
    report = replace(_report(field, protocol, run.missing, found), loads=tuple(found))
    return _written(field, report, schedules(run.raw))


def schedules(raw: Mapping[str, Sequence[Serving]]) -> Feeds:
    """What became of every request, by subject, launch and part of a `Served`."""
    arrays: Feeds = {}
    for name, launches in raw.items():
        for index, one in enumerate(launches):
            parts = {"due": one.served.due, "begun": one.served.begun, "ended": one.served.ended}
            arrays |= {f"{name}/{index}/{part}": array for part, array in parts.items()}
    return arrays


def _sweep_protocol(request: BenchRequest) -> Protocol:
    """Three launches: medians of three, in a time that a sweep of a dozen batch sizes allows."""
    quick = request.quick
    return Protocol(
        launches=3,
        blocks=1,
        block_ns=(50 if quick else 200) * MS,
        warm_up_ns=(20 if quick else 100) * MS,
        device_warm_up_ns=(100 if quick else 300) * MS,
        warm_up_limit_ns=1500 * MS,
        seed=request.seed,
        quick=quick,
    )


def load_protocol(request: BenchRequest) -> Protocol:
    """Seven launches, three with `--quick`; the block tells how long a request alone takes.

    Six reach 95 % for a typical launch (see `tails.launch_limits`); the seventh makes it 95 % for all requests
    together as well, in simulations of launches that differ by 10 %. Three have 75 %: they decide what is far away.
    """
    quick = request.quick
    return Protocol(
        launches=3 if quick else 7,
        blocks=1,
        warm_up_ns=(100 if quick else 300) * MS,
        device_warm_up_ns=(300 if quick else 1000) * MS,
        warm_up_limit_ns=1500 * MS,
        seed=request.seed,
        quick=quick,
    )


def _setting(field: Field, protocol: Protocol) -> Setting:
    return Setting(protocol, field.open_worker, field.subjects.judge, field.folder)


def _memory(field: Field) -> int:
    """Bytes that a worker may use: its limit, or what the machine has left."""
    import psutil

    limits = Limits.for_model(field.bundle.largest_file)
    return int(min(limits.memory_bytes, psutil.virtual_memory().available))


def _report(field: Field, protocol: Protocol, missing: Iterable[Missing], loads: Iterable[Load]) -> BenchReport:
    """All of the report but its results. Eager is shown to compare with: no verdict on it stops anybody."""
    wanted = field.request.scenario
    said: dict[str, Any] = {
        "scenario": wanted.kind,
        "seconds": wanted.limit_s,
        "threads": field.subjects.settings.threads,
        "scope": "host_to_host",
        "eager": field.subjects.eager_note,
    }
    said |= {"tuned": field.tuned} if field.tuned else {}
    if wanted.kind == "server":
        said |= {"rate": wanted.rate, "slo": str(wanted.objective) if wanted.objective else None}
    verdicts = (VERDICTS[load.verdict] for load in loads if load.name != EAGER)
    codes = [field.verified.exit_code, *(entry.exit_code for entry in missing), *verdicts]
    name = field.bundle.manifest.name
    return BenchReport(name, fingerprint(), {**asdict(protocol), **said}, (), exit_code=gravest(codes))


def _written(field: Field, report: BenchReport, arrays: Feeds) -> BenchReport:
    """The report, once it and its raw readings lie in the bundle, where that takes them."""
    stem = f"bench-{field.request.scenario.kind}"
    raw = field.folder / f"{stem}.safetensors"
    save_arrays(arrays, raw)
    return keep(field.bundle, stem, report, raw)
