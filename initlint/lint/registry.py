"""Finding rule packs and checking that their rules are well formed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from initlint.lint.entry_points import GROUP, entry_points
from initlint.lint.rule import Rule

HEADINGS = (
    "What it does",
    "Why is this bad",
    "How it decides",
    "What it does not flag",
    "Example",
    "Use instead",
    "References",
)

_CODE = re.compile(r"[A-Z]{3}\d{3}")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_HEADING = re.compile(r"^[ \t]*(\S.*)\n[ \t]*-+$", re.MULTILINE)


class PackError(Exception):
    """A rule pack that cannot be used: the message names the file, the line and the fault."""


def _place(rule: type[Rule]) -> str:
    import inspect

    try:
        file = inspect.getsourcefile(rule) or rule.__module__
        return f"{file}:{inspect.getsourcelines(rule)[1]}"
    except (OSError, TypeError):
        return rule.__module__


def validate(rules: Iterable[type[Rule]]) -> None:
    """Check codes, names and docstrings of rules.

    Raises:
        PackError: on the first malformed or duplicate rule, with file and line.
    """
    seen: dict[str, type[Rule]] = {}
    for rule in rules:
        for attribute, pattern in (("code", _CODE), ("name", _NAME)):
            value = getattr(rule, attribute, None)
            if not isinstance(value, str) or not pattern.fullmatch(value):
                what = f"{rule.__name__}.{attribute} is {value!r}; expected {pattern.pattern}"
                raise PackError(f"{_place(rule)}: {what}")
            if value in seen:
                other = _place(seen[value])
                raise PackError(f"{_place(rule)}: {attribute} {value} is taken by {other}")
            seen[value] = rule
        found = set(_HEADING.findall(rule.__doc__ or ""))
        for heading in HEADINGS:
            if heading not in found:
                raise PackError(f"{_place(rule)}: the docstring lacks the heading {heading!r}")


@lru_cache(maxsize=1)
def all_rules() -> tuple[type[Rule], ...]:
    """Every installed rule, by code.

    Each entry point of the group ``initlint.rules`` names a callable that returns rule classes.

    Raises:
        PackError: when a pack cannot be imported or holds a malformed rule.
    """
    rules: list[type[Rule]] = []
    for point in sorted(entry_points(GROUP)):
        try:
            pack: Sequence[type[Rule]] = tuple(point.load()())
        except PackError:
            raise
        except Exception as error:  # a broken third-party pack must be named, whatever it raised
            raise PackError(f"rule pack {point.name} ({point.value}): {error}") from error
        rules.extend(pack)
    validate(rules)
    return tuple(sorted(rules, key=lambda rule: rule.code))


def summary(rule: type[Rule]) -> str:
    """First line of a rule's docstring."""
    return (rule.__doc__ or "").strip().partition("\n")[0].rstrip()


def family(rule: type[Rule]) -> str:
    """The family a rule belongs to: the last package of its module path."""
    parts = rule.__module__.split(".")
    return parts[-2] if len(parts) > 1 else parts[0]
