"""Numbers that no weights are aligned with, without the import of `numpy.random`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def scattered(rows: int, columns: int) -> Array:
    """A ``(rows, columns)`` array of numbers spread evenly between -1/2 and 1/2, always the same.

    SplitMix64 (Steele, Lea & Flood 2014) of the index: as good for random projections as draws from
    `numpy.random`, whose import takes longer than all else that most tensors need.
    """
    state = np.arange(1, rows * columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return ((state >> np.uint64(11)) * 2.0**-53 - 0.5).reshape(rows, columns)
