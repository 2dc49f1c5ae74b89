"""Which variant goes out when nobody names one: what the stored benchmark recommends, where it can be served."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from deploykit import registry
from deploykit.bundle import REPORTS, Bundle, VariantRecord
from deploykit.errors import RefusedError, UsageError
from deploykit.pipeline.identity import identity
from deploykit.publish import made_here

_MAX_REPORT = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")

PREFERRED = ("onnx", "torchscript", "torch-export")
"""Variants that go out when no benchmark recommends one."""


def recommended(bundle: Bundle, runtimes: Collection[str] | None = None) -> tuple[VariantRecord, str]:
    """The variant to ship and why it is this one.

    Args:
        bundle: whose reports are looked at.
        runtimes: engines that can be used, None for all.

    Raises:
        RefusedError: TARGET_CANNOT_SERVE, the bundle has no variant for these engines.
    """
    made = [one for one in bundle.manifest.variants if one.file is not None]
    there = {one.name: one for one in made if runtimes is None or one.runtime in runtimes}
    if not there:
        message = f"has no variant for {', '.join(runtimes)}" if runtimes else "no variant of it was made"
        raise RefusedError(bundle.manifest.name, message, "export it again, --variants onnx", "TARGET_CANNOT_SERVE")
    best = _recommendation(bundle)
    if best in there:
        return there[best], "the benchmark recommends it"
    name = next((name for name in PREFERRED if name in there), next(iter(there)))
    if best is None:
        return there[name], "no benchmark of this bundle recommends another"
    return there[name], f"the benchmark recommends {best}, which cannot be served here"


def model_name(bundle: Bundle, asked: str | None) -> str:
    """The model's name on a server: the one that was asked for, else the bundle's.

    Raises:
        UsageError: BAD_NAME, it is none for a URL or a folder.
    """
    name = asked or bundle.manifest.name
    if not _NAME.fullmatch(name):
        hint = "at most 80 ASCII letters, digits, '.', '_' and '-', the first one a letter or a digit"
        raise UsageError(f"--model-name {name}", "no name for a model on a server", hint, "BAD_NAME")
    return name


def check_trust(bundle: Bundle, record: VariantRecord, *, trusted: bool) -> None:
    """Refuse a file that can run code, unless this machine made the bundle or somebody trusts it.

    Raises:
        RefusedError: UNTRUSTED_CODE.
    """
    if registry.load("runtimes", record.runtime).runs_code and not (trusted or made_here(bundle)):
        message = "can run code, and this machine did not make the bundle"
        raise RefusedError(record.name, message, "give --trust-code if you trust its origin", "UNTRUSTED_CODE")


def stored_report(bundle: Bundle, name: str) -> dict[str, Any]:
    """A stored report as it is; empty where there is none that can be read.

    Only what is used of it is looked at, closely: its schema's types would cost a small command most of its time.
    """
    path = bundle.path / REPORTS / name
    try:
        if path.parent.is_symlink() or path.is_symlink() or path.stat().st_size > _MAX_REPORT:
            return {}
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _recommendation(bundle: Bundle) -> str | None:
    """The variant that the stored table of this very model recommends; None where there is none."""
    report = stored_report(bundle, "bench.json")
    about, best = report.get("protocol"), report.get("recommendation")
    same = isinstance(about, dict) and about.get("model") == identity(bundle.manifest)
    name = best.get("variant") if same and isinstance(best, dict) else None
    return name if isinstance(name, str) else None
