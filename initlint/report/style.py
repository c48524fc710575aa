"""How text is laid out for one stream: width, colour, and characters that it can show."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

DEFAULT_WIDTH = 80
WIDEST = 100
"""Prose wider than this is hard to read; tables may use the whole terminal."""

NARROWEST = 40

_CODES = {
    "error": "1;31",
    "warning": "1;33",
    "info": "1;36",
    "good": "1;32",
    "bold": "1",
    "dim": "2",
}

_ASCII = {
    "·": "-",
    "…": "...",
    "→": "->",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "≈": "~",
    "≠": "!=",
    "√": "sqrt",
    "σ": "sigma",
    "χ": "chi",
    "²": "^2",
    "±": "+-",
    "\u2212": "-",
    "–": "-",
    "—": "--",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "│": "|",
    "─": "-",
}


@dataclass(frozen=True, slots=True)
class Style:
    """Layout of one stream.

    Attributes:
        width: columns for prose.
        table_width: columns for tables.
        colour: write ANSI colours.
    """

    width: int = DEFAULT_WIDTH
    table_width: int = DEFAULT_WIDTH
    colour: bool = False

    def paint(self, text: str, role: str) -> str:
        """``text`` in the colour of its role, where colours are on."""
        return f"\x1b[{_CODES[role]}m{text}\x1b[0m" if self.colour and text else text

    def wrap(self, text: str, first: str = "", rest: str | None = None) -> list[str]:
        """``text`` wrapped behind ``first``, continued behind ``rest`` (default: blanks)."""
        indent = " " * len(first) if rest is None else rest
        return textwrap.wrap(
            text,
            self.width,
            initial_indent=first,
            subsequent_indent=indent,
            break_on_hyphens=False,
        ) or [first.rstrip()]


@dataclass(frozen=True, slots=True)
class View:
    """What the user asked of a report beyond its format.

    Attributes:
        style: layout of the stream it goes to.
        quiet: findings only.
        statistics: add a table of findings per rule.
        plot: add a chart of the signal by depth.
        root: folder that file names in reports for a code host are relative to.
    """

    style: Style = Style()
    quiet: bool = False
    statistics: bool = False
    plot: bool = False
    root: str = "."


def project_root(environment: Mapping[str, str] = os.environ) -> str:
    """The checkout as GitHub and GitLab name it, where we are inside it, else where we are."""
    here = os.path.realpath(".")
    for name in ("GITHUB_WORKSPACE", "CI_PROJECT_DIR"):
        root = os.path.realpath(environment.get(name) or ".")
        if os.path.commonpath([here, root]) == root:
            return root
    return here


def style_for(stream: TextIO, environment: Mapping[str, str] = os.environ) -> Style:
    """The style that suits a stream.

    A terminal gives its own width and colours unless ``NO_COLOR`` is set; ``FORCE_COLOR`` turns
    colours on for pipes too. Anything else is 80 columns without colour, the same everywhere.
    """
    terminal = stream.isatty()
    columns = shutil.get_terminal_size().columns if terminal else DEFAULT_WIDTH
    columns = max(columns, NARROWEST)
    if environment.get("NO_COLOR"):
        colour = False
    elif environment.get("FORCE_COLOR"):
        colour = environment["FORCE_COLOR"] != "0"
    else:
        colour = terminal and environment.get("TERM") != "dumb"
    return Style(min(columns, WIDEST), columns, colour)


def encodable(text: str, encoding: str | None) -> str:
    """``text`` with what ``encoding`` cannot express spelled in ASCII."""
    encoding = encoding or "ascii"
    try:
        text.encode(encoding)
        return text
    except (UnicodeEncodeError, LookupError):
        pass
    plain = "".join(_ASCII.get(character, character) for character in text)
    try:
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return plain.encode("ascii", "backslashreplace").decode("ascii")
