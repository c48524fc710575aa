"""A rule's documentation for a terminal and as Markdown, from its docstring.

Both read the same sections: headings underlined with dashes, paragraphs, lists that begin with
``-``, and code that is indented behind ``::``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from initlint.cli.catalogue import RuleInfo

WIDTH = 80
"""Columns of a terminal page: the width that every terminal has."""

MARK = "<!-- Written by `initlint rules --format markdown`: edit the rule's docstring instead. -->"

PICTURES = "pictures"
"""Folder beside the pages that holds ``<rule-name>.svg``."""

_HEADING = re.compile(r"^(\S[^\n]*)\n-+$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One paragraph, list item or piece of code.

    Attributes:
        kind: ``text``, ``item``, ``code`` or ``formula``.
        text: without line breaks, but for code and formulas.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """One heading of the docstring with what stands below it."""

    heading: str
    blocks: tuple[Block, ...]


def parse(doc: str) -> tuple[str, tuple[Section, ...]]:
    """The first line of a docstring and its sections."""
    parts = _HEADING.split(doc.strip() + "\n")
    head = " ".join(parts[0].split())
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return head, tuple(Section(heading.strip(), tuple(_blocks(body))) for heading, body in pairs)


def _blocks(body: str) -> Iterator[Block]:
    code: list[str] = []
    text: list[str] = []
    kind = "text"
    in_code = False
    for line in body.splitlines():
        if in_code and (not line.strip() or line.startswith("    ")):
            code.append(line[4:])
            continue
        if in_code:
            yield Block("code", "\n".join(code).strip("\n"))
            code, in_code = [], False
        stripped = line.strip()
        starts = stripped.startswith("- ")
        if text and (not stripped or starts or stripped == "::"):
            yield Block(kind, " ".join(text))
            text = []
        if stripped == "::":
            in_code = True
        elif starts:
            kind, text = "item", [stripped[2:]]
        elif stripped:
            kind = kind if text else "text"
            text.append(stripped)
    if in_code:
        yield Block("code", "\n".join(code).strip("\n"))
    elif text:
        yield Block(kind, " ".join(text))


def terminal_page(rule: RuleInfo, width: int = WIDTH) -> str:
    """The page as plain text, wrapped to ``width`` columns; code keeps its lines."""
    summary, sections = parse(rule.doc)
    state = ", in preview" if rule.preview else ""
    lines = [
        f"{rule.name} ({rule.code}){state}",
        f"family {rule.family} · since {rule.since} · looks at {', '.join(rule.needs)}",
        "",
        *_wrapped(summary, width),
    ]
    for section in _with_formula(rule, sections):
        lines += ["", section.heading, "-" * len(section.heading)]
        for number, block in enumerate(section.blocks):
            if number and block.kind != "item":
                lines.append("")
            lines += _terminal_block(block, width)
    if rule.options:
        lines += ["", "Options", "-------"]
        lines += _wrapped(f"Set them under [tool.initlint.rules.{rule.name}]:", width)
        for name, option in sorted(rule.options.items()):
            lines.append(f"  {name} = {_toml(option['default'])}")
            lines += _wrapped(str(option["why"]), width, "      ")
    return "\n".join(lines) + "\n"


def _terminal_block(block: Block, width: int) -> list[str]:
    if block.kind == "code":
        return textwrap.indent(block.text, "    ").splitlines()
    if block.kind == "formula":
        lines = block.text.splitlines()
        return [piece for line in lines for piece in _wrapped(line, width, "        ", "    ")]
    if block.kind == "item":
        return _wrapped(block.text, width, "  ", "- ")
    return _wrapped(block.text, width)


def _wrapped(text: str, width: int, indent: str = "", first: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _with_formula(rule: RuleInfo, sections: Sequence[Section]) -> tuple[Section, ...]:
    """The sections, with the rule's formula behind how it decides."""
    if not rule.formula:
        return tuple(sections)
    formula = Section("Formula", (Block("formula", rule.formula),))
    found: list[Section] = []
    for section in sections:
        found.append(section)
        if section.heading == "How it decides":
            found.append(formula)
    return tuple(found)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def markdown_page(rule: RuleInfo, *, picture: bool = False) -> str:
    """The page as Markdown.

    Args:
        rule: the rule.
        picture: whether ``pictures/<name>.svg`` stands beside the page.
    """
    summary, sections = parse(rule.doc)
    state = " · **in preview**" if rule.preview else ""
    facts = f"`{rule.code}` · {rule.family} · since {rule.since} · looks at "
    lines = [MARK, "", f"# {rule.name}", "", facts + ", ".join(rule.needs) + state, ""]
    lines += [f"**{_escaped(summary)}**", ""]
    for section in _with_formula(rule, sections):
        if picture and section.heading == "How it decides":
            lines += [f"![{rule.name}]({PICTURES}/{rule.name}.svg)", ""]
        lines += [f"## {section.heading}", ""]
        for block in section.blocks:
            lines += _markdown_block(block)
        if section.blocks and section.blocks[-1].kind == "item":
            lines.append("")
    if rule.options:
        lines += ["## Options", "", f"Under `[tool.initlint.rules.{rule.name}]`:", ""]
        lines += ["| option | default | where it comes from |", "|---|---|---|"]
        lines += [
            f"| `{name}` | `{_toml(option['default'])}` | {_cell(str(option['why']))} |"
            for name, option in sorted(rule.options.items())
        ]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _markdown_block(block: Block) -> list[str]:
    if block.kind in ("code", "formula"):
        language = "python" if block.kind == "code" else "text"
        return [f"```{language}", block.text, "```", ""]
    if block.kind == "item":
        return [f"- {_escaped(block.text)}"]
    return [_escaped(block.text), ""]


def _escaped(text: str) -> str:
    """Text whose angle brackets and stars stand for themselves, code spans left alone."""
    pieces = text.split("`")
    for index in range(0, len(pieces), 2):
        pieces[index] = pieces[index].replace("<", "&lt;").replace("*", "\\*")
    return "`".join(pieces)


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def markdown_table(rules: Sequence[RuleInfo], *, linked: bool = False) -> str:
    """A table, one row per rule; with links to the pages when they stand beside it."""
    lines = ["| code | rule | family | looks at | since | what it finds |", "|---" * 6 + "|"]
    for rule in rules:
        since = f"{rule.since} (preview)" if rule.preview else rule.since
        name = f"[`{rule.name}`]({rule.name}.md)" if linked else f"`{rule.name}`"
        needs = ", ".join(rule.needs)
        summary = _cell(rule.summary)
        lines.append(f"| {rule.code} | {name} | {rule.family} | {needs} | {since} | {summary} |")
    return "\n".join(lines) + "\n"


def markdown_index(rules: Sequence[RuleInfo]) -> str:
    """The catalogue: families in the order of their codes, each with its rules."""
    families: dict[str, list[RuleInfo]] = {}
    for rule in rules:
        families.setdefault(rule.family, []).append(rule)
    lines = [
        MARK,
        "",
        "# Rules",
        "",
        f"{len(rules)} rules in {len(families)} families. A rule's name is its identity, the code "
        "a short alias; `--select` takes both, and the beginning of a code. `initlint explain "
        "RULE` prints the same page in a terminal.",
        "",
    ]
    for family, members in families.items():
        lines += [f"## {family}", "", "| code | rule | what it finds |", "|---|---|---|"]
        for rule in members:
            state = " (preview)" if rule.preview else ""
            link = f"[`{rule.name}`]({rule.name}.md){state}"
            lines.append(f"| {rule.code} | {link} | {_cell(rule.summary)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
