"""docs/techniques.md leaves no technique out, and names only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from initlint.cli.app import app
from initlint.fix.schemes import SCHEMES
from initlint.lint.registry import all_rules

PAGE = (Path(__file__).parent.parent / "docs" / "techniques.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (A\.\d)[^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))

ROWS = {"A.1": 97, "A.2": 14, "A.3": 16, "A.4": 9, "A.5": 17}
"""Rows per section: tips 1.1 to 69 (three rows hold two), tables, encyclopedia, article, errors."""


def rows(section: str) -> list[list[str]]:
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("section", ROWS)
def test_no_row_is_missing(section):
    found = rows(section)
    assert len(found) == ROWS[section]
    assert all(cell for row in found for cell in row)


def test_every_tip_has_its_number():
    numbers = {int(row[0].split(".")[0].split("–")[0]) for row in rows("A.1")}
    assert numbers == set(range(1, 70))
    assert [row[0] for row in rows("A.5")] == [f"S{number}" for number in range(1, 18)]


def test_every_error_that_is_pointed_to_is_explained():
    assert set(re.findall(r"\((S\d+)\)", PAGE)) <= {row[0] for row in rows("A.5")}


def test_every_rule_that_is_named_exists():
    named = re.findall(r"\[`([a-z0-9-]+)`\]\(rules/([a-z0-9-]+)\.md\)", PAGE)
    assert all(shown == linked for shown, linked in named)
    assert {shown for shown, _ in named} <= {rule.name for rule in all_rules()}


def test_every_command_and_option_exists():
    group = typer.main.get_command(app)
    options = {
        option
        for command in group.commands.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for code in re.findall(r"`([^`]+)`", PAGE):
        words = code.split()
        if words[0] == "initlint":
            assert words[1] in group.commands, code
        assert {word for word in words if word.startswith("--")} <= options, code
        if "--scheme" in words:
            assert words[words.index("--scheme") + 1] in {*SCHEMES, "lsuv"}, code
