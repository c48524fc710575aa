"""Configuration: ``[tool.initlint]`` of the caller's project, checked with file and line.

It is looked for from the working directory up, never in a model's folder.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "initlint.toml"


class ConfigError(Exception):
    """A configuration that cannot be used: one line with file, line and what to do."""


@dataclass(frozen=True, slots=True)
class Allow:
    """An accepted pattern: findings that it matches do not count.

    Attributes:
        rule: name or code of the rule.
        reason: why it is right here; required.
        target, layer: glob patterns (``layer`` also matches a finding's parameter).
        expires: the day from which it no longer holds.
        place: ``file:line`` of the entry.
    """

    rule: str
    reason: str
    target: str = "*"
    layer: str = "*"
    expires: date | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """What the configuration file says.

    Attributes:
        path: the file; None when there is none.
        options: values of the command line's options by their kebab-case names.
        allows: accepted patterns.
        rule_options: options of rules by rule name.
        places: ``file:line`` of each option and rule table.
    """

    path: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    allows: tuple[Allow, ...] = ()
    rule_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)


Check = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _one_of(*allowed: str) -> tuple[str, Check]:
    return f"one of {', '.join(allowed)}", lambda value: value in allowed


_TEXTS: tuple[str, Check] = ("a list of strings", _is_texts)
_TEXT: tuple[str, Check] = ("a string", _is_text)
_FLAG: tuple[str, Check] = ("true or false", _is_flag)
_COUNT: tuple[str, Check] = ("a whole number", _is_count)
_NUMBER: tuple[str, Check] = ("a number above zero", _is_number)
_SHARE: tuple[str, Check] = (
    "a share between 0 and 1",
    lambda value: _is_number(value) and value < 1,
)

SEVERITIES = ("info", "warning", "error")
STAGES = ("auto", "fresh", "trained")

OPTIONS: Mapping[str, tuple[str, Check]] = {
    "select": _TEXTS,
    "ignore": _TEXTS,
    "extend-select": _TEXTS,
    "preview": _FLAG,
    "expect": _TEXT,
    "fail-on": _one_of(*SEVERITIES, "never"),
    "min-severity": _one_of(*SEVERITIES),
    "format": _TEXT,
    "report": _TEXTS,
    "baseline": _TEXT,
    "no-probe": _FLAG,
    "probe-timeout": _NUMBER,
    "probe-memory": _NUMBER,
    "timeout": _NUMBER,
    "input": _TEXT,
    "seed": _COUNT,
    "seeds": _COUNT,
    "widths": _TEXT,
    "sequence-length": _COUNT,
    "class-prior": _SHARE,
    "model": _TEXT,
    "stage": _one_of(*STAGES),
    "jobs": _COUNT,
    "cache": _FLAG,
    "cluster": _TEXT,
    "plot": _FLAG,
    "quiet": _FLAG,
    "verbose": _FLAG,
    "statistics": _FLAG,
    "exit-zero": _FLAG,
}
"""Every key of the table: what it must be, in words and as a check."""

_PATHS = ("baseline", "input")
_TABLES = ("allow", "rules")
_ALLOW_KEYS = ("rule", "target", "layer", "param", "reason", "expires")


def find_config(start: Path) -> Path | None:
    """The nearest file that configures initlint, from ``start`` upward."""
    for folder in (start, *start.parents):
        own = folder / FILE_NAME
        if own.is_file():
            return own
        project = folder / "pyproject.toml"
        if project.is_file() and _concerns_us(project):
            return project
    return None


def _concerns_us(project: Path) -> bool:
    """True when a pyproject.toml has our table, or names us and is too broken to tell."""
    try:
        text = project.read_text(encoding="utf-8", errors="replace")
        if "initlint" not in text:
            return False
        return "initlint" in tomllib.loads(text).get("tool", {})
    except OSError:
        return False
    except tomllib.TOMLDecodeError:
        return True


def load_config(path: Path | None, start: Path) -> Config:
    """The configuration from ``path``, or from the nearest file above ``start``.

    Raises:
        ConfigError: unreadable file, invalid TOML, unknown key or wrong value; with file and line.
    """
    found = path or find_config(start)
    if found is None:
        return Config()
    shown = _shown(found, start)
    try:
        text = found.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {(error.strerror or '').lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: is not valid TOML: {error}") from error
    table, prefix = _own_table(document, found)
    if not isinstance(table, dict):
        raise ConfigError(f"{shown}: {'.'.join(prefix)} must be a table")
    return _Reader(found, shown, _positions(text), prefix).read(table)


def _shown(path: Path, start: Path) -> str:
    try:
        return str(path.resolve().relative_to(start.resolve()))
    except ValueError:
        return str(path)


def _own_table(document: Mapping[str, Any], path: Path) -> tuple[Any, tuple[str, ...]]:
    """Initlint's table: ``[tool.initlint]`` of a pyproject.toml, else the whole file."""
    tool = document.get("tool")
    if isinstance(tool, dict) and "initlint" in tool:
        return tool["initlint"], ("tool", "initlint")
    return ({}, ()) if path.name == "pyproject.toml" else (document, ())


_HEADER = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[\w-]+)*)\s*=""")


def _positions(text: str) -> dict[tuple[str, ...], list[int]]:
    """Lines on which tables and keys appear, by their full path; tomllib does not tell."""
    lines: dict[tuple[str, ...], list[int]] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        key = None if header else _KEY.match(line)
        if header:
            table = _split(header[1])
            lines.setdefault(table, []).append(number)
        elif key:
            lines.setdefault((*table, *_split(key[1])), []).append(number)
    return lines


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Checks one table; knows where everything stands."""

    path: Path
    shown: str
    lines: Mapping[tuple[str, ...], list[int]]
    prefix: tuple[str, ...]

    def place(self, *keys: str, index: int = 0) -> str:
        """``file:line`` of a key or table; the file alone where the line is not known."""
        lines = self.lines.get((*self.prefix, *keys), [])
        return f"{self.shown}:{lines[min(index, len(lines) - 1)]}" if lines else self.shown

    def read(self, table: Mapping[str, Any]) -> Config:
        options: dict[str, Any] = {}
        places: dict[str, str] = {}
        for key, value in table.items():
            if key in _TABLES:
                continue
            place = self.place(key)
            if key not in OPTIONS:
                raise ConfigError(f"{place}: unknown option {key!r}{_hint(key, OPTIONS, _TABLES)}")
            words, check = OPTIONS[key]
            if not check(value):
                raise ConfigError(f"{place}: {key} must be {words}, not {value!r}")
            options[key] = str(self.path.parent / value) if key in _PATHS else value
            places[key] = place
        rules = self._rules(table.get("rules", {}), places)
        return Config(self.path, options, self._allows(table.get("allow", [])), rules, places)

    def _rules(self, table: Any, places: dict[str, str]) -> dict[str, Mapping[str, Any]]:
        if not isinstance(table, dict) or not all(isinstance(v, dict) for v in table.values()):
            place = self.place("rules")
            raise ConfigError(f"{place}: write rule options as [tool.initlint.rules.<name>]")
        for name in table:
            places[f"rules.{name}"] = self.place("rules", name)
        return dict(table)

    def _allows(self, entries: Any) -> tuple[Allow, ...]:
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ConfigError(f"{self.place('allow')}: write it as [[tool.initlint.allow]]")
        return tuple(self._allow(entry, index) for index, entry in enumerate(entries))

    def _allow(self, entry: Mapping[str, Any], index: int) -> Allow:
        place = self.place("allow", index=index)
        for key, value in entry.items():
            if key not in _ALLOW_KEYS:
                raise ConfigError(f"{place}: unknown key {key!r} in allow{_hint(key, _ALLOW_KEYS)}")
            if key != "expires" and not _is_text(value):
                raise ConfigError(f"{place}: {key} of allow must be a string, not {value!r}")
        for key in ("rule", "reason"):
            if key not in entry:
                raise ConfigError(f"{place}: allow needs a {key}")
        if "layer" in entry and "param" in entry:
            raise ConfigError(f"{place}: allow takes layer or param, not both")
        return Allow(
            rule=entry["rule"],
            reason=entry["reason"],
            target=entry.get("target", "*"),
            layer=entry.get("layer", entry.get("param", "*")),
            expires=_day(entry["expires"], place) if "expires" in entry else None,
            place=place,
        )


def _day(value: Any, place: str) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: expires must be a date like 2027-01-31") from error


def _hint(key: str, *known: Mapping[str, Any] | tuple[str, ...]) -> str:
    names = [name for group in known for name in group]
    near = get_close_matches(key.replace("_", "-"), names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
