"""Where in the user's code a module was constructed."""

from __future__ import annotations

import ast
import inspect
import os
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

import torch

from initlint.model import Where

_MARK = "_initlint_where"

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _library_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    roots.append(os.path.dirname(os.path.dirname(os.path.abspath(torch.__file__))))
    return tuple(dict.fromkeys(os.path.realpath(root) + os.sep for root in roots))


_LIBRARIES = _library_roots()


@lru_cache(maxsize=4096)
def is_library(file: str) -> bool:
    """True for code that the user did not write: installed packages and the standard library."""
    if file.startswith("<"):
        return not file.startswith(("<ipython", "<stdin"))
    path = os.path.realpath(file)
    return path.startswith((*_LIBRARIES, _OWN)) or f"{os.sep}site-packages{os.sep}" in path


@contextmanager
def recording(*own_roots: str) -> Iterator[None]:
    """Note, on every module built inside, the line of user code that built it.

    Args:
        *own_roots: folders that count as the user's code even when they are installed packages
            (the target's own package).
    """
    original = torch.nn.Module.__init__
    roots = tuple(os.path.realpath(root) + os.sep for root in own_roots)

    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        if _MARK not in self.__dict__:
            self.__dict__[_MARK] = _caller(self, sys._getframe(1), roots)
        original(self, *args, **kwargs)

    torch.nn.Module.__init__ = initialise
    try:
        yield
    finally:
        torch.nn.Module.__init__ = original


def _caller(module: Any, frame: FrameType | None, roots: tuple[str, ...]) -> Where | None:
    """The innermost user frame that is not a constructor of the module itself."""
    while frame is not None:
        code = frame.f_code
        if not _constructs(frame, module):
            file = code.co_filename
            if not is_library(file) or (roots and os.path.realpath(file).startswith(roots)):
                name = getattr(code, "co_qualname", code.co_name)
                return Where(os.path.abspath(file), frame.f_lineno, None, name)
        frame = frame.f_back
    return None


def _constructs(frame: FrameType, module: Any) -> bool:
    """True for the ``__init__`` chain of the module that is being built."""
    code = frame.f_code
    if code.co_name != "__init__" or not code.co_argcount:
        return False
    return frame.f_locals.get(code.co_varnames[0]) is module


def collect(module: Any) -> dict[str, Where]:
    """The recorded place of every submodule, by path; the notes are removed from the modules."""
    sites: dict[str, Where] = {}
    for path, child in module.named_modules():
        where = child.__dict__.get(_MARK)
        if where is not None:
            sites[path] = where
    for child in module.modules():
        child.__dict__.pop(_MARK, None)
    return sites


def source_sites(module: Any) -> dict[str, Where]:
    """Places read off the source of each parent's class, for modules that were built elsewhere.

    The place of ``blocks.0.fc`` is the line in the class of ``blocks.0`` that assigns ``self.fc``;
    the elements of a container written out in that line's call have their own lines.
    """
    sites: dict[str, Where] = {}
    modules = dict(module.named_modules())
    for path in modules:
        if not path:
            continue
        parent_path, _, name = path.rpartition(".")
        lines = _assignments(modules[parent_path].__class__)
        if name in lines:
            sites[path] = lines[name][0]
            continue
        outer = sites.get(parent_path)
        grand_path, _, attribute = parent_path.rpartition(".")
        if outer is not None and name.isdigit() and parent_path:
            grand = _assignments(modules[grand_path].__class__)
            elements = grand.get(attribute, (outer, ()))[1]
            index = int(name)
            sites[path] = elements[index] if index < len(elements) else outer
    return sites


@lru_cache(maxsize=512)
def _assignments(kind: type) -> dict[str, tuple[Where, tuple[Where, ...]]]:
    """``self.name = …`` statements of a user's class and its bases."""
    found: dict[str, tuple[Where, tuple[Where, ...]]] = {}
    for base in reversed(kind.__mro__):
        try:
            file = inspect.getsourcefile(base)
            if file is None or is_library(file):
                continue
            lines, first = inspect.getsourcelines(base)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError, IndentationError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if (
                    isinstance(target, ast.Attribute)
                    and isinstance(target.value, ast.Name)
                    and target.value.id == "self"
                ):
                    place = Where(file, first + node.lineno - 1, None, base.__qualname__)
                    elements = tuple(
                        Where(file, first + item.lineno - 1, None, base.__qualname__)
                        for item in _elements(node.value)
                    )
                    found[target.attr] = (place, elements)
    return found


def _elements(value: ast.expr) -> list[ast.expr]:
    """Calls written out as the elements of a container's constructor."""
    if not isinstance(value, ast.Call):
        return []
    items: list[ast.expr] = list(value.args)
    if len(items) == 1 and isinstance(items[0], (ast.List, ast.Tuple)):
        items = list(items[0].elts)
    if not items or not all(isinstance(item, ast.Call) for item in items):
        return []
    return items
