"""The README of a handoff folder: what is in it, the commands to type, what was proven."""

from __future__ import annotations

from deploykit.handed import Handed, HandedVersion
from deploykit.handoff.interface import Commands, TargetPlugin
from deploykit.signature import Signature


def readme(record: Handed, target: TargetPlugin, commands: Commands) -> str:
    """Markdown; every `bash` block of it can be run as it stands, from top to bottom, in the folder."""
    latest = record.versions[-1]
    release = f" {record.release}" if record.release else ""
    parts = [
        f"# {record.model} for {record.target}{release}\n",
        _opening(record, latest),
        _blocks(record, commands),
        "## What goes in and out\n\n" + _table(record.signature),
        "## What is proven\n\n" + _proof(record, target),
        *([] if not commands.notes else ["## To be known\n\n" + "\n\n".join(commands.notes) + "\n"]),
        _files(record),
    ]
    return "\n".join(parts)


def _opening(record: Handed, latest: HandedVersion) -> str:
    settings = f" Sessions open with `{latest.settings}`." if latest.settings else ""
    versions = ""
    if len(record.versions) > 1:
        versions = " Versions: " + ", ".join(f"{one.number} ({one.variant.name})" for one in record.versions) + "."
    return (
        f"`{latest.variant.name}` ({latest.variant.precision}), handed over by deploykit {record.deploykit} from the "
        f"bundle with digest `{latest.bundle[:16]}`.{settings}{versions}\n"
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
    lines += [f"| {side} | `{s.name}` | {s.dtype} | `[{', '.join(map(str, s.shape))}]` |" for side, s in rows]
    ranges = ", ".join(f"{dim.name} from {dim.min} to {dim.max}" for dim in signature.dims)
    return "\n".join(lines) + (f"\n\n{ranges}.\n" if ranges else "\n")


def _proof(record: Handed, target: TargetPlugin) -> str:
    lines = []
    for one in record.versions:
        head = f"- Version {one.number}, `{one.variant.name}`: "
        count = f"{len(one.cases)} cases of its reference travel in `reference/{one.number}/`"
        if one.verdict == "pass":
            lines.append(f"{head}passed the parity gate when it was handed over ({one.reason}); {count}.")
        else:
            lines.append(f"{head}**was not verified**: {one.reason}; {count}.")
    lines.append(f"- {target.proof}")
    limit = "The limits are root mean square errors to the model in float64"
    more = "; `deploykit verify BUNDLE --url URL` asks the server everything else, too" if record.speaks else ""
    return "\n".join(lines) + f"\n\n{limit}{more}.\n"


def _files(record: Handed) -> str:
    names = sorted({path.partition("/")[0] for path in record.files} | {"handoff.json"})
    return "## Files\n\n" + ", ".join(f"`{name}`" for name in names) + "; sha256 of each in `handoff.json`.\n"
