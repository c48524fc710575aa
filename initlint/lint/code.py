"""Parameter paths as Python expressions, so that the code of a fix can be pasted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from keyword import iskeyword


def expression(name: str) -> str | None:
    """The Python expression of a parameter path; None when the path is none.

    ``layers.0.fc.weight`` is ``layers[0].fc.weight``, and ``0.weight``, a parameter of a bare
    Sequential, is ``model[0].weight``.
    """
    found = ""
    for part in name.split("."):
        if part.isascii() and part.isdigit():
            found += f"[{part}]" if found else f"model[{part}]"
        elif part.isidentifier() and not iskeyword(part):
            found += f".{part}" if found else part
        else:
            return None
    return found


def pasteable(code: str, names: Iterable[str]) -> str:
    """Code in which parameter paths are expressions.

    What other exporters call a weight (``dense/MatMul/ReadVariableOp:0``) is no expression; code
    speaks of the ``weight`` then, and the finding says which one is meant.
    """
    wanted = [name for name in sorted(set(names), key=len, reverse=True) if name in code]
    if not wanted:
        return code
    pattern = "|".join(map(re.escape, wanted))

    def written(match: re.Match[str]) -> str:
        return expression(match[0]) or "weight"

    return re.sub(rf"(?<![\w.\[])(?:{pattern})(?![\w\[])", written, code)
