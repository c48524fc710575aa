"""Selecting rules by name, code and prefix."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from initlint.selection import UnknownRule, choose, find, split_selectors


def rule(code, name, preview=False):
    return SimpleNamespace(code=code, name=name, preview=preview)


RULES = (
    rule("SCL201", "forward-drift"),
    rule("SCL208", "relu-after-xavier"),
    rule("SYM108", "zero-weight"),
    rule("SYM109", "new-thing", preview=True),
)


def codes(**options):
    return [item.code for item in choose(RULES, **options)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["SCL201", "SCL208", "SYM108"]),
        ({"preview": True}, ["SCL201", "SCL208", "SYM108", "SYM109"]),
        ({"select": ["SCL"]}, ["SCL201", "SCL208"]),
        ({"select": ["zero-weight"]}, ["SYM108"]),
        ({"select": ["Zero-Weight", "scl201"]}, ["SCL201", "SYM108"]),
        ({"select": ["SYM"]}, ["SYM108"]),
        ({"select": ["SYM109"]}, ["SYM109"]),
        ({"select": ["new-thing"]}, ["SYM109"]),
        ({"select": ["ALL"]}, ["SCL201", "SCL208", "SYM108"]),
        ({"ignore": ["SCL2"]}, ["SYM108"]),
        ({"ignore": ["ALL"]}, []),
        ({"select": ["SCL"], "ignore": ["SCL208"]}, ["SCL201"]),
        ({"select": ["SCL208"], "ignore": ["SCL"]}, ["SCL208"]),
        ({"select": ["SCL"], "ignore": ["SCL"]}, []),
        ({"select": ["SCL208"], "ignore": ["relu-after-xavier"]}, []),
        ({"extend_select": ["new-thing"]}, ["SCL201", "SCL208", "SYM108", "SYM109"]),
        ({"select": ["SYM"], "extend_select": ["SCL201"]}, ["SCL201", "SYM108"]),
    ],
)
def test_most_specific_selector_decides(options, expected):
    assert codes(**options) == expected


@pytest.mark.parametrize("where", ["select", "ignore", "extend_select"])
def test_unknown_selector_is_an_error_with_a_suggestion(where):
    with pytest.raises(UnknownRule) as caught:
        choose(RULES, **{where: ["zero-wieght"]})
    assert str(caught.value) == "unknown rule 'zero-wieght': did you mean 'zero-weight'?"


def test_unknown_code_suggests_a_code():
    with pytest.raises(UnknownRule) as caught:
        choose(RULES, select=["SCL201X"])
    assert caught.value.suggestion == "SCL201"


def test_nothing_near_points_to_the_catalogue():
    with pytest.raises(UnknownRule, match="initlint rules"):
        choose(RULES, select=["qqqqqq"])


def test_find_takes_name_or_code_but_no_prefix():
    assert find(RULES, "SYM108").name == "zero-weight"
    assert find(RULES, "zero-weight").code == "SYM108"
    with pytest.raises(UnknownRule):
        find(RULES, "SYM")


def test_selectors_may_be_separated_by_commas():
    assert split_selectors(["SCL, SYM108", "zero-weight,"]) == ("SCL", "SYM108", "zero-weight")
