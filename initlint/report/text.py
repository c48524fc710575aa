"""Text that came from a file, a library or a process, made safe to show.

Names and messages from a model may hold terminal control sequences, text that reorders itself, or
commands that a CI runner obeys. They travel as `Untrusted` and become text only through it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME_LIMIT = 200
"""Characters of a name that are shown: two lines of a wide terminal, more than any real path."""

LINE_LIMIT = 300
"""Characters of a one-line error."""

_LOG_COMMAND = re.compile(r"##(?=[A-Za-z]*\[)")
"""``##[group]``, ``##vso[…]`` and ``##teamcity[…]``, which runners obey anywhere in a line."""

_WORKFLOW_COMMANDS = (
    "error|warning|notice|debug|group|endgroup|echo|add-mask|add-path|add-matcher|remove-matcher"
    "|set-output|set-env|save-state|stop-commands"
)
_LINE_COMMAND = re.compile(
    rf"^(\s*):(?=:)|:(?=:(?:{_WORKFLOW_COMMANDS})\b)", re.IGNORECASE | re.MULTILINE
)
"""``::error::``, which GitHub obeys at the start of a line, after blanks.

A known command is broken anywhere: text that wraps, or that another tool cuts, starts new lines.
"""


def _escape(character: str) -> str:
    number = ord(character)
    short = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}.get(number)
    if short is not None:
        return short
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def visible(raw: str) -> str:
    """``raw`` on one line, with everything that does not print as itself spelled out.

    `str.isprintable` is false for the categories *Other* (control, format with the bidirectional
    and zero-width marks, surrogate, private, unassigned) and *Separator* except the space, which is
    exactly what must not reach a terminal or a log.
    """
    if not raw.isprintable():
        raw = "".join(c if c.isprintable() else _escape(c) for c in raw)
    return inert(raw)


def shorten(text: str, limit: int) -> str:
    """``text`` cut to ``limit`` characters with an ellipsis in the middle, so both ends stay."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 3
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def inert(line: str) -> str:
    """A composed line that no CI runner takes for a command."""
    line = _LOG_COMMAND.sub("# #", line) if "##" in line else line
    return _LINE_COMMAND.sub(_break, line) if "::" in line else line


def _break(match: re.Match[str]) -> str:
    return f"{match[1] or ''}: "


def inert_json(text: str) -> str:
    """A JSON document in which no log command stands; it still means the same.

    Two colons or number signs in a row occur only inside strings, where an escape may replace one.
    """
    return text.replace("##", "#\\u0023").replace("::", ":\\u003a")


def one_line(raw: str, limit: int = LINE_LIMIT) -> str:
    """A library's message or a process's output as one safe line."""
    return shorten(visible(" ".join(raw.split())), limit)


def lines(raw: str, limit: int) -> str:
    """A text of several lines, each of them safe, cut to ``limit`` characters."""
    return "\n".join(visible(line) for line in raw[:limit].split("\n"))


@dataclass(frozen=True, slots=True, order=True)
class Untrusted:
    """A string that initlint did not write.

    ``str()`` and f-strings give its safe, shortened form; `raw` is for comparing and for formats
    with an escaper of their own.
    """

    raw: str

    def __str__(self) -> str:
        return self.show()

    def __format__(self, spec: str) -> str:
        return format(self.show(), spec)

    def __bool__(self) -> bool:
        return bool(self.raw)

    def show(self, limit: int = NAME_LIMIT) -> str:
        """The safe form, at most ``limit`` characters."""
        return shorten(visible(self.raw[: 4 * limit] + self.raw[4 * limit :][-limit:]), limit)
