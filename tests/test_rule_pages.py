"""The pages of the rules: complete, up to date, and readable in a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from initlint.cli.catalogue import installed_rules
from initlint.cli.rule_page import Block, markdown_page, parse, terminal_page
from initlint.cli.rules import pages

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "rules"
RULES = installed_rules()


def test_pages_are_up_to_date():
    wanted = pages(RULES, FOLDER / "pictures")
    found = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.md")}
    stale = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    assert stale == [], "run: make pages"


def test_every_picture_has_its_page():
    names = {rule.name for rule in RULES}
    assert {file.stem for file in (FOLDER / "pictures").glob("*.svg")} <= names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_page_fits_a_terminal(rule):
    code = {
        line
        for section in parse(rule.doc)[1]
        for block in section.blocks
        if block.kind == "code"
        for line in block.text.splitlines()
    }
    for line in terminal_page(rule).splitlines():
        assert len(line) <= 80 or line.strip() in {text.strip() for text in code}, line


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_states_its_formula_and_its_sources(rule):
    assert rule.formula
    assert all(len(line) <= 96 for line in rule.formula.splitlines())
    references = next(s for s in parse(rule.doc)[1] if s.heading == "References")
    assert references.blocks


def test_blocks_of_a_docstring():
    head, (section,) = parse(
        "Summary.\n\nHeading\n-------\nOne\ntwo.\n\n- a\n  b\n- c\n\n::\n\n    x\n"
    )
    assert head == "Summary."
    assert section.heading == "Heading"
    assert section.blocks == (
        Block("text", "One two."),
        Block("item", "a b"),
        Block("item", "c"),
        Block("code", "x"),
    )


def test_markdown_keeps_what_it_says():
    page = markdown_page(next(rule for rule in RULES if rule.name == "relu-after-xavier"))
    assert "# relu-after-xavier" in page
    assert "```python\nfrom torch import nn" in page
    assert "## Formula" in page


def test_pages_are_written_and_old_ones_removed(tmp_path):
    from initlint.cli.rule_page import MARK
    from initlint.cli.rules import write_pages

    (tmp_path / "gone.md").write_text(MARK, encoding="utf-8")
    (tmp_path / "mine.md").write_text("# Mine", encoding="utf-8")
    assert write_pages(RULES, tmp_path) == len(RULES) + 1
    assert not (tmp_path / "gone.md").exists()
    assert (tmp_path / "mine.md").exists()
    assert "relu-after-xavier.md" in (tmp_path / "index.md").read_text(encoding="utf-8")
