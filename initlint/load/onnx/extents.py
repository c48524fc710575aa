"""Integer arithmetic on shapes, of which some entries only a run can tell."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from initlint.load.onnx.call import Call
from initlint.load.onnx.values import Extent, Fixed, Shape, Value
from initlint.model import from_array


def settled(extent: Extent, name: str) -> Value:
    """A fully known extent as a constant."""
    if None in extent.entries:
        return extent
    array = np.array(extent.entries, dtype=np.float64).reshape(() if extent.scalar else (-1,))
    return Fixed(from_array(name, array, "int64"), (name,), stored=False, integer=True)


def _entries(value: Value | None) -> tuple[Shape, bool] | None:
    """Known integers of a small value, and whether it is a scalar."""
    if isinstance(value, Extent):
        return value.entries, value.scalar
    if isinstance(value, Fixed):
        integers = value.integers()
        return None if integers is None else (integers, value.shape == ())
    return None


def fold_extents(call: Call) -> Value | None:
    """Integer arithmetic on shapes of which some entries are unknown."""
    parts = [_entries(value) for value in call.inputs if value is not None]
    if not parts or any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    source = next((v.source for v in call.inputs if isinstance(v, Extent) and v.source), None)
    result = _extent_result(call, known)
    if result is None:
        return None
    entries, scalar = result
    return settled(Extent(entries, scalar, source), call.outputs[0])


def _extent_result(call: Call, parts: list[tuple[Shape, bool]]) -> tuple[Shape, bool] | None:
    entries, scalar = parts[0]
    if call.op in ("Identity", "Cast"):
        return entries, scalar
    if call.op == "Unsqueeze" and scalar:
        return entries, False
    if call.op == "Squeeze" and len(entries) == 1:
        return entries, True
    if call.op == "Reshape" and parts[1][0] in ((-1,), (len(entries),)):
        return entries, False
    if call.op == "Reshape" and len(entries) == 1:
        return entries, parts[1][0] == ()
    if call.op == "Where" and len(parts) == 3:
        return _extent_choice(parts)
    if call.op == "Concat":
        return tuple(entry for part, _ in parts for entry in part), False
    if call.op == "Gather" and not scalar:
        rows, one = parts[1]
        picked: list[int | None] = []
        for row in rows:
            if row is None or not -len(entries) <= row < len(entries):
                return None
            picked.append(entries[row])
        return tuple(picked), one
    if call.op == "Slice" and not scalar:
        starts, stops = call.integers("starts", 1), call.integers("ends", 2)
        steps = call.integers("steps", 4) or (1,)
        if starts is None or stops is None or len(starts) != 1 or not steps[0]:
            return None
        return entries[starts[0] : stops[0] : steps[0]], False
    if call.op in _EXTENT_ARITHMETIC and len(parts) == 2:
        return _extent_arithmetic(call.op, parts[0], parts[1])
    if call.op == "ReduceProd":
        total = None if None in entries else prod(e for e in entries if e is not None)
        return (total,), not call.integer("keepdims", 1)
    return None


_EXTENT_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: int(a / b) if b else 0,
    "Max": max,
    "Min": min,
    "Equal": lambda a, b: int(a == b),
    "Mod": lambda a, b: a % b if b else 0,
}


def _extent_choice(parts: list[tuple[Shape, bool]]) -> tuple[Shape, bool] | None:
    length = max(len(entries) for entries, _ in parts)
    if any(len(entries) not in (1, length) for entries, _ in parts):
        return None
    condition, first, second = (e * length if len(e) == 1 else e for e, _ in parts)
    entries = tuple(
        None if chosen is None else a if chosen else b
        for chosen, a, b in zip(condition, first, second, strict=True)
    )
    return entries, all(scalar for _, scalar in parts)


def _extent_arithmetic(
    op: str, left: tuple[Shape, bool], right: tuple[Shape, bool]
) -> tuple[Shape, bool] | None:
    first, second = left[0], right[0]
    length = max(len(first), len(second))
    if len(first) not in (1, length) or len(second) not in (1, length):
        return None
    first = first * length if len(first) == 1 else first
    second = second * length if len(second) == 1 else second
    function = _EXTENT_ARITHMETIC[op]
    pairs = zip(first, second, strict=True)
    entries = tuple(None if a is None or b is None else function(a, b) for a, b in pairs)
    return entries, left[1] and right[1]
