"""The installed rules, for commands that talk about rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """What the catalogue holds about one rule."""

    code: str
    name: str
    family: str
    since: str
    preview: bool
    needs: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    summary: str
    doc: str
    formula: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "code": self.code,
            "name": self.name,
            "family": self.family,
            "since": self.since,
            "preview": self.preview,
            "needs": list(self.needs),
            "options": {name: dict(option) for name, option in self.options.items()},
            "summary": self.summary,
            "doc": self.doc,
            "formula": self.formula,
        }


def installed_rules() -> list[RuleInfo]:
    """Every installed rule, by code.

    Ends the command with exit code 2 and one line when a rule pack is malformed.
    """
    from initlint.cli.console import complain
    from initlint.engine import catalogue
    from initlint.lint.registry import PackError
    from initlint.report.text import one_line

    try:
        rules = catalogue()
    except PackError as error:
        complain(f"initlint: {one_line(str(error))}")
        raise typer.Exit(2) from error
    return [
        RuleInfo(
            code=rule["code"],
            name=rule["name"],
            family=rule["family"],
            since=rule["since"],
            preview=rule["preview"],
            needs=tuple(rule["needs"]),
            options=rule["options"],
            summary=rule["summary"],
            doc=rule["doc"],
            formula=rule["formula"],
        )
        for rule in rules
    ]
