"""Help pages: options in groups, examples as they were written."""

from __future__ import annotations

import textwrap
from typing import Any

from typer.core import TyperCommand


def paragraphs(text: str) -> str:
    """Text whose lines the help formatter leaves alone, by click's mark for that."""
    blocks = textwrap.dedent(text).strip().split("\n\n")
    return "\n\n".join(f"\b\n{block}" for block in blocks)


class GroupedCommand(TyperCommand):
    """A command whose help page lists its options under the panels they declare."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options group by group in the order of declaration."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            argument = parameter.param_type_name == "argument"
            panel = getattr(parameter, "rich_help_panel", None) or "Options"
            if argument:
                record = (record[0].partition(" <")[0], record[1])
            groups.setdefault("Arguments" if argument else panel, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)
