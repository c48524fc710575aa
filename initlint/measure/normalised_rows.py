"""Rows that were drawn from a uniform and then brought to one norm, or to mean 0 as well.

Weight normalisation and weight standardisation, folded into the weights by an export, leave no
common bound; each row still is a uniform of its own centre and width.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure.families import SIGMAS, dependence, has_equal_rows
from initlint.measure.result import Moments

Array = NDArray[Any]

ROW_LEAST, POOLED_LEAST = 8, 512
"""Values of a row, and of all rows together. Between the extremes of eight normals lie values of
variance 0.065 of their squared distance, of uniforms 1/12: 5.7 standard errors apart at 512."""

KOLMOGOROV = sqrt(-0.5 * log(0.5 * 6.3e-5))
"""√n times the distance of distribution functions that chance exceeds as often as `SIGMAS`."""


def are_uniform_rows(array: Array, moments: Moments) -> bool:
    """True when all rows have one norm and each is a uniform draw up to its centre and width.

    Between the least and the largest of n uniform values the other n - 2 are uniform again, exactly
    and whatever the bounds are, so that the rows can be pooled.

    Args:
        array: the weight in canonical orientation, finite.
        moments: its moments.
    """
    rows = array.reshape(len(array), -1)
    if rows.shape[1] < ROW_LEAST or len(rows) * (rows.shape[1] - 2) < POOLED_LEAST:
        return False
    if moments.std <= 0.0 or not has_equal_rows(array):
        return False
    ordered = np.sort(rows.astype(np.float64), axis=1)
    low, width = ordered[:, :1], ordered[:, -1:] - ordered[:, :1]
    if not (width > 0.0).all():
        return False
    inner = np.sort(((ordered[:, 1:-1] - low) / width).ravel())
    if not _is_standard_uniform(inner):
        return False
    return next(dependence(array, moments.mean, moments.std, moments.kurtosis), None) is None


def _is_standard_uniform(ordered: Array) -> bool:
    """Kolmogorov's test, and one of the variance: 1/12 with a scatter of √(1/80 - 1/144)/√n."""
    n = ordered.size
    steps = np.arange(n + 1) / n
    distance = max(float(np.max(steps[1:] - ordered)), float(np.max(ordered - steps[:-1])))
    off = abs(float(np.mean((ordered - 0.5) ** 2)) - 1 / 12) / sqrt(1 / 80 - 1 / 144)
    return distance * sqrt(n) <= KOLMOGOROV and off * sqrt(n) <= SIGMAS
