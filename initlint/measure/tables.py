"""Deterministic analytic tables stored as weights: positions, frequencies, filter banks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure.result import Match, Moments

Array = NDArray[Any]

LEAST = 8
"""Values that a formula must reproduce before it is more than coincidence."""

CLOSE = 1e-4
"""Largest error relative to the largest value. float32 tables leave 1e-6; half-precision ones are
checked with `precision.unit_roundoff` on top."""

COARSEST = 0.05
"""Above this tolerance (8-bit floats) a formula is not recognisable."""


def table(array: Array, moments: Moments, roundoff: float) -> Match | None:
    """The analytic table that an array holds, or None.

    Recognises masks and other two-valued tables, arithmetic and geometric sequences, log(1..N)
    rows (Mamba's A_log), sinusoidal position tables, windowed Fourier bases (STFT) and triangular
    filter banks (mel). Nothing here depends on a particular model.
    """
    close = max(CLOSE, 4.0 * roundoff)
    if moments.non_finite or array.size < LEAST:
        return None
    if _two_valued(array, moments):
        return Match("mask", 0.0, moments.std)
    if close > COARSEST:
        return None
    name = None
    if array.ndim == 1 or array.size == max(array.shape):
        name = _sequence(array.reshape(-1), close)
    elif array.ndim >= 2:
        matrix = array.reshape(array.shape[0], -1)
        name = _repeated_sequence(matrix, close) or _sinusoid(matrix, close)
        name = name or _fourier_basis(matrix) or _filter_bank(matrix, moments)
    return Match(name, 0.0, moments.std) if name else None


def _two_valued(array: Array, moments: Moments) -> bool:
    if moments.kurtosis > 0 and moments.std > 0:
        # Every two-point distribution has kurtosis = skew² + 1, and no other does.
        return abs(moments.kurtosis - moments.skew**2 - 1.0) < 1e-3 * moments.kurtosis and bool(
            np.all((array == moments.min) | (array == moments.max))
        )
    return False


def _sequence(values: Array, close: float) -> str | None:
    x = values.astype(np.float64)
    n = x.size
    if n < LEAST or not x.any():
        return None
    limit = close * float(np.abs(x).max())
    if np.abs(x - np.linspace(x[0], x[-1], n)).max() <= limit:
        return "arithmetic_sequence"
    if np.abs(x - np.log(np.arange(1, n + 1))).max() <= limit:
        return "log_sequence"
    if (x > 0.0).all() or (x < 0.0).all():
        logs = np.log(np.abs(x))
        if np.abs(logs - np.linspace(logs[0], logs[-1], n)).max() <= 10.0 * close:
            return "geometric_sequence"
    return None


def _repeated_sequence(matrix: Array, close: float) -> str | None:
    for rows in (matrix, matrix.T):
        first = rows[0].astype(np.float64)
        if rows.shape[0] > 1 and rows.shape[1] >= LEAST and np.array_equal(rows[0], rows[-1]):
            name = _sequence(first, close)
            if name and np.all(rows == rows[0]):
                return name
    return None


def _sinusoid(matrix: Array, close: float) -> str | None:
    """Columns (or rows) that all satisfy x[t+1] + x[t-1] = 2 cos(ω) x[t]: pure sinusoids."""
    for rows in (matrix.T, matrix):
        if rows.shape[1] < LEAST or rows.shape[0] < 2:
            continue
        if _no_sinusoid(rows[0, :512].astype(np.float64), close):
            continue
        x = rows[:256, :512].astype(np.float64)
        ends, middle = x[:, 2:] + x[:, :-2], x[:, 1:-1]
        power = np.einsum("ij,ij->i", middle, middle)
        if not (power > 0.0).all():
            # A sine of frequency zero is a column of zeros.
            alive = power > 0.0
            if np.count_nonzero(alive) < max(2, 0.9 * alive.size):
                continue
            ends, middle, power = ends[alive], middle[alive], power[alive]
        slope = np.einsum("ij,ij->i", ends, middle) / power
        if np.count_nonzero(slope < 2.0 - 1e-6) < 0.5 * slope.size:
            continue  # constants are sinusoids of frequency zero, and no table
        residual = np.abs(ends - slope[:, None] * middle).max(axis=1)
        if (residual <= 4.0 * close * np.abs(middle).max(axis=1)).all():
            return "sinusoidal_table"
    return None


def _no_sinusoid(x: Array, close: float) -> bool:
    """One row refuses nearly every matrix; twice the limit leaves room for rounding."""
    ends, middle = x[2:] + x[:-2], x[1:-1]
    power = float(middle.dot(middle))
    if not power > 0.0:
        return False
    residual = np.abs(ends - float(ends.dot(middle)) / power * middle)
    return bool(residual.max() > 8.0 * close * np.abs(middle).max())


FOURIER_SHARE = 0.98
"""Energy of a row in its five strongest neighbouring bins of a spectrum: a Hann-windowed sinusoid
between two bins has 0.998 there, an iid row of 64 values 0.3."""


FIRST = 4
"""Rows looked at first: none of them in one band has a chance of 0.1^4 in a basis, nine in ten of
whose rows are."""


def _fourier_basis(matrix: Array) -> str | None:
    """Rows (or columns) whose energy sits in one narrow band: a windowed Fourier basis."""
    for rows in (matrix, matrix.T):
        if rows.shape[0] < LEAST or rows.shape[1] < 64:
            continue
        few = rows[:: max(1, rows.shape[0] // 64)][:64]
        if not _in_one_band(few[:: max(1, len(few) // FIRST)][:FIRST]).any():
            continue  # nearly every matrix ends here
        x = few.astype(np.float64)
        x -= x.mean(axis=1, keepdims=True)
        energy = np.einsum("ij,ij->i", x, x)
        x = x[energy > 1e-6 * energy.max()]
        if x.shape[0] >= LEAST and np.mean(_in_one_band(x)) >= 0.9:
            return "fourier_basis"
    return None


def _in_one_band(x: Array) -> Array:
    """Which rows have nearly all of their energy in five neighbouring bins of their spectrum."""
    x = x.astype(np.float64)
    spectrum = np.abs(np.fft.rfft(x - x.mean(axis=1, keepdims=True), axis=1)) ** 2
    padded = np.pad(spectrum, ((0, 0), (4, 4)))
    band = sum(padded[:, shift : shift + spectrum.shape[1] + 4] for shift in range(5))
    return np.asarray(np.max(band, axis=1) / spectrum.sum(axis=1) > FOURIER_SHARE)


def _filter_bank(matrix: Array, moments: Moments) -> str | None:
    """Non-negative rows with one contiguous bump each, mostly zeros: a mel-like filter bank."""
    if moments.min < 0.0 or moments.zeros < 0.5 * moments.count:
        return None
    for rows in (matrix, matrix.T):
        if rows.shape[0] < LEAST or rows.shape[1] < 2 * LEAST:
            continue
        x = rows[:512].astype(np.float64)
        support = x > 0.0
        starts = np.count_nonzero(np.diff(support.astype(np.int8), axis=1) == 1, axis=1)
        starts += support[:, 0]
        rising = np.diff(x, axis=1)
        turns = np.count_nonzero(np.diff(np.sign(rising), axis=1) == -2, axis=1)
        if np.mean((starts <= 1) & (turns <= 1)) >= 0.95:
            return "filter_bank"
    return None
