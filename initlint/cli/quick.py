"""Calling a command without Typer's coercion, which imports pydantic: half of the parent's time.

The words are split by Typer's own parser. Values of the few plain types are then taken here where
they leave no doubt; everything else (a bad value, a missing argument, an option that declares more
than a range) is left to Typer, which then does it all from the start, messages included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum
from inspect import signature
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

_NUMBERS = {int: re.compile(r"-?\d{1,15}", re.ASCII), float: re.compile(r"-?\d+(\.\d+)?", re.ASCII)}

_PLAIN = {OptionInfo: vars(OptionInfo()), ArgumentInfo: vars(ArgumentInfo())}

_HARMLESS = frozenset(
    {"default", "param_decls", "metavar", "show_default", "help", "rich_help_panel", "min", "max"}
)


class _DoubtError(Exception):
    """Something that Typer should decide."""


def call(
    command: Any, function: Callable[..., None], context: Any, words: Sequence[str]
) -> int | None:
    """Call a command's function with the values that the words give it.

    Args:
        command: what Typer made of the function.
        function: the function itself.
        context: a context of the command.
        words: the arguments behind the command's name.

    Returns:
        The exit code, or None when Typer should parse these words: nothing has been done then.
    """
    try:
        values = arguments(command, function, context, words)
    except Exception:  # whatever Typer's parser objects to, Typer will say better
        return None
    try:
        function(**values)
    except typer.Exit as end:
        return end.exit_code
    return 0


def arguments(
    command: Any, function: Callable[..., None], context: Any, words: Sequence[str]
) -> dict[str, Any]:
    """Values of the function's parameters.

    Raises:
        Exception: any, when Typer should parse these words instead.
    """
    given, rest, _ = command.make_parser(context).parse_args(list(words))
    if rest:
        raise _DoubtError
    hints = get_type_hints(function, include_extras=True)
    values: dict[str, Any] = {}
    for name, parameter in signature(function).parameters.items():
        value = given.pop(name, None)
        if value is None or value == ():
            if parameter.default is parameter.empty:
                raise _DoubtError
            values[name] = parameter.default
        else:
            values[name] = _value(hints[name], value)
    if any(value for value in given.values()):  # such as --help
        raise _DoubtError
    return values


def _value(hint: Any, given: Any) -> Any:
    kind, *marks = get_args(hint)
    info = marks[0]
    plain = _PLAIN[type(info)]
    if any(vars(info)[name] != plain[name] for name in plain if name not in _HARMLESS):
        raise _DoubtError
    if get_origin(kind) in (Union, UnionType):
        kind = next(member for member in get_args(kind) if member is not type(None))
    if get_origin(kind) is list:
        return [_single(get_args(kind)[0], info, item) for item in given]
    return _single(kind, info, given)


def _single(kind: Any, info: Any, given: Any) -> Any:
    if kind is bool and isinstance(given, bool):
        return given
    if not isinstance(given, str):
        raise _DoubtError
    if kind is str or kind is Path:
        return kind(given)
    if kind in _NUMBERS:
        number = kind(given) if _NUMBERS[kind].fullmatch(given) else None
        if number is None or not _within(number, info.min, info.max):
            raise _DoubtError
        return number
    if issubclass(kind, Enum):
        return kind(given)
    raise _DoubtError


def _within(number: float, least: float | None, most: float | None) -> bool:
    return (least is None or number >= least) and (most is None or number <= most)
