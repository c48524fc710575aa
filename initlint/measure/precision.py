"""The grid that stored values lie on: rounding of the storage dtype, or of an earlier one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_UNIT_ROUNDOFF = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}
"""Distance from 1 to the next number. Coarser dtypes are grids on which no scheme is decidable."""

FEW_VALUES = 257
"""An 8-bit grid holds at most 256 levels (and perhaps an extra zero)."""

SAMPLE = 1 << 14

HEAD = 16
"""Values that are looked at first: one float32 number in 2^13 is a half one as well."""


def unit_roundoff(dtype: str) -> float:
    """Relative spacing of a storage dtype's numbers; float32's for what decodes to float32."""
    if dtype in _UNIT_ROUNDOFF:
        return _UNIT_ROUNDOFF[dtype]
    if dtype.startswith("float8") and "e4m3" in dtype:
        return 2.0**-3
    if dtype.startswith("float8"):
        return 2.0**-2
    return 2.0**-23


def is_float(dtype: str) -> bool:
    """True for the dtypes whose grid is fine enough to hold a distribution."""
    return dtype in _UNIT_ROUNDOFF


def effective_dtype(array: Array, dtype: str) -> str:
    """The coarsest of ``dtype`` and the half precisions that holds every value exactly.

    A checkpoint that was kept in bfloat16 and written as float32 is still on bfloat16's grid.
    """
    if dtype not in ("float32", "float64") or array.size == 0:
        return dtype
    flat = array.reshape(-1)
    values = flat[:: max(1, flat.size // SAMPLE)][:SAMPLE]
    sample = values.astype(np.float32)
    if values.dtype != np.float32 and not np.array_equal(sample, values):
        return dtype
    bits = np.ascontiguousarray(sample).view(np.uint32)
    if not (bits & np.uint32(0xFFFF)).any():
        return "bfloat16"
    with np.errstate(over="ignore"):  # a few values refuse nearly every tensor
        halved = _is_half(sample[:HEAD]) and _is_half(sample)
    return "float16" if halved else "float32"


def _is_half(sample: Array) -> bool:
    return np.array_equal(sample.astype(np.float16).astype(np.float32), sample)


def distinct(values: Array) -> int:
    """Number of different values; unlike `numpy.unique` it does not load `numpy.ma`."""
    ordered = np.sort(values, axis=None)
    return int(np.count_nonzero(np.diff(ordered))) + 1 if ordered.size else 0


def median(values: Array) -> float:
    """Middle value, NaN of nothing; unlike `numpy.median` it does not load `numpy.ma`."""
    ordered = np.sort(values, axis=None)
    if ordered.size == 0:
        return float("nan")
    return float((ordered[(ordered.size - 1) // 2] + ordered[ordered.size // 2]) / 2)


def is_quantised(array: Array) -> bool:
    """True when the values lie on an 8-bit (or coarser) grid, whole or row by row.

    Few distinct values in a long enough sample, or rows that are integers up to 127 times a scale
    (symmetric per-channel quantisation).
    """
    flat = array.reshape(-1)[:SAMPLE]
    if flat.size < 4 * FEW_VALUES:
        return False
    few = distinct(flat[: 4 * FEW_VALUES]) <= FEW_VALUES  # refuses nearly every tensor
    if few and distinct(flat) <= FEW_VALUES:
        return True
    if array.ndim < 2:
        return False
    rows = array.reshape(array.shape[0], -1)[:16, :SAMPLE].astype(np.float64)
    peaks = np.abs(array.reshape(array.shape[0], -1)[:16]).max(axis=1, keepdims=True)
    if rows.shape[1] < 8 or not (peaks > 0.0).all():
        return False
    levels = rows / peaks * 127.0
    return bool(np.abs(levels - np.round(levels)).max() < 1e-2)
