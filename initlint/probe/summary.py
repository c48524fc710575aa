"""Sums over a block of a layer's outputs: a compiled module, or NumPy where there is none.

A block has four axes: samples, positions before, units, positions after. Single precision is summed
in double precision. Both ways give the same counts and extremes; sums agree to 1e-12.
"""

from __future__ import annotations

from importlib import import_module
from math import erfc, exp, log, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _compiled() -> Any:
    try:
        return import_module("initlint.probe._outputs")
    except ImportError:
        return None


_native = _compiled()
"""The compiled module (see ``_outputs.pyi``), or None."""


class Summary(NamedTuple):
    """Moments and extremes; the last two are arrays, one entry per unit."""

    mean: float
    rms: float
    std: float
    zeros: int
    unit_low: Array
    unit_high: Array


def summarise(block: Array, valid: Array | None = None) -> Summary:
    """The summary of a block with at least one element.

    Args:
        block: finite elements.
        valid: those that moments and zeros are taken of, where not all are.
    """
    if _native is None or valid is not None or block.dtype != np.float32:
        return _summarised(block, block.reshape(-1) if valid is None else valid)
    block = np.ascontiguousarray(block)
    samples, before, units, after = block.shape
    low, high = np.empty(units, np.float32), np.empty(units, np.float32)
    total, squares, zeros = _native.summary(block, samples * before, units, after, low, high)
    mean = total / block.size
    std = sqrt(_native.deviation(block, mean) / block.size)
    return Summary(mean, sqrt(squares / block.size), std, zeros, low, high)


def _summarised(block: Array, valid: Array) -> Summary:
    valid = valid.astype(np.float64)
    unit_low, unit_high = block.min(axis=(0, 1, 3)), block.max(axis=(0, 1, 3))
    scale = float(np.abs(valid).max())
    mean = float(valid.mean())
    work = np.empty_like(valid)  # one array for both sums of squares
    if scale > 1e100:
        rms = scale * sqrt(float(np.mean((valid / scale) ** 2)))
    else:  # no BLAS: its threads wait for torch's
        rms = sqrt(float(np.square(valid, out=work).mean()))
    np.subtract(valid, mean, out=work)
    std = sqrt(float(np.square(work, out=work).mean()))
    zeros = valid.size - int(np.count_nonzero(valid))
    return Summary(mean, rms, std, zeros, unit_low, unit_high)


def contrast(rows: Array, columns: Array | None) -> tuple[float, float]:
    """Mean cosine over pairs of different rows, and the root mean square spread of a column.

    With unit vectors u_s, Σ_{s≠t} u_s·u_t = ‖Σu_s‖² − n, so no pair is formed. Rows that are all
    zero have no direction; the cosine is NaN with fewer than two others.

    Args:
        rows: two at least, one per sample.
        columns: those that count; None for all.
    """
    if _native is None or rows.dtype != np.float32:
        square, moving, variance = _contrast(rows if columns is None else rows[:, columns])
    else:
        places = np.zeros(0, np.int64) if columns is None else columns.astype(np.int64, copy=False)
        rows = np.ascontiguousarray(rows)
        square, moving, variance = _native.contrast(rows, len(rows), places)
    spread = sqrt(variance)
    if moving < 2:
        return float("nan"), spread
    return min(max((square - moving) / (moving * (moving - 1)), -1.0), 1.0), spread


def _contrast(rows: Array) -> tuple[float, int, float]:
    data = rows.astype(np.float64)
    variance = float(data.var(axis=0, ddof=1).mean())
    length = np.abs(data).max(axis=1, keepdims=True)
    still = ~(length[:, 0] > 0)
    if still.any():
        data, length = data[~still], length[~still]
    data /= length
    data /= np.sqrt((data * data).sum(axis=1, keepdims=True))
    direction = data.sum(axis=0)
    return float(np.dot(direction, direction)), len(data), variance


def unit_cosine(block: Array) -> float:
    """Mean cosine between the vectors of units at different rows; NaN with fewer than two.

    Rows are brought to unit length first: in deep networks it varies so much that a ratio of summed
    products would understate the cosine.
    """
    if _native is None or block.dtype != np.float32:
        square, active = _directions(block.astype(np.float64))
    else:
        samples, before, units, after = block.shape
        block = np.ascontiguousarray(block)
        square, active = _native.directions(block, samples * before, units, after)
    return (square - active) / (active * (active - 1)) if active > 1 else float("nan")


def _directions(block: Array) -> tuple[float, int]:
    largest = np.abs(block).max()
    if not largest > 0:
        return 0.0, 0
    block = block / largest  # squares of huge numbers overflow
    length = np.sqrt(np.einsum("saub,saub->sab", block, block))[:, :, None]
    directions = np.divide(block, length, out=np.zeros_like(block), where=length > 0)
    total = directions.sum(axis=(0, 1, 3))
    return float(np.dot(total, total)), int(np.count_nonzero(length))


def histogram(values: Array, step: int, low: float, high: float, bins: int) -> tuple[int, ...]:
    """How many of every ``step``-th value lie in each of so many equal parts of a range."""
    scale = bins / (high - low)
    if _native is not None and values.dtype == np.float32 and values.flags.c_contiguous:
        counts = np.empty(bins, np.int64)
        _native.histogram(values, step, low, scale, counts)
    else:
        part = values[::step].astype(np.float64)
        index = np.clip(((part - low) * scale).astype(np.int64), 0, bins - 1)
        counts = np.bincount(index, minlength=bins)
    return tuple(counts.tolist())


def silent_sum(slope: float, rows: int, step: float) -> float:
    """Σ exp(−t²/2) Φ(−t·slope)^rows over the multiples t of ``step`` from −400 to 400 steps."""
    if _native is not None:
        return float(_native.silent(slope, float(rows), step))
    total = 0.0
    for k in range(-400, 401):
        t = k * step
        below = 0.5 * erfc(t * slope / sqrt(2.0))
        if below <= 0.0:
            break
        term = exp(-0.5 * t * t + rows * log(below))
        total += term
        if k > 0 and term < 1e-20 * total:
            break  # what follows is smaller still
    return total
