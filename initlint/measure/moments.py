"""Moments of a tensor in one pass: exact counts, numerically sound sums, at memory speed."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from math import frexp, ldexp, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from initlint.measure.result import Moments
from initlint.model import Tensor

Array = NDArray[np.floating]

PIECE = 1 << 18
"""Elements handled at a time: 1 MiB of float32 and as much scratch, which stay in the cache near a
core, so that main memory is read once whatever the number of passes. Smaller pieces fit better but
make two threads wait for the interpreter's lock: 0.39 of numpy.sum's bandwidth with 2¹⁷ elements,
0.49 with 2¹⁸ (measured on two cores)."""

SPAN = 1 << 23
"""Elements handed to a thread at a time."""

THREADS_MOST = 4
"""More threads than this wait for main memory, not for arithmetic."""

SMALL = 1 << 12
"""Below this many elements the float64 road costs no more than the calls of the fast one."""

RAW_MEAN_LIMIT = 0.25
"""Raw powers are used while |mean| < std/4. The fourth central moment then is the fourth raw one
minus terms below 6·(1/4)² = 38 % of it: less than one bit of float32 is cancelled away."""

SAFE_MAGNITUDES = (1e-8, 1e8)
"""Largest magnitudes for which float32 fourth powers neither overflow (3e38) nor lose the
elements within a factor 30 of the largest one to underflow (1e-38 = (1e-8)^4 / 30^4)."""

RESOLVED = 1e-8
"""Variance over squared mean below which subtracting the mean in float32 leaves too few digits:
std/mean = 1e-4 is a thousand units in the last place."""

RECORD = 1.0 - 1e-6
"""A piece whose largest square stays below the squares of both extremes so far (by more than
float32 rounding) holds no new extreme, and its two searches are saved."""

_SMALLEST_NORMAL = {
    "float64": 2.0**-1022,
    "float16": 2.0**-14,
    "float8_e4m3fn": 2.0**-6,
    "float8_e4m3fnuz": 2.0**-7,
    "float8_e5m2": 2.0**-14,
    "float8_e5m2fnuz": 2.0**-15,
    "float8e4m3fn": 2.0**-6,
    "float8e4m3fnuz": 2.0**-7,
    "float8e5m2": 2.0**-14,
    "float8e5m2fnuz": 2.0**-15,
    "float4e2m1": 1.0,
    "float4_e2m1fn": 1.0,
}

EMPTY = Moments(0, nan, nan, nan, nan, nan, nan, 0, 0, 0, 0)
"""Moments of no elements: the neutral element of `merge`."""


def smallest_normal(dtype: str) -> float:
    """Smallest positive normal number of a storage dtype; 0 for integers, which have none.

    float32 and bfloat16 share their exponent range.
    """
    if dtype in _SMALLEST_NORMAL:
        return _SMALLEST_NORMAL[dtype]
    return 2.0**-126 if dtype in ("float32", "bfloat16") else 0.0


def moments(tensor: Tensor) -> Moments:
    """Moments of a tensor, streamed in pieces that stay in cache.

    Subnormals are counted by the *storage* dtype: 3e-5 is subnormal in float16 and normal in
    bfloat16.

    Raises:
        LoadError: the storage is shorter than the tensor's shape says.
    """
    accumulator = _Accumulator(smallest_normal(tensor.dtype))
    if tensor.size <= SPAN:
        return _total(accumulator.add(np.asarray(chunk).reshape(-1)) for chunk in tensor.chunks())
    return _total(_parallel(accumulator, (chunk.reshape(-1) for chunk in tensor.chunks(SPAN))))


def array_moments(array: Array, dtype: str | None = None) -> Moments:
    """Moments of an array; ``dtype`` is the storage dtype where it differs from the array's."""
    accumulator = _Accumulator(smallest_normal(dtype or str(array.dtype)))
    flat = array.reshape(-1)
    if flat.size <= SPAN:
        return accumulator.add(flat)
    spans = (flat[start : start + SPAN] for start in range(0, flat.size, SPAN))
    return _total(_parallel(accumulator, spans))


def _total(parts: Iterable[Moments]) -> Moments:
    return reduce(merge, parts, EMPTY)


def _parallel(accumulator: _Accumulator, spans: Iterator[Array]) -> Iterator[Moments]:
    """Moments of each span, in order; spans are read here while threads work on earlier ones.

    NumPy and BLAS release the interpreter's lock. The result does not depend on the number of
    threads: the parts are the same and are merged in the same order.
    """
    threads = min(_cores(), THREADS_MOST)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Moments]] = deque()
        for span in spans:
            waiting.append(pool.submit(accumulator.add, span))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux tells what this process may use
        return os.cpu_count() or 1


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of two disjoint sets of elements together.

    With d the difference of the means and n = n_a + n_b, the sums of central powers M_k merge as
    M2 = M2a + M2b + d² n_a n_b / n, and correspondingly for M3 and M4 (Chan, Golub & LeVeque 1979;
    Pébay 2008, SAND2008-6212, eqs. 2.1, 3.1). Commutative, and associative up to rounding.
    """
    na, nb = a.count - a.non_finite, b.count - b.non_finite
    counts = (
        a.zeros + b.zeros,
        a.subnormals + b.subnormals,
        a.nan + b.nan,
        a.inf + b.inf,
    )
    count = a.count + b.count
    if na == 0 or nb == 0:
        kept = b if na == 0 else a
        return Moments(
            count, kept.mean, kept.std, kept.skew, kept.kurtosis, kept.min, kept.max, *counts
        )
    n = na + nb
    # Powers of a common scale keep M4 of very small or very large tensors inside float64.
    delta = b.mean - a.mean
    scale = max(a.std, b.std, abs(delta))
    low, high = min(a.min, b.min), max(a.max, b.max)
    if scale == 0.0:
        return Moments(count, a.mean, 0.0, 0.0, 0.0, low, high, *counts)
    d = delta / scale
    sa, sb = a.std / scale, b.std / scale
    a2, b2 = na * sa**2, nb * sb**2
    a3, b3 = na * a.skew * sa**3, nb * b.skew * sb**3
    a4, b4 = na * a.kurtosis * sa**4, nb * b.kurtosis * sb**4
    fa, fb = na / n, nb / n
    m2 = a2 + b2 + d * d * na * fb
    m3 = a3 + b3 + d**3 * na * fb * (fa - fb) + 3 * d * (fa * b2 - fb * a2)
    m4 = (
        a4
        + b4
        + d**4 * na * fb * (fa * fa - fa * fb + fb * fb)
        + 6 * d * d * (fa * fa * b2 + fb * fb * a2)
        + 4 * d * (fa * b3 - fb * a3)
    )
    mean = a.mean + delta * fb
    return _moments(count, n, mean, scale, (m2, m3, m4), (low, high), counts)


def _moments(
    count: int,
    n: int,
    mean: float,
    scale: float,
    central: tuple[float, float, float],
    extremes: tuple[float, float],
    counts: tuple[int, int, int, int],
) -> Moments:
    """Moments from sums of central powers of ``(x - mean) / scale``."""
    m2, m3, m4 = central
    variance = max(m2, 0.0) / n
    if variance == 0.0:
        return Moments(count, mean, 0.0, 0.0, 0.0, *extremes, *counts)
    root = sqrt(variance)
    skew, kurtosis = m3 / n / (variance * root), m4 / n / variance**2
    return Moments(count, mean, root * scale, skew, kurtosis, *extremes, *counts)


class _Scratch(threading.local):
    """Each thread's work space, kept between tensors: fresh pages cost as much as the sums."""

    def __init__(self) -> None:
        self.square = np.empty(PIECE, np.float32)
        self.shifted = np.empty(PIECE, np.float32)
        self.ones = np.ones(PIECE, np.float32)


_scratch = _Scratch()


@dataclass(frozen=True, slots=True)
class _Accumulator:
    """Moments of flat arrays of one storage dtype; ``tiny`` is its smallest normal number."""

    tiny: float

    def add(self, flat: Array) -> Moments:
        """Moments of a 1-D array."""
        total = EMPTY
        for start in range(0, flat.size, PIECE):
            piece = flat[start : start + PIECE]
            fast = piece.dtype == np.float32 and piece.size >= SMALL and piece.flags.c_contiguous
            part = self._fast(piece, total) if fast else None
            total = merge(total, part if part is not None else _exact(piece, self.tiny))
        return total

    def _fast(self, x: Array, before: Moments) -> Moments | None:
        """Sums of float32 powers; None when only float64 gets them right."""
        n = x.size
        square, ones = _scratch.square[:n], _scratch.ones[:n]
        # The first pass waits for main memory, so it is the one that would be slowest in cache.
        with np.errstate(over="ignore", invalid="ignore"):
            raw1, shift = float(x.dot(ones)) / n, 0.0
            raw2 = float(x.dot(x)) / n
            np.multiply(x, x, out=square)
        peak = float(square.max())
        # Not in the safe range is also what a NaN or an infinity gives.
        if not SAFE_MAGNITUDES[0] ** 2 < peak < SAFE_MAGNITUDES[1] ** 2:
            return None
        low, high = before.min, before.max
        if not (low < 0.0 < high and peak < RECORD * min(low * low, high * high)):
            low, high = float(x.min()), float(x.max())
        if low == high:
            return None
        zeros = subnormals = 0
        # A square below this may belong to a zero or a subnormal; the limit must itself be a
        # normal number, or every underflowed square would look suspicious.
        suspicious = max(self.tiny * self.tiny, 2.0**-126)
        if float(square.min()) < suspicious:
            zeros, subnormals = _zeros_and_subnormals(x[square < suspicious], self.tiny)
        if raw1 * raw1 > RAW_MEAN_LIMIT**2 * max(raw2 - raw1 * raw1, 0.0):
            centre = np.float32(raw1)
            shift = float(centre)
            x = np.subtract(x, centre, out=_scratch.shifted[:n])
            np.multiply(x, x, out=square)
            raw1, raw2 = float(x.dot(ones)) / n, float(x.dot(x)) / n
        raw3, raw4 = float(square.dot(x)) / n, float(square.dot(square)) / n
        m2 = raw2 - raw1**2
        m3 = raw3 - 3 * raw1 * raw2 + 2 * raw1**3
        m4 = raw4 - 4 * raw1 * raw3 + 6 * raw1**2 * raw2 - 3 * raw1**4
        if m2 <= RESOLVED * shift * shift:
            return None
        central = (m2 * n, m3 * n, m4 * n)
        counts = (zeros, subnormals, 0, 0)
        return _moments(n, n, shift + raw1, 1.0, central, (low, high), counts)


def _zeros_and_subnormals(x: Array, tiny: float) -> tuple[int, int]:
    zeros = int(x.size - np.count_nonzero(x))
    below = int(np.count_nonzero(np.abs(x) < tiny)) if tiny else zeros
    return zeros, max(below - zeros, 0)


def _exact(x: Array, tiny: float) -> Moments:
    """The float64 road: non-finite elements dropped, powers of a scale near 1."""
    count = int(x.size)
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        y = np.asarray(x, dtype=np.float64)
    if count == 0:
        return EMPTY
    nans = infs = 0
    finite = np.isfinite(y)
    if not finite.all():
        nans = int(np.count_nonzero(np.isnan(y)))
        infs = count - int(np.count_nonzero(finite)) - nans
        y = y[finite]
    n = int(y.size)
    if n == 0:
        return Moments(count, nan, nan, nan, nan, nan, nan, 0, 0, nans, infs)
    counts = (*_zeros_and_subnormals(y, tiny), nans, infs)
    low, high = float(y.min()), float(y.max())
    if low == high:
        return Moments(count, low, 0.0, 0.0, 0.0, low, high, *counts)
    exponent = frexp(max(-low, high))[1]
    y = np.ldexp(y, -exponent)
    mean = float(y.mean())
    y = y - mean
    # The correction for the rounding of the mean (Chan et al.'s corrected two-pass algorithm).
    residue = float(y.mean())
    y -= residue
    spread = float(np.abs(y).max())
    if spread == 0.0:
        return Moments(count, ldexp(mean, exponent), 0.0, 0.0, 0.0, low, high, *counts)
    y /= spread
    square = y * y
    central = (float(square.sum()), float(square.dot(y)), float(square.dot(square)))
    mean = ldexp(mean + residue, exponent)
    return _moments(count, n, mean, ldexp(spread, exponent), central, (low, high), counts)
