"""``initlint explain``: the documentation of a rule."""

from __future__ import annotations

from typing import Annotated

import typer


def explain(
    rule: Annotated[
        str, typer.Argument(metavar="RULE", help="Name or code, such as relu-after-xavier.")
    ],
) -> None:
    """Print what a rule is about: why it matters, how it decides, what to do."""
    from initlint.cli.catalogue import RuleInfo, installed_rules
    from initlint.cli.console import complain, write
    from initlint.cli.rule_page import terminal_page
    from initlint.integrations.texts import TEXTS
    from initlint.selection import UnknownRule, find

    for name, text in TEXTS.items():
        if rule.lower() in (name, text.code.lower()):
            write(f"{name} ({text.code}), found by initlint.watch\n\n{text.help}\n")
            return
    try:
        known: RuleInfo = find(installed_rules(), rule)
    except UnknownRule as error:
        complain(f"initlint: {error}")
        raise typer.Exit(2) from error
    write(terminal_page(known))
