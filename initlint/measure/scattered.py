"""Numbers that no weights are aligned with, without the import of `numpy.random`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

REMEMBERED = 1 << 14
"""Numbers up to which an array is made once for all tensors of a shape: 128 KiB."""


def scattered(rows: int, columns: int) -> Array:
    """A read-only ``(rows, columns)`` array of numbers spread evenly between -1/2 and 1/2.

    Always the same. SplitMix64 (Steele, Lea & Flood 2014) of the index: as good for random
    projections as draws from `numpy.random`, whose import takes longer than all else that most
    tensors need.
    """
    return _remembered(rows, columns) if rows * columns <= REMEMBERED else _made(rows, columns)


@lru_cache(maxsize=64)
def _remembered(rows: int, columns: int) -> Array:
    return _made(rows, columns)


def _made(rows: int, columns: int) -> Array:
    state = np.arange(1, rows * columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    values: Array = ((state >> np.uint64(11)) * 2.0**-53 - 0.5).reshape(rows, columns)
    values.flags.writeable = False
    return values
