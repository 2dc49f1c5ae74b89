"""The page at /docs: the signature, the limits, and a form that sends a request. Nothing on it comes from elsewhere."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from html import escape as as_html
from importlib.resources import files
from math import prod
from string import Template
from typing import Any

from deploykit.serve.model import VERSION, About
from deploykit.serve.rules import Rules
from deploykit.signature import Dim, Signature, TensorSpec
from deploykit.wire_tensors import DATATYPES

LONG = 48
"""Elements of an example that still fit into a line for a shell."""


class Page:
    """Headers and body of the page; the Content-Security-Policy lets it run its own script and talk to its own server.

    Args:
        about: the model.
        rules: limits that are shown.
        version: of this package.
    """

    def __init__(self, about: About, rules: Rules, version: str) -> None:
        style, script = _part("docs.css"), _part("docs.js")
        title = as_html(f"{about.name}: Open Inference Protocol v2")
        self.body = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<style>{style}</style></head>\n<body>{_content(about, rules, version)}"
            f"<script>{script}</script></body></html>\n"
        ).encode()
        policy = (
            f"default-src 'none'; style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.headers = (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Security-Policy", policy),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        )


def _part(name: str) -> str:
    return files("deploykit.serve").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def _content(about: About, rules: Rules, version: str) -> str:
    path = f"/v2/models/{about.name}"
    # a long example is sent from a file, which the form shows
    small = sum(prod(_smallest(spec, about.signature)) for spec in about.signature.inputs) <= LONG
    example = json.dumps(_example(about.signature), separators=(",", ":")) if small else "@request.json"
    plain = {
        "path": path,
        "inputs_data": json.dumps(_shown(about.signature)),
        "name": about.name,
        "variant": about.variant,
        "runtime": about.runtime,
        "version": version,
        "model_version": VERSION,
        "curl": f"curl -s http://HOST:PORT{path}/infer -H 'Content-Type: application/json' -d '{example}'",
        "max_body": f"{rules.max_body / 2**20:g} MiB",
        "body_s": f"{rules.body_s:g}",
        "connections": str(rules.connections),
        "concurrency": f"{rules.concurrency} request{'' if rules.concurrency == 1 else 's'}",
    }
    made = {
        "inputs": _tensors("Inputs", about.signature.inputs),
        "outputs": _tensors("Outputs", about.signature.outputs),
        "dims": _dims(about.signature),
        "hint": "" if small else "<p>With the request above in the file <code>request.json</code>:</p>",
    }
    return Template(_part("docs.html")).substitute({name: as_html(text) for name, text in plain.items()} | made)


def _tensors(title: str, specs: tuple[TensorSpec, ...]) -> str:
    lines = "".join(
        f"<tr><td><code>{as_html(spec.name)}</code></td><td>{DATATYPES[spec.dtype]}</td>"
        f"<td>[{as_html(', '.join(map(str, spec.shape)))}]</td></tr>"
        for spec in specs
    )
    head = '<tr><th scope="col">name</th><th scope="col">datatype</th><th scope="col">shape</th></tr>'
    return f"<table><caption>{title}</caption><thead>{head}</thead><tbody>{lines}</tbody></table>"


def _dims(signature: Signature) -> str:
    said = [f"<code>{as_html(dim.name)}</code> goes from {dim}" for dim in signature.dims]
    return f"<p>{'; '.join(said)}.</p>" if said else ""


def _shown(signature: Signature) -> list[dict[str, Any]]:
    """What the script needs to fill a request: the smallest size of a symbolic dim travels in its place, negative."""
    lowest = {dim.name: dim.min for dim in signature.dims}
    return [
        {
            "name": spec.name,
            "datatype": DATATYPES[spec.dtype],
            "shape": [dim if isinstance(dim, int) else -lowest.get(dim, 1) for dim in spec.shape],
        }
        for spec in signature.inputs
    ]


def _smallest(spec: TensorSpec, signature: Signature) -> tuple[int, ...]:
    ranges = {dim.name: dim for dim in signature.dims}
    return tuple(dim if isinstance(dim, int) else ranges.get(dim, Dim(dim)).min for dim in spec.shape)


def _example(signature: Signature) -> dict[str, Any]:
    inputs = []
    for spec in signature.inputs:
        shape = _smallest(spec, signature)
        nought: Any = False if spec.dtype == "bool" else 0
        data = [nought] * prod(shape)
        inputs.append({"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": list(shape), "data": data})
    return {"inputs": inputs}
