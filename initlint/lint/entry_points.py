"""Entry points of one group, read as `importlib.metadata` does it for installed folders.

That module imports the `email` package and more to parse metadata that nobody asks for here: with
it, finding the rules took longer than running them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from importlib import import_module
from typing import Any, NamedTuple

GROUP = "initlint.rules"
"""The group that rule packs declare."""

_FOLDERS = (".dist-info", ".egg-info")


class EntryPoint(NamedTuple):
    """One line ``name = module:attribute`` that an installed distribution declares."""

    name: str
    value: str

    def load(self) -> Callable[[], Any]:
        """The object it names.

        Raises:
            Exception: whatever importing it raises.
        """
        module, _, attributes = self.value.partition("[")[0].replace(" ", "").partition(":")
        found: Any = import_module(module)
        loaded: Callable[[], Any] = reduce(getattr, filter(None, attributes.split(".")), found)
        return loaded


def entry_points(group: str, path: Sequence[str] | None = None) -> list[EntryPoint]:
    """Entry points of a group, in the order of the search path.

    Of a distribution that is installed twice the first one counts. What lies in zip files is not
    found.

    Args:
        group: the section of ``entry_points.txt``.
        path: folders to search; `sys.path` when None.
    """
    seen: set[str] = set()
    found: list[EntryPoint] = []
    for folder in sys.path if path is None else path:
        for entry in distributions(folder or "."):
            name = re.sub(r"[-_.]+", "_", os.path.splitext(entry)[0].partition("-")[0]).lower()
            if name not in seen:
                seen.add(name)
                found.extend(_declared(os.path.join(folder, entry, "entry_points.txt"), group))
    return found


def distributions(folder: str) -> list[str]:
    """Names of the metadata folders of what is installed in a folder."""
    try:
        return sorted(entry for entry in os.listdir(folder) if entry.endswith(_FOLDERS))
    except OSError:  # the search path may name what is not there, or a zip file
        return []


def _declared(file: str, group: str) -> Iterator[EntryPoint]:
    try:
        with open(file, encoding="utf-8") as text:
            lines = [line.strip() for line in text]
    except (OSError, UnicodeDecodeError):  # most distributions declare none
        return
    section = ""
    for line in lines:
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif section == group and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield EntryPoint(name.strip(), value.strip())
