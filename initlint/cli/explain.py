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
    from initlint.selection import UnknownRule, find

    try:
        known: RuleInfo = find(installed_rules(), rule)
    except UnknownRule as error:
        complain(f"initlint: {error}")
        raise typer.Exit(2) from error
    write(page(known))


def page(rule: object) -> str:
    """The documentation page of one rule as text."""
    from initlint.cli.catalogue import RuleInfo

    assert isinstance(rule, RuleInfo)
    state = ", in preview" if rule.preview else ""
    needs = ", ".join(rule.needs)
    lines = [
        f"{rule.name} ({rule.code}){state}",
        f"family {rule.family} · since {rule.since} · looks at {needs}",
        "",
        rule.doc.strip(),
    ]
    if rule.options:
        lines += ["", "Options", "-------", f"Set them under [tool.initlint.rules.{rule.name}]:"]
        for name, option in sorted(rule.options.items()):
            lines.append(f"  {name} = {option['default']}    {option['why']}")
    return "\n".join(lines) + "\n"
