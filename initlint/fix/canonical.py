"""From canonical values back to stored ones: views inverted, elements encoded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.model import Tensor, View

Array = NDArray[Any]

WRITABLE = ("float16", "bfloat16", "float32", "float64")
"""Element types that can be written: below 16 bits a weight is quantised and not drawn."""


class NotInvertible(ValueError):  # noqa: N818 - a property of the tensor, handled as a reason
    """Canonical values that no stored values give; the message says why."""


def read_stored(tensor: Tensor) -> Array:
    """All elements as stored, before any view, in an array of our own."""
    return np.array(replace(tensor, views=()).read())


def write_through(stored: Array, views: tuple[View, ...], values: Array) -> None:
    """Change ``stored`` so that, seen through ``views``, it equals ``values``.

    Elements that the views do not show stay bit for bit as they are.

    Raises:
        NotInvertible: a factor of zero stands between storage and operator, or no exponential is
            what is asked for.
    """
    if not views:
        stored[...] = values
        return
    view, rest = views[0], views[1:]
    seen = _seen(stored, view)
    if np.shares_memory(seen, stored):
        write_through(seen, rest, values)
        return
    before = seen.copy()
    write_through(seen, rest, values)
    changed = _unseen(stored, view, seen)
    if view.kind == "reshape":
        stored[...] = changed
    else:
        np.copyto(stored, changed, where=seen != before)


def _seen(stored: Array, view: View) -> Array:
    if view.kind == "reshape":
        return stored.reshape(view.argument)
    if view.kind == "transpose":
        return stored.transpose(view.argument)
    if view.kind == "slice":
        axis, start, stop = view.argument
        index: list[slice] = [slice(None)] * stored.ndim
        index[axis] = slice(start, stop)
        return stored[tuple(index)]
    if view.kind == "exp":
        return np.array(np.exp(stored))
    operand: Array = np.asarray(view.argument, dtype=stored.dtype)
    if np.broadcast_shapes(stored.shape, operand.shape) != stored.shape:
        raise NotInvertible("it is expanded by a factor of larger shape")
    changed: Array = stored * operand if view.kind == "scale" else stored + operand
    return changed


def _unseen(stored: Array, view: View, seen: Array) -> Array:
    if view.kind == "reshape":
        return seen.reshape(stored.shape)
    if view.kind == "exp":
        if not (seen > 0).all():
            raise NotInvertible("it is an exponential, which is never zero or below")
        return np.asarray(np.log(seen))
    operand: Array = np.asarray(view.argument, dtype=stored.dtype)
    if view.kind == "shift":
        shifted: Array = seen - operand
        return shifted
    if not operand.all():
        raise NotInvertible("it is multiplied by a constant zero")
    return np.asarray(seen / operand)


def encode(dtype: str, values: Array) -> bytes:
    """Little-endian stored elements, rounded to nearest even.

    Raises:
        NotInvertible: a type that cannot be written.
    """
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, dtype="<f4").view("<u4").astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
        quiet = (bits >> np.uint64(16)) | np.uint64(0x40)
        return np.where(np.isnan(values), quiet, rounded).astype("<u2").tobytes()
    if dtype not in WRITABLE:
        raise NotInvertible(f"its element type {dtype} is not one that weights are drawn in")
    codes = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=codes[dtype]).tobytes()


def rounded(dtype: str, values: Array) -> Array:
    """The values as they read back after `encode`."""
    from initlint.load.decode import decode

    return decode(dtype, encode(dtype, values), values.size).reshape(values.shape)
