"""Equal units, equal tensors and tensors drawn from the same random stream."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure.precision import distinct, median, unit_roundoff
from initlint.measure.scattered import scattered

Array = NDArray[Any]

ULPS = 2.0
"""Equal up to this many units in the last place at the largest magnitude: a scale factor folded
into the weights and a change of dtype round once each. Values on a half-precision grid must agree
bit by bit: two such units are up to 1.6 % of the largest weight, and different units may agree to
that."""

STREAM_LEAST = 64
"""Shortest common prefix that is evidence of one random stream, and the longest one looked at is
`STREAM_MOST`. 64 independent ratios agreeing to 1e-4 have a probability below 1e-250."""

STREAM_MOST = 4096

STREAM_SPREAD = 1e-4
"""Relative median deviation of the ratios; one stream rescaled in float32 leaves 1e-7, in bfloat16
4e-3 would be needed and independent draws would still give more than 1."""


SMALL = 1 << 12
"""Elements up to which the number of passes over a matrix costs more than their arithmetic."""

SUMMED = 4.0
"""Standard errors of a sum in single precision that two equal rows may be apart, because the
product sums them in different orders: f rounded terms err by about u √f ‖row‖ ‖probe‖ (Higham 2002,
section 4.2, the statistical estimate), u = 2⁻²⁴."""


@dataclass(frozen=True, slots=True)
class SharedStream:
    """Two tensors that are proportional over their common prefix.

    Attributes:
        ratio: median of ``a / b``.
        spread: median absolute deviation of the ratio, relative to it.
        count: elements compared.
    """

    ratio: float
    spread: float
    count: int


def duplicate_units(
    array: Array, dtype: str | None = None, most: float | None = None
) -> tuple[tuple[int, ...], ...]:
    """Groups of equal rows of ``(units, features…)``, each group and the groups in row order.

    Candidates share the value of two random projections (matrix-vector products, so linear in the
    elements, then a sort of the units); every candidate is verified element by element to `ULPS`.
    Rows of zeros are a group like any other. Non-finite rows equal nothing.

    Args:
        array: the weight, units first.
        dtype: storage dtype where it differs from the array's.
        most: magnitude that no finite element exceeds, where it is known.
    """
    if array.ndim == 0 or array.shape[0] < 2 or array.size == 0:
        return ()
    matrix = array.reshape(array.shape[0], -1)
    if most is not None and matrix.shape[0] <= SMALL and _differ_at_once(matrix, dtype, most):
        return ()
    return () if surely_differ(matrix, dtype) else _compared(matrix, dtype)


@np.errstate(all="ignore")  # what is not finite is left to others
def surely_differ(matrix: Array, dtype: str | None) -> bool:
    """True when no two rows of ``(units, features)`` are equal, or equal up to sign.

    Three projections in single precision tell nearly every matrix at once; False says nothing.
    """
    if matrix.dtype != np.float32 or min(matrix.shape) < 2 or matrix.size <= SMALL:
        return False
    features = matrix.shape[1]
    probes = scattered(features, 3).astype(np.float32)
    shadows = np.abs(matrix @ probes).astype(np.float64)
    longest = sqrt(float(np.einsum("ij,ij->i", matrix, matrix).max()))
    probe = float(np.linalg.norm(probes, axis=0).max())
    if not (isfinite(longest) and np.isfinite(shadows).all()):
        return False
    tolerance = _tolerance(dtype or str(matrix.dtype), longest)  # no element is larger
    slack = (4.0 * tolerance + SUMMED * 2.0**-24 * sqrt(features) * longest) * probe
    run = np.zeros(len(shadows), np.intp)
    for shadow in shadows.T:
        order = np.lexsort((shadow, run))
        apart = (np.diff(shadow[order]) > slack) | (np.diff(run[order]) > 0)
        run[order[1:]] = np.cumsum(apart)
        run[order[0]] = 0
        if run.max() == len(run) - 1:
            return True
    return False


@np.errstate(all="ignore")  # non-finite and overflowing rows equal nothing
def _compared(matrix: Array, dtype: str | None) -> tuple[tuple[int, ...], ...]:
    """Groups of equal rows of a matrix; see `duplicate_units`."""
    if matrix.size <= SMALL and _surely_distinct(matrix, dtype):
        return ()
    finite = np.isfinite(matrix)
    if not finite.all():
        matrix = np.where(finite, matrix, np.nan)
    largest = float(np.abs(matrix).max(initial=0.0, where=finite))
    tolerance = _tolerance(dtype or str(matrix.dtype), largest)
    features = matrix.shape[1]
    probes = scattered(features, 2)
    shadows = np.empty((matrix.shape[0], 2))
    step = max(1, (1 << 20) // features)
    for start in range(0, matrix.shape[0], step):
        piece = matrix[start : start + step].astype(np.float64, copy=False)
        shadows[start : start + step] = piece @ probes
    # Differences of at most `tolerance` per element move a projection by about tolerance·‖v‖₂;
    # four times that, plus the rounding of the float64 product itself.
    slack = (4.0 * tolerance + 1e-13 * largest) * float(np.linalg.norm(probes, axis=0).max())
    groups: list[tuple[int, ...]] = []
    for candidates in _runs(shadows[:, 0], np.arange(matrix.shape[0]), slack):
        for close in _runs(shadows[candidates, 1], candidates, slack):
            groups.extend(_verified(matrix, close, tolerance))
    return tuple(sorted(groups))


def _tolerance(dtype: str, largest: float) -> float:
    """How far two elements may be apart that count as equal."""
    roundoff = unit_roundoff(dtype)
    return ULPS * roundoff * largest if roundoff <= 2.0**-23 else 0.0


def _differ_at_once(matrix: Array, dtype: str | None, most: float) -> bool:
    """True when the first features tell all units apart, as they do in nearly every draw."""
    least = 2 * _tolerance(dtype or str(matrix.dtype), most)  # twice: differences are rounded
    first = matrix[:, 0].tolist()
    first.sort()
    return all(above - below > least for below, above in pairwise(first))


def _surely_distinct(matrix: Array, dtype: str | None) -> bool:
    """True when one projection tells all rows of a small matrix apart.

    What `duplicate_units` would find after many more passes, each of which costs more on a small
    matrix than its arithmetic.
    """
    largest = float(np.maximum.reduce(np.abs(matrix), axis=None))
    if not isfinite(largest):
        return False
    tolerance = _tolerance(dtype or str(matrix.dtype), largest)
    # No component of the probes is above 1/2, which bounds the slack from above.
    slack = (4.0 * tolerance + 1e-13 * largest) * 0.5 * sqrt(matrix.shape[1])
    probe = scattered(matrix.shape[1], 2)
    shadows = sorted((matrix.astype(np.float64, copy=False) @ probe)[:, 0].tolist())
    return all(above - below > slack for below, above in pairwise(shadows))


def _runs(values: Array, indices: Array, slack: float) -> list[Array]:
    """Index sets of two or more values whose sorted neighbours differ by at most ``slack``."""
    finite = np.isfinite(values)
    values, indices = values[finite], indices[finite]
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    near = np.flatnonzero(ranked[1:] - ranked[:-1] <= slack)
    if near.size == 0:
        return []
    first = np.concatenate(([True], np.diff(near) > 1))
    starts = near[first]
    stops = near[np.concatenate((first[1:], [True]))] + 2
    ordered = indices[order]
    return [np.sort(ordered[start:stop]) for start, stop in zip(starts, stops, strict=True)]


def _verified(matrix: Array, candidates: Array, tolerance: float) -> list[tuple[int, ...]]:
    """Split candidates into groups that really equal their first row.

    Two projections already agree, so more than a few different rows in one run do not occur; the
    bound on the rounds keeps the work linear whatever the input.
    """
    groups: list[tuple[int, ...]] = []
    for _ in range(8):
        if candidates.size < 2:
            break
        first = matrix[candidates[0]]
        same = np.zeros(candidates.size, np.bool_)
        step = max(1, (1 << 20) // matrix.shape[1])
        for start in range(0, candidates.size, step):
            rows = matrix[candidates[start : start + step]]
            same[start : start + step] = np.abs(rows - first).max(axis=1) <= tolerance
        same[0] = True
        if np.count_nonzero(same) > 1:
            groups.append(tuple(int(index) for index in candidates[same]))
        candidates = candidates[~same]
    return groups


def same_stream(a: Array, b: Array) -> SharedStream | None:
    """Whether two tensors were drawn from one random stream, differently scaled.

    A generator that is seeded anew before each layer gives layers that are exactly proportional
    over the shorter one's length, in storage order. Returns None for independent tensors, tensors
    below `STREAM_LEAST` elements, and constants (any two of which are proportional).
    """
    count = min(a.size, b.size, STREAM_MOST)
    if count < STREAM_LEAST:
        return None
    x = a.reshape(-1)[:count].astype(np.float64)
    y = b.reshape(-1)[:count].astype(np.float64)
    usable = np.isfinite(x) & np.isfinite(y) & (y != 0.0) & (x != 0.0)
    if np.count_nonzero(usable) < max(STREAM_LEAST, count // 2):
        return None
    x, y = x[usable], y[usable]
    if distinct(np.abs(x)) < STREAM_LEAST // 2:
        return None
    ratios = x / y
    ratio = median(ratios)
    spread = median(np.abs(ratios - ratio)) / abs(ratio)
    return SharedStream(ratio, spread, int(x.size)) if spread < STREAM_SPREAD else None


def content_key(array: Array) -> str:
    """Digest of a tensor's values and shape; equal tensors have equal digests.

    Positive and negative zero count as equal.
    """
    clean = np.ascontiguousarray(array + np.zeros((), array.dtype))
    digest = blake2b(repr(clean.shape).encode(), digest_size=16)
    digest.update(clean.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
