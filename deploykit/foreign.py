"""What foreign libraries say when they fail, as one short line without colours and without paths of this machine."""

from __future__ import annotations

import re

BRIEF = 240
"""Characters of a message that go into manifests and tables."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FOLDERS = re.compile(r"(?<![\w.])(?:/[\w.+@-]+)+/")
_SUMMARY = re.compile(r"^<class '[\w.]+'>: (?P<cause>.+)$", re.MULTILINE)
_USER_LINE = re.compile(r'raised this error:\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+\n\s*(?P<code>[^\n]+)')
_CAUSED_BY = re.compile(r"Caused by: \((?P<file>[^_:)][^:)]*):(?P<line>\d+) in \w+\)")


def brief(text: str) -> str:
    """The line that says why, with the user's own line where torch names it; it goes into manifests and tables.

    torch.export ends a long message with the user's frame; torch.onnx hides the cause in a summary at the end.
    """
    plain = _COLOURS.sub("", text)
    first = next((line.strip() for line in plain.splitlines() if line.strip()), "")
    if (summary := plain.partition("## Exception summary")[2]) and (cause := _SUMMARY.search(summary)):
        first = cause["cause"]
    first = _FOLDERS.sub("", first)
    place = ""
    if found := _USER_LINE.search(plain):
        place = f" at {found['file'].rsplit('/', 1)[-1]}:{found['line']}: {found['code'].strip()}"
    elif found := _CAUSED_BY.search(plain):
        place = f" at {found['file']}:{found['line']}"
    if place:
        return _cut(first, BRIEF - min(len(place), BRIEF // 2)) + _cut(place, BRIEF // 2)
    return _cut(first, BRIEF)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
