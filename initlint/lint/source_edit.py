"""Where the line of a fix belongs in the source of the module that it is about."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from initlint.lint.code import expression, rolled

_CALL = re.compile(r"torch\.nn\.init\.(?P<name>\w+)\((?P<what>[^,()]+)(?P<rest>, .*)?\)")

_LAST = (ast.Return, ast.Raise)
"""Statements behind which nothing runs."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Text to insert into a source file.

    Attributes:
        line, column: where, from 1, in characters.
        text: what; begins with a line break.
    """

    line: int
    column: int
    text: str


def insertion(source: str, line: int, params: Sequence[str], code: str) -> Edit | None:
    """A call of ``torch.nn.init`` as lines at the end of the constructor that built a layer.

    Behind everything else that the constructor does, so that no later initialisation of its own
    undoes it; what runs after the constructor (``model.apply(...)``) still may.

    Args:
        source: the source file.
        line: where the layer was built, from 1.
        params: paths of the parameters that the call is for, as the whole model names them.
        code: the call for one of them, such as
            ``torch.nn.init.kaiming_normal_(layers[0].weight, nonlinearity='relu')``.

    Returns:
        None when the code is no such call, when the line is in no constructor, or when it cannot
        be told what the constructor calls the layer or ``torch.nn.init``.
    """
    call = _CALL.fullmatch(code)
    if call is None or call["what"] not in map(expression, params):
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    module = _initialisers(tree)
    constructor = _constructor(tree, line)
    if module is None or constructor is None or isinstance(constructor.body[-1], _LAST):
        return None
    owner = constructor.args.args[0].arg
    attribute = _attribute(constructor, line, owner)
    paths = [_below(name, attribute) for name in params] if attribute else []
    if not paths or None in paths:
        return None
    calls = (f"{module}.{call['name']}({owner}.{path}{call['rest'] or ''})" for path in paths)
    return _at_the_end(source, constructor, rolled(list(dict.fromkeys(calls))))


def _initialisers(tree: ast.Module) -> str | None:
    """What the file calls ``torch.nn.init``."""
    for node in tree.body:
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            name = alias.asname or alias.name
            origin = f"{getattr(node, 'module', '') or ''}.{alias.name}".lstrip(".")
            if isinstance(node, ast.Import) and origin.startswith("torch.") and not alias.asname:
                return "torch.nn.init"
            tail = {"torch": ".nn.init", "torch.nn": ".init", "torch.nn.init": ""}.get(origin)
            if tail is not None:
                return f"{name}{tail}"
    return None


def _constructor(tree: ast.Module, line: int) -> ast.FunctionDef | None:
    """The ``__init__`` that holds the line."""
    functions = [
        item
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name == "__init__" and item.args.args
    ]
    within = (item for item in functions if item.lineno <= line <= (item.end_lineno or 0))
    return next(within, None)


def _attribute(constructor: ast.FunctionDef, line: int, owner: str) -> str | None:
    """The attribute that the statement on the line sets, or appends to."""
    covering = [
        node
        for node in ast.walk(constructor)
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.Expr))
        and node.lineno <= line <= (node.end_lineno or 0)
    ]
    for statement in covering:
        places: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            places = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            places = [statement.target]
        elif isinstance(statement.value, ast.Call):
            places = [statement.value.func]
        for place in places:
            for node in ast.walk(place):
                if not isinstance(node, ast.Attribute):
                    continue
                if isinstance(node.value, ast.Name) and node.value.id == owner:
                    return node.attr
    return None


def _below(name: str, attribute: str | None) -> str | None:
    """The expression of a parameter from its constructor's attribute on."""
    parts = name.split(".")
    if attribute not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index(attribute)
    return expression(".".join(parts[at:]))


def _at_the_end(source: str, constructor: ast.FunctionDef, calls: Sequence[str]) -> Edit:
    last = constructor.body[-1]
    lines = source.splitlines()
    number = last.end_lineno or last.lineno
    text = lines[number - 1].encode()
    column = len(text[: last.end_col_offset].decode()) + 1
    first = lines[last.lineno - 1]
    indent = first[: len(first) - len(first.lstrip())]
    return Edit(number, column, "".join(f"\n{indent}{call}" for call in calls))
