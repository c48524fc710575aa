"""``initlint rules``: the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from initlint.cli.catalogue import RuleInfo


class CatalogueFormat(str, Enum):
    """How the catalogue is written."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def rules(
    format: Annotated[
        CatalogueFormat, typer.Option(help="Format of the list.")
    ] = CatalogueFormat.TEXT,
) -> None:
    """List the rules that are installed."""
    from initlint.cli.catalogue import installed_rules
    from initlint.cli.console import write

    known = installed_rules()
    if format is CatalogueFormat.JSON:
        from initlint.report.json import dump

        write(dump({"schema": 1, "rules": [rule.to_dict() for rule in known]}) + "\n")
    elif format is CatalogueFormat.MARKDOWN:
        write(as_markdown(known))
    else:
        write(as_text(known))


def as_text(known: Sequence[RuleInfo]) -> str:
    """One line per rule: code, name, summary; a rule in preview has a ``*``."""
    width = max((len(rule.name) for rule in known), default=0) + 1
    lines = [
        f"{rule.code}  {rule.name + ('*' if rule.preview else ''):<{width}}  {rule.summary}"
        for rule in known
    ]
    if any(rule.preview for rule in known):
        lines.append("\n* in preview: runs with --preview, or when selected by name")
    return "\n".join(lines) + "\n"


def as_markdown(known: Sequence[RuleInfo]) -> str:
    """A table, one row per rule."""
    lines = ["| code | rule | family | looks at | since | what it finds |", "|---" * 6 + "|"]
    for rule in known:
        since = f"{rule.since} (preview)" if rule.preview else rule.since
        summary = rule.summary.replace("|", "\\|")
        needs = ", ".join(rule.needs)
        lines.append(
            f"| {rule.code} | `{rule.name}` | {rule.family} | {needs} | {since} | {summary} |"
        )
    return "\n".join(lines) + "\n"
