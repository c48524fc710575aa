"""Which rules run: names, codes and code prefixes, as the command line and configuration say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

ALL = "ALL"
"""The selector that stands for every rule."""

_EXACT = 100
"""Specificity of a full name or code: above any prefix, whose specificity is its length."""


R = TypeVar("R")
"""A rule class, or any object with its ``code``, ``name`` and ``preview``."""


class UnknownRule(ValueError):  # noqa: N818 - says what it is about, as KeyError does
    """A selector that names no rule.

    Attributes:
        selector: what the user wrote.
        suggestion: the nearest name or code, or None.
    """

    def __init__(self, selector: str, suggestion: str | None) -> None:
        self.selector = selector
        self.suggestion = suggestion
        hint = f"did you mean {suggestion!r}?" if suggestion else "`initlint rules` lists them all"
        super().__init__(f"unknown rule {selector!r}: {hint}")


def split_selectors(values: Iterable[str]) -> tuple[str, ...]:
    """Selectors of a repeatable option whose values may also be separated by commas."""
    parts = (part.strip() for value in values for part in value.split(","))
    return tuple(part for part in parts if part)


def _specificity(selector: str, rule: Any) -> int:
    """How exactly a selector names a rule; -1 when it does not."""
    if selector == ALL:
        return 0
    if selector.lower() == rule.name or selector.upper() == rule.code:
        return _EXACT
    return len(selector) if rule.code.startswith(selector.upper()) else -1


def _nearest(selector: str, rules: Iterable[Any]) -> str | None:
    names = {rule.name: rule.name for rule in rules}
    codes = {rule.code.lower(): rule.code for rule in rules}
    known = names | codes
    near = get_close_matches(selector.lower(), sorted(known), 1)
    return known[near[0]] if near else None


def _check(selectors: Iterable[str], rules: Sequence[Any]) -> None:
    for selector in selectors:
        if selector != ALL and all(_specificity(selector, rule) < 0 for rule in rules):
            raise UnknownRule(selector, _nearest(selector, rules))


def find(rules: Iterable[R], selector: str) -> R:
    """The one rule with this name or code.

    Raises:
        UnknownRule: when there is none, with the nearest name.
    """
    known: list[Any] = list(rules)
    for rule in known:
        if _specificity(selector, rule) == _EXACT:
            return rule  # type: ignore[no-any-return]
    raise UnknownRule(selector, _nearest(selector, known))


def choose(
    rules: Iterable[R],
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    extend_select: Sequence[str] = (),
    preview: bool = False,
) -> tuple[R, ...]:
    """The rules that run, in the order given.

    Without ``select`` every rule is on. The most specific selector decides (``--select SCL
    --ignore SCL2 --extend-select SCL208`` runs SCL208), and ``ignore`` wins a tie. A rule in
    preview runs only with ``preview`` or when its full name or code is selected.

    Raises:
        UnknownRule: for a selector that matches no rule.
    """
    known: list[Any] = list(rules)
    wanted = (*(select or (ALL,)), *extend_select)
    _check((*wanted, *ignore), known)
    chosen = []
    for rule in known:
        on = max((_specificity(selector, rule) for selector in wanted), default=-1)
        off = max((_specificity(selector, rule) for selector in ignore), default=-1)
        allowed = preview or not rule.preview or on == _EXACT
        if on > off and allowed:
            chosen.append(rule)
    return tuple(chosen)
