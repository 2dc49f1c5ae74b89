"""Text for `inspect` and `export`: what a bundle or a file holds."""

from __future__ import annotations

from typing import Any

from deploykit.bundle import Bundle, VariantRecord
from deploykit.diagnosis import CODES
from deploykit.errors import escape
from deploykit.preprocessing import said
from deploykit.report import tuned
from deploykit.units import size

_WAYS = {
    "dispatch": "by dispatch mode",
    "double": "by module.double()",
    "reference": "by onnx's reference implementation",
    None: "impossible (weak reference)",
}
"""How float64 answers were had, by the manifest's word for it."""


def render_manifest(bundle: Bundle) -> str:
    """Signature, source, reference, then a line per variant."""
    manifest = bundle.manifest
    source, reference = manifest.source, manifest.reference
    named = f"{source.spec.kind}:{source.spec.target}" if source.spec.target else source.spec.kind
    exact = _WAYS.get(reference.float64, reference.float64)
    lines = [
        f"bundle {manifest.name} at {escape(str(bundle.path))}",
        f"  source     {escape(named)}, {source.parameters:,} parameters, sha256 {source.digest[:16]}…",
        f"  inputs     {', '.join(map(str, manifest.signature.inputs))}",
        f"  outputs    {', '.join(map(str, manifest.signature.outputs))}",
        *([f"  images     {escape(said(manifest.preprocessing))}"] if manifest.preprocessing else []),
        f"  reference  {len(reference.cases)} cases, samples {reference.samples}, float64 {exact}",
        f"  versions   {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}",
    ]
    lines += [f"  note       {name}: {escape(str(value))}" for name, value in source.notes.items()]
    return "\n".join([*lines, "variants", *(_variant_lines(bundle, record) for record in manifest.variants)])


def _variant_lines(bundle: Bundle, record: VariantRecord) -> str:
    """The variant, and below it what was tuned for it."""
    found = [f"  {'':20}            {escape(tuned.recorded(one))}" for one in record.tuned]
    return "\n".join([_variant_line(bundle, record), *found])


def _variant_line(bundle: Bundle, record: VariantRecord) -> str:
    if record.file is None:
        told = record.code in CODES and not record.reason.startswith("its base ")  # there it is said already
        remedy = f"\n  {'':20} what to do: {CODES[record.code].remedy}" if told else ""
        return f"  {record.name:20} not made [{record.code}]: {escape(record.reason)}{remedy}"
    facts = [record.precision, *(f"{key} {value}" for key, value in record.facts.items())]
    return f"  {record.name:20} {size(bundle.bytes_of(record.name)):>9}  {', '.join(facts)}"


def render_file(name: str, facts: dict[str, Any]) -> str:
    """One line per fact."""
    lines = [escape(name)]
    for key, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        text = ", ".join(text) if isinstance(text, list) else text
        lines.append(f"  {key:17} {escape(str(text))}")
    return "\n".join(lines)
