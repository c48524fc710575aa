"""The built-in rule pack: one family a folder, one rule a file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from initlint.api import Rule


def _rules_of(package: str) -> Iterator[type[Rule]]:
    module = import_module(package)
    for info in sorted(iter_modules(module.__path__), key=lambda info: info.name):
        if info.name.startswith("_"):
            continue
        name = f"{package}.{info.name}"
        if info.ispkg:
            yield from _rules_of(name)
            continue
        for value in vars(import_module(name)).values():
            if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == name:
                yield value


def pack() -> tuple[type[Rule], ...]:
    """All built-in rules, found by walking the family folders."""
    return tuple(_rules_of(__name__))
