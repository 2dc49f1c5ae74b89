"""The README of a handoff folder: what is in it, the commands to type, what was proven."""

from __future__ import annotations

from deploykit.errors import escape
from deploykit.handed import Handed, HandedVersion
from deploykit.handoff.interface import Commands, TargetPlugin
from deploykit.preprocessing import RECORDED
from deploykit.signature import Signature


def readme(record: Handed, target: TargetPlugin, commands: Commands, pinned: str = "") -> str:
    """Markdown; every `bash` block of it can be run as it stands, from top to bottom, in the folder.

    Records and signatures may come from anywhere: nothing of theirs begins a line, a block or a link.

    Args:
        record: of the folder.
        target: the plugin.
        commands: its own, for this folder.
        pinned: the onnxruntime in the folder's requirements; empty where there is none.
    """
    notes = [*map(_line, commands.notes), *_older(record, pinned)]
    latest = record.versions[-1]
    release = f" {_plain(record.release)}" if record.release else ""
    parts = [
        f"# {_plain(record.model)} for {_plain(record.target)}{release}\n",
        _opening(record, latest),
        _blocks(record, commands),
        "## What goes in and out\n\n" + _table(record.signature) + _images(record),
        "## What is proven\n\n" + _proof(record, target),
        *(["## To be known\n\n" + "\n\n".join(notes) + "\n"] if notes else []),
        _files(record),
    ]
    return "\n".join(parts)


def _opening(record: Handed, latest: HandedVersion) -> str:
    settings = f" Sessions open with {_code(latest.settings)}." if latest.settings else ""
    versions = ""
    if len(record.versions) > 1:
        versions = (
            " Versions: " + ", ".join(f"{one.number} ({_plain(one.variant.name)})" for one in record.versions) + "."
        )
    return (
        f"{_code(latest.variant.name)} ({_plain(latest.variant.precision)}), handed over by deploykit "
        f"{_plain(record.deploykit)} from the bundle with digest `{latest.bundle[:16]}`.{settings}{versions}\n"
    )


def _blocks(record: Handed, commands: Commands) -> str:
    """Install, start, check: one block each."""
    blocks = [("Install what it needs, once", "\n".join(commands.install))]
    if commands.start:
        blocks.append(("Start it", commands.start))
    # MLflow and its like take a minute to come up on a cold disk
    check = commands.check or f"python check.py --url {commands.url} --wait 120"
    where = "From a second terminal, prove the answers" if commands.start else "Prove the answers"
    blocks.append((where, check))
    text = "\n".join(f"{said}:\n\n```bash\n{code}\n```\n" for said, code in blocks if code)
    tail = "`check.py` needs numpy only." if record.speaks else ""
    python = "Python commands mean the environment of your choice, a fresh one best.\n\n" if record.speaks else ""
    return f"## Run it\n\n{python}" + text + (f"\n{tail}\n" if tail else "")


def _table(signature: Signature) -> str:
    rows = [("input", spec) for spec in signature.inputs] + [("output", spec) for spec in signature.outputs]
    lines = ["| | name | dtype | shape |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {side} | {_code(s.name)} | {_plain(s.dtype)} | {_code('[' + ', '.join(map(str, s.shape)) + ']')} |"
        for side, s in rows
    ]
    ranges = ", ".join(f"{_plain(dim.name)} from {dim}" for dim in signature.dims)
    return "\n".join(lines) + (f"\n\n{ranges}.\n" if ranges else "\n")


def _images(record: Handed) -> str:
    """Who turns raw images into what the network sees, and how."""
    steps = record.preprocessing
    if steps is None:
        return ""
    what = _code(str(steps).removeprefix(RECORDED))
    name, order = _code(steps.input), steps.order.upper()
    if steps.mode == "fused":
        return f"\n{name} takes raw images, {order}, 0 to 255, as they were decoded: the module itself does {what}.\n"
    return (
        f"\n**{name} takes no raw images**: whoever feeds it brings them, {order} and "
        f"{steps.layout.upper()} with 0 to 255, to NCHW floats by {what}; "
        "`deploykit.preprocess` in Python does it with numpy alone, and docs/preprocessing.md says it step by step.\n"
    )


def _proof(record: Handed, target: TargetPlugin) -> str:
    lines = []
    for one in record.versions:
        head = f"- Version {one.number}, {_code(one.variant.name)}: "
        count = _count(record, one)
        if one.verdict == "pass":
            lines.append(f"{head}passed the parity gate when it was handed over ({_plain(one.reason)}); {count}.")
        else:
            lines.append(f"{head}**was not verified**: {_plain(one.reason)}; {count}.")
    lines.append(f"- {target.proof}")
    limit = "The limits are root mean square errors to the model in float64"
    more = "; `deploykit verify BUNDLE --url URL` asks the server everything else, too" if record.speaks else ""
    return "\n".join(lines) + f"\n\n{limit}{more}.\n"


def _count(record: Handed, one: HandedVersion) -> str:
    if one.cases:
        return f"{len(one.cases)} cases of its reference travel in `reference/{one.number}/`"
    instead = ", which proves nothing here: use `deploykit verify BUNDLE --url URL`" if record.speaks else ""
    return f"**nothing of its reference is small and plain enough to travel**{instead}"


def _older(record: Handed, pinned: str) -> list[str]:
    """What is to be known where the engine that was named is not the one that the requirements bring."""
    kind, _, named = (record.release or "").partition(":")
    if kind != "ort" or not pinned or f"{pinned}.".startswith(f"{named}."):
        return []
    there = [[int(part) for part in one.split(".") if part.isdecimal()] for one in (pinned, named)]
    word = "a newer" if there[0] > there[1] else "another"
    return [
        f"The file was made for onnxruntime {_plain(named)}, and the pinned requirements hold {word} one, {pinned}, "
        "with which this kind of folder was proven: where the named one is to load it, install that one instead."
    ]


def _line(text: str) -> str:
    """A paragraph of Markdown in one line, without what opens a block."""
    return escape(text).replace("```", "'''").lstrip("#>-+ ")


def _plain(text: str) -> str:
    """A text that is no Markdown: it stays in its line and opens neither code, nor a table cell, a link or a tag."""
    return "".join(f"\\{letter}" if letter in "\\`|[<" else letter for letter in escape(text))


def _code(text: str) -> str:
    """The same as a span of code."""
    return f"`{escape(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _files(record: Handed) -> str:
    names = sorted({path.partition("/")[0] for path in record.files} | {"handoff.json"})
    return "## Files\n\n" + ", ".join(f"`{name}`" for name in names) + "; sha256 of each in `handoff.json`.\n"
