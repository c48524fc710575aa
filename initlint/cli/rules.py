"""``initlint rules``: the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
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
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="With --format markdown: write index.md and a page per rule into this folder.",
        ),
    ] = None,
) -> None:
    """List the rules that are installed, or write their pages."""
    from initlint.cli.catalogue import installed_rules
    from initlint.cli.console import complain, write

    known = installed_rules()
    if output is not None:
        if format is not CatalogueFormat.MARKDOWN:
            complain("initlint: --output goes with --format markdown")
            raise typer.Exit(2)
        try:
            count = write_pages(known, output)
        except OSError as error:
            complain(f"initlint: {output}: cannot be written: {(error.strerror or '').lower()}")
            raise typer.Exit(2) from error
        write(f"{count} pages in {output}\n")
        return
    if format is CatalogueFormat.JSON:
        from initlint.report.json import dump

        write(dump({"schema": 1, "rules": [rule.to_dict() for rule in known]}) + "\n")
    elif format is CatalogueFormat.MARKDOWN:
        from initlint.cli.rule_page import markdown_table

        write(markdown_table(known))
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


def pages(known: Sequence[RuleInfo], pictures: Path) -> dict[str, str]:
    """The Markdown pages by file name; a rule has a picture where ``pictures`` holds one."""
    from initlint.cli.rule_page import markdown_index, markdown_page

    found = {"index.md": markdown_index(known)}
    for rule in known:
        has_picture = (pictures / f"{rule.name}.svg").is_file()
        found[f"{rule.name}.md"] = markdown_page(rule, picture=has_picture)
    return found


def write_pages(known: Sequence[RuleInfo], folder: Path) -> int:
    """Write the pages, and remove those of rules that are gone; returns how many there are.

    Raises:
        OSError: the folder cannot be written to.
    """
    from initlint.cli.rule_page import MARK, PICTURES
    from initlint.output import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    found = pages(known, folder / PICTURES)
    for file in folder.glob("*.md"):
        if file.name not in found and file.read_text(encoding="utf-8").startswith(MARK):
            file.unlink()
    for name, text in found.items():
        write_atomically(folder / name, text)
    return len(found)
