"""Which variants a request means, which plugin makes each, and from what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deploykit import registry
from deploykit.errors import UsageError


@dataclass(frozen=True)
class PlannedVariant:
    """One variant to make.

    Attributes:
        name: `onnx`, `onnx-int8-static`, …
        kind: made by an exporter from the live module, or by a transform from `base`.
        plugin: name of that exporter or transform.
        base: the variant a transform starts from.
    """

    name: str
    kind: Literal["exporters", "transforms"]
    plugin: str
    core: bool
    file_name: str
    runtime: str
    precision: str
    base: str | None = None


def known() -> dict[str, PlannedVariant]:
    """Every variant that the installed plugins can make, exporters first, then transforms, by name."""
    variants: dict[str, PlannedVariant] = {}
    for name in registry.names("exporters"):
        exporter = registry.load("exporters", name)
        variants[name] = _exported(name, exporter)
    for name in registry.names("transforms"):
        transform = registry.load("transforms", name)
        base = variants.get(transform.base)
        if base is None:
            raise UsageError(
                name, f"transforms the unknown variant {transform.base}", "mend the plugin", "UNKNOWN_VARIANT"
            )
        full = f"{transform.base}-{name}"
        variants[full] = PlannedVariant(
            full, "transforms", name, transform.core, base.file_name, base.runtime, transform.precision, base.name
        )
    return dict(
        sorted(variants.items(), key=lambda item: (item[1].kind, not item[1].core, _ORDER.get(item[0], 9), item[0]))
    )


_ORDER = {"torchscript": 0, "torch-export": 1, "onnx": 2}


def _exported(name: str, exporter: Any) -> PlannedVariant:
    return PlannedVariant(
        name, "exporters", name, exporter.core, exporter.file_name, exporter.runtime, exporter.precision
    )


def select(wanted: str) -> list[PlannedVariant]:
    """The variants that `core`, `all` or a comma-separated list means, bases before what is made from them.

    A base that is needed and not named is added: it is made, and listed like the others.

    Raises:
        UsageError: the list is empty or names an unknown variant.
    """
    variants = known()
    if wanted in {"core", "all"}:
        return [variant for variant in variants.values() if variant.core or wanted == "all"]
    names = {name.strip() for name in wanted.split(",") if name.strip()}
    unknown = sorted(names - set(variants))
    if unknown or not names:
        hint = f"core, all, or some of {', '.join(variants)}"
        raise UsageError(
            f"--variants {wanted}",
            f"unknown variant {unknown[0]}" if unknown else "no variant is named",
            hint,
            "UNKNOWN_VARIANT",
        )
    for name in list(names):
        if base := variants[name].base:
            names.add(base)
    return [variant for variant in variants.values() if variant.name in names]
