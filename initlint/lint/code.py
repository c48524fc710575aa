"""Parameter paths as Python expressions, so that the code of a fix can be pasted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
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


def rolled(lines: Sequence[str]) -> list[str]:
    """Lines that differ by one index as one loop over it: a deep network has a line a layer."""
    alike = Counter(found[:2] for line in lines for found in _indices(line))
    groups: dict[tuple[str, str], list[int]] = {}
    for line in lines:
        best = max(_indices(line), key=lambda found: alike[found[:2]], default=(line, "", -1))
        if alike[best[:2]] < 2:
            best = (line, "", -1)
        groups.setdefault(best[:2], []).append(best[2])
    return [_loop(*around, indices) for around, indices in groups.items()]


def _indices(line: str) -> list[tuple[str, str, int]]:
    """What stands before and after each index of a line, and the index."""
    if line.startswith("for "):
        return []
    return [(line[: at.start()], line[at.end() :], int(at[1])) for at in _INDEX.finditer(line)]


_INDEX = re.compile(r"\[(\d+)\]")


def _loop(before: str, after: str, indices: Sequence[int]) -> str:
    if len(indices) < 2:
        return f"{before}[{indices[0]}]{after}" if indices[0] >= 0 else before
    first, last, step = indices[0], indices[-1], max(indices[1] - indices[0], 1)
    values = f"({', '.join(map(str, indices))})"
    even = step == 1 or len(indices) > 2
    if even and list(indices) == list(range(first, last + 1, step)):
        bounds = [last + 1] if (first, step) == (0, 1) else [first, last + 1]
        values = f"range({', '.join(map(str, bounds + [step] * (step > 1)))})"
    return f"for i in {values}: {before}[i]{after}"
