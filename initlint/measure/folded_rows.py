"""Rows that were drawn from one distribution and then each scaled by a number of its own.

An exporter that folds a batch normaliser into the weights before it multiplies each row by a gain.
Where the gains were drawn themselves, N(1, 0.02) say, the matrix fits no family as a whole.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure.families import fit
from initlint.measure.moments import array_moments
from initlint.measure.normalised_rows import ROW_LEAST, are_uniform_rows
from initlint.measure.precision import median
from initlint.measure.result import Family
from initlint.measure.scattered import scattered

Array = NDArray[Any]

POOLED_LEAST = 512
"""Values of all rows together from which maximum likelihood names a family for certain
(`initlint.measure.families.LEAST`)."""


SAMPLED = 1 << 14
"""Values of evenly spaced rows that a larger matrix is judged by first: nearly all trained ones are
refused there."""


def scaled_rows(array: Array) -> float | None:
    """Largest scale of a row over the middle one, where all rows are draws but for their scales.

    A row of m normals over its own rms lies evenly on a sphere, whatever its scale was, and times
    the root of a drawn χ²_m / m it is m independent normals again: so the usual tests apply. Of the
    835 matrices of the corpus's trained ONNX files 15 pass them, none of more than 10 % of its
    network's weights.

    Args:
        array: the weight in canonical orientation, finite.

    Returns:
        None where the rows are no independent draws from a normal or a uniform.
    """
    step = array.size // SAMPLED
    if step > 1 and _scales(array[::step]) is None:
        return None
    scales = _scales(array)
    return None if scales is None else float(scales.max() / median(scales))


def _scales(array: Array) -> Array | None:
    """Rms of each row, if the rows pass."""
    rows = array.reshape(len(array), -1).astype(np.float64)
    if rows.shape[1] < ROW_LEAST or rows.size < POOLED_LEAST:
        return None
    rms: Array = np.sqrt(np.mean(rows * rows, axis=1, keepdims=True))
    if not (rms > 0.0).all():
        return None
    level = (rows / rms).reshape(array.shape)
    if are_uniform_rows(level, array_moments(level)):
        return rms
    drawn = (level.reshape(rows.shape) * _radii(*rows.shape)).reshape(array.shape)
    return rms if fit(drawn, array_moments(drawn), True).family is Family.NORMAL else None


def _radii(count: int, degrees: int) -> Array:
    """``(count, 1)`` draws of the root of χ²/degrees, always the same.

    The cube root of χ²_m / m is nearly normal, with mean 1 - 2/(9m) and variance 2/(9m) (Wilson &
    Hilferty 1931); the normals are Box and Muller's (1958).
    """
    first, second = (scattered(count, 2) + 0.5).T
    normal = np.sqrt(-2.0 * np.log(1.0 - first)) * np.cos(2.0 * np.pi * second)
    spread = 2.0 / (9.0 * degrees)
    cubes: Array = np.maximum(1.0 - spread + normal * sqrt(spread), 0.0) ** 3
    return np.sqrt(cubes)[:, None]
