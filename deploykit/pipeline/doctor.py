"""`deploykit doctor`: asks every plugin, in children, what it can do here."""

from __future__ import annotations

from typing import Any

from deploykit import plan, registry
from deploykit.environment import fingerprint
from deploykit.errors import DeploykitError
from deploykit.isolation import Pool, Worker

STEP_SECONDS = 120.0


def examine() -> dict[str, Any]:
    """`environment`, `variants` (name → reason or None), `runtimes` (name → providers or reason), `sources`."""
    with Worker() as worker:
        reasons = {
            kind: {name: _reason(worker, kind, name) for name in registry.names(kind)}
            for kind in ("sources", "exporters", "transforms")
        }
    variants = {
        variant.name: reasons[variant.kind][variant.plugin]
        or (reasons["exporters"].get(variant.base) if variant.base else None)
        for variant in plan.known().values()
    }
    with Pool() as pool:
        runtimes = {name: _providers(pool, name) for name in registry.names("runtimes")}
    return {"environment": fingerprint(), "variants": variants, "runtimes": runtimes, "sources": reasons["sources"]}


def _reason(worker: Worker, kind: str, name: str) -> str | None:
    answer: str | None = worker.call("facts:unavailable", kind=kind, name=name, timeout_s=STEP_SECONDS)
    return answer


def _providers(pool: Pool, name: str) -> dict[str, Any]:
    """In a child of its stack: a provider that crashes while loading takes nobody else along."""
    try:
        worker = pool.worker(registry.load("runtimes", name).stack)
        answer: dict[str, Any] = worker.call("facts:runtime", name=name, timeout_s=STEP_SECONDS)
    except DeploykitError as error:
        return {"unavailable": error.message, "providers": []}
    return answer


def render(findings: dict[str, Any]) -> str:
    """A plain list, one line per thing."""
    environment = findings["environment"]
    packages = {k: v for k, v in (environment.get("packages") or {}).items() if v}
    lines = ["packages: " + ", ".join(f"{name} {version}" for name, version in packages.items()), "variants:"]
    lines += [f"  {name:20} {f'no: {reason}' if reason else 'yes'}" for name, reason in findings["variants"].items()]
    lines.append("runtimes:")
    for name, found in findings["runtimes"].items():
        text = f"no: {found['unavailable']}" if found["unavailable"] else ", ".join(found["providers"])
        lines.append(f"  {name:20} {text}")
        lines += [f"  {'':20} not {provider}: {why}" for provider, why in found.get("missing", {}).items()]
    lines.append("sources:")
    lines += [f"  {name:20} {f'no: {reason}' if reason else 'yes'}" for name, reason in findings["sources"].items()]
    return "\n".join(lines)
