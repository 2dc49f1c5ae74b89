"""Reads protobuf's text format, as far as a model configuration uses it, without protobuf.

A message is a dict from field to its values in order; a value is a text, a `Word` (number, enum, true) or a message.
Which fields exist is Triton's to say: it refuses a file with an unknown one.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from deploykit.errors import RefusedError

MOST_DEEP = 50
"""A configuration nests six deep; more is no configuration."""

_TOKEN = re.compile(
    r"""(?P<blank>(?:\s|\#[^\n]*)+)
      | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<word>-?\s*[A-Za-z0-9_.][\w.+]*)
      | (?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|u[0-9A-Fa-f]{4}|.)")
_CLOSING = {"{": "}", "<": ">"}


class Word(str):
    """A value without quotes."""

    __slots__ = ()


Value: TypeAlias = "str | Message"
Message: TypeAlias = "dict[str, list[Value]]"


def read(text: str) -> Message:
    """The message that `text` describes.

    Raises:
        RefusedError: MALFORMED, with the line.
    """
    return _Reader(text).message("", 0)


def number(message: Message, field: str, default: int = 0) -> int:
    """The value of an integer field; `default` where it is not there or no integer."""
    values = message.get(field) or [Word(str(default))]
    return int(values[-1], 0) if isinstance(values[-1], Word) and re.fullmatch(r"-?\d+", values[-1]) else default


def word(message: Message, field: str, default: str = "") -> str:
    """The value of a text, an enum or a switch; `default` where it is not there."""
    values = [value for value in message.get(field, []) if isinstance(value, str)]
    return values[-1] if values else default


def inner(message: Message, field: str) -> list[Message]:
    """The messages in a field."""
    return [value for value in message.get(field, []) if isinstance(value, dict)]


def entries(message: Message, field: str) -> dict[str, Message]:
    """A map field: key to the entry, which holds the value as its own field."""
    return {word(entry, "key"): entry for entry in inner(message, field)}


class _Reader:
    """Tokens of one text, and where it stands in them."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, int]] = []
        at, line = 0, 1
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise _malformed(line, f"{text[at : at + 10]!r} is no token")
            if found.lastgroup != "blank":
                self.tokens.append((str(found.lastgroup), found[0], line))
            line += found[0].count("\n")
            at = found.end()
        self.tokens.append(("end", "", line))
        self.at = 0

    def next(self, *expected: str) -> str:
        """Take a token that is one of these marks, or of one of these kinds."""
        kind, text, line = self.tokens[self.at]
        if text not in expected and kind not in expected:
            raise _malformed(line, f"{text or 'the end'!r} where {' or '.join(expected)} is expected")
        self.at += 1
        return text

    def sees(self, *marks: str) -> bool:
        """Whether the next token is one of these marks."""
        kind, text, _ = self.tokens[self.at]
        return kind == "mark" and text in marks

    def message(self, closing: str, depth: int) -> Message:
        """Fields up to `closing`, the end where that is empty."""
        if depth > MOST_DEEP:
            raise _malformed(self.tokens[self.at][2], f"more than {MOST_DEEP} messages in each other")
        found: Message = {}
        while not (self.sees(closing) if closing else self.tokens[self.at][0] == "end"):
            self.field(found, depth)
        self.next(closing or "end")
        return found

    def field(self, into: Message, depth: int) -> None:
        """One `name: value`, `name { … }` or `name: [ … ]`."""
        name = self.next("word")
        if not self.sees("{", "<", "["):
            self.next(":")
        values = into.setdefault(name, [])
        if self.sees("["):
            self.next("[")
            while not self.sees("]"):
                values.append(self.value(depth))
                if not self.sees("]"):
                    self.next(",")
            self.next("]")
        else:
            values.append(self.value(depth))
        if self.sees(",", ";"):
            self.next(",", ";")

    def value(self, depth: int) -> Value:
        """A message, a word, or texts one after another, which are one."""
        if self.sees("{", "<"):
            return self.message(_CLOSING[self.next("{", "<")], depth + 1)
        kind = self.tokens[self.at][0]
        if kind != "text":
            return Word(self.next("word").replace(" ", ""))
        parts = []
        while self.tokens[self.at][0] == "text":
            parts.append(_ESCAPE.sub(_unescaped, self.next("text")[1:-1]))
        return "".join(parts)


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] in "xu" and len(code) > 1:
        return chr(int(code[1:], 16))
    return chr(int(code, 8)) if code[0].isdecimal() else {"n": "\n", "t": "\t", "r": "\r"}.get(code, code)


def _malformed(line: int, message: str) -> RefusedError:
    return RefusedError(f"config.pbtxt line {line}", message, "write it as protobuf's text format", "MALFORMED")
