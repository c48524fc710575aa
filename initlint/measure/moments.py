"""Moments of a tensor in one pass: exact counts, numerically sound sums, at memory speed.

A small compiled module, `_moments`, reads each element once, as it is stored. Where no compiler was
there when initlint was installed, NumPy makes several passes over pieces that stay in the cache.
Counts and extremes are the same; means and standard deviations agree to 1e-6 of the standard
deviation, skew and kurtosis to 1e-4, as sums of some 2¹⁰ products in single precision leave.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import chain
from math import frexp, ldexp, nan, sqrt
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from initlint.measure.result import Moments
from initlint.model import InFile, Tensor

Array = NDArray[Any]


def _compiled() -> Any:
    try:
        return import_module("initlint.measure._moments")
    except ImportError:
        return None


_native = _compiled()
"""The compiled module (see ``_moments.pyi``), or None."""

_NATIVE_DTYPES = {
    "<f4": "float32",
    "<f8": "float64",
    "<f2": "float16",
    "|i1": "int8",
    "|u1": "uint8",
}
"""What the compiled module reads, by `numpy.dtype.str`: the name of a dtype is slow to ask for."""

_NATIVE_VARIANCES = (1e-130, 1e130)
"""Variances whose squares, times 2⁶³ elements, are normal float64 numbers."""

PIECE = 1 << 18
"""Elements handled at a time: 1 MiB of float32, which stay in the cache near a core, so that main
memory is read once whatever the number of passes. In smaller pieces the calls between the passes
weigh more: 5.3 GB/s a thread with 2¹⁶ elements, 6.4 with 2¹⁷, 6.9 with 2¹⁸."""

SPAN = 1 << 20
"""Elements read, and handed to a thread, at a time: 4 MiB of float32 are still in the shared cache
when they are summed, and the allocator gives the same pages again. Eight times as many take four
times the system's time for pages. Of narrow elements as many bytes are handed over (64 MB of int8:
1.4 times a `numpy.sum` of as many bytes, 2.4 times with as many elements)."""

_NARROW = {"float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
"""Bytes of an element that the compiled module reads as it is stored."""

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

_ROW = 1 << 10
"""Elements summed in float32 at once, by a matrix-vector product whose vector stays in the nearest
cache; the sums of rows are added in float64."""

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
    tiny = smallest_normal(tensor.dtype)
    length = SPAN * 4 // _NARROW.get(tensor.dtype, 4)
    placed = tensor.file_chunks(length) if _native is not None else None
    if placed is not None:
        return _merged(_parallel(lambda place: _in_file(place, tiny), placed))
    stored = tensor.stored_chunks(length) if _native is not None else None
    if stored is not None:
        return _merged(_parallel(lambda piece: _stored(*piece, tiny), stored))
    spans = (np.asarray(chunk).reshape(-1) for chunk in tensor.chunks(SPAN))
    return _merged(_parallel(lambda span: _span(span, tiny), spans))


def array_moments(array: Array, dtype: str | None = None) -> Moments:
    """Moments of an array; ``dtype`` is the storage dtype where it differs from the array's."""
    flat = array.reshape(-1)
    tiny = smallest_normal(dtype or str(array.dtype))
    if flat.size <= SPAN:
        return _span(flat, tiny)
    spans = (flat[start : start + SPAN] for start in range(0, max(flat.size, 1), SPAN))
    return _merged(_parallel(lambda span: _span(span, tiny), spans))


def _merged(parts: Iterable[Moments]) -> Moments:
    total = EMPTY
    for part in parts:
        total = merge(total, part)
    return total


Piece = TypeVar("Piece")


def _parallel(measure: Callable[[Piece], Moments], pieces: Iterator[Piece]) -> Iterator[Moments]:
    """Moments of each piece, in order; pieces are read here while threads work on earlier ones.

    The sums release the interpreter's lock. The result does not depend on the number of threads:
    the parts are the same and are merged in the same order.
    """
    first = next(pieces, None)
    second = next(pieces, None) if first is not None else None
    if first is None:
        return
    if second is None:
        yield measure(first)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    threads = min(_cores(), THREADS_MOST)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Moments]] = deque()
        for piece in chain((first, second), pieces):
            waiting.append(pool.submit(measure, piece))
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


_scratch = _Scratch()
_ones = np.ones(_ROW, np.float32)


def _span(flat: Array, tiny: float) -> Moments:
    """Moments of a 1-D array of numbers."""
    dtype = _NATIVE_DTYPES.get(flat.dtype.str) if _native is not None else None
    return _numpy(flat, tiny) if dtype is None else _stored(dtype, flat, tiny)


def _stored(dtype: str, flat: Array, tiny: float) -> Moments:
    """Moments of stored elements, by the compiled module."""
    usable = flat if flat.flags.c_contiguous and flat.flags.aligned else flat.copy()
    found = _from_sums(flat.size, _native.sums(usable, dtype, tiny))
    return _numpy(flat, tiny) if found is None else found


def _in_file(place: InFile, tiny: float) -> Moments:
    """Moments of elements that a thread reads itself, piece by piece into its own cache."""

    def summed(descriptor: int) -> Any:
        return _native.sums_of_file(descriptor, place.offset, place.count, place.dtype, tiny)

    found = _from_sums(place.count, place.use(summed))
    return _numpy(place.read(), tiny) if found is None else found


def _from_sums(count: int, sums: Any) -> Moments | None:
    """Moments from what the compiled module gives; None where double precision lost them."""
    n, mean, m2, m3, m4, low, high, *counts = sums
    if n == 0:
        return Moments(count, nan, nan, nan, nan, nan, nan, *counts)
    if low != high and not _NATIVE_VARIANCES[0] < m2 / n < _NATIVE_VARIANCES[1]:
        return None
    return _moments(count, n, mean, 1.0, (m2, m3, m4), (low, high), tuple(counts))


def _numpy(flat: Array, tiny: float) -> Moments:
    """Moments of a 1-D array, piece by piece."""
    total = EMPTY
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        fast = piece.dtype == np.float32 and piece.size >= SMALL and piece.flags.c_contiguous
        part = _fast(piece, tiny) if fast else None
        total = merge(total, _exact(piece, tiny) if part is None else part)
    return total


def _fast(x: Array, tiny: float) -> Moments | None:
    """Sums of float32 powers; None when only float64 gets them right."""
    n = x.size
    with np.errstate(over="ignore", invalid="ignore"):
        raw2 = _dot(x, x) / n
        raw1, shift = _sum(x) / n, 0.0
    low, high, smallest = _extremes(x)
    least, most = SAFE_MAGNITUDES
    # Written so that it fails for a NaN as for an infinity.
    if not (-most < low < high < most and max(-low, high) > least):
        return None
    zeros = subnormals = 0
    if smallest == 0.0 or smallest < tiny:
        zeros, subnormals = _zeros_and_subnormals(x, tiny)
    if raw1 * raw1 > RAW_MEAN_LIMIT**2 * max(raw2 - raw1 * raw1, 0.0):
        centre = np.float32(raw1)
        shift = float(centre)
        x = np.subtract(x, centre, out=_scratch.shifted[:n])
        raw1, raw2 = _sum(x) / n, _dot(x, x) / n
    m2 = raw2 - raw1**2
    if m2 <= RESOLVED * shift * shift:
        return None
    square = np.multiply(x, x, out=_scratch.square[:n])
    raw3, raw4 = _dot(square, x) / n, _dot(square, square) / n
    m3 = raw3 - 3 * raw1 * raw2 + 2 * raw1**3
    m4 = raw4 - 4 * raw1 * raw3 + 6 * raw1**2 * raw2 - 3 * raw1**4
    central = (m2 * n, m3 * n, m4 * n)
    counts = (zeros, subnormals, 0, 0)
    return _moments(n, n, shift + raw1, 1.0, central, (low, high), counts)


def _sum(x: Array) -> float:
    """Sum of float32 elements, in rows of float32 and then in float64."""
    whole = x.size - x.size % _ROW
    rows = x[:whole].reshape(-1, _ROW).dot(_ones)
    return float(rows.sum(dtype=np.float64)) + float(x[whole:].sum(dtype=np.float64))


def _dot(x: Array, y: Array) -> float:
    """Inner product of float32 elements, in rows of float32 and then in float64."""
    whole = x.size - x.size % _ROW
    rows = np.matmul(x[:whole].reshape(-1, 1, _ROW), y[:whole].reshape(-1, _ROW, 1))
    rest = x[whole:].astype(np.float64).dot(y[whole:].astype(np.float64))
    return float(rows.sum(dtype=np.float64)) + float(rest)


def _extremes(x: Array) -> tuple[float, float, float]:
    """Smallest and largest element, and smallest magnitude, of float32 elements.

    Read as integers, floats of one sign are ordered by magnitude (IEEE 754-2019, 5.10), those with
    the sign bit after the others when unsigned, and before them when signed. Integers have no NaN
    to look out for, and NaNs come out larger than every number.
    """
    signed, unsigned = x.view(np.int32), x.view(np.uint32)
    bits = np.array([unsigned.min(), unsigned.max(), 0, 0], np.uint32)
    bits.view(np.int32)[2:] = signed.min(), signed.max()
    least, most, nearest, farthest = (float(value) for value in bits.view(np.float32))
    negative, positive = bits[1] >= 1 << 31, bits[0] < 1 << 31
    low = most if negative else least
    high = farthest if positive else nearest
    return low, high, min(abs(least), abs(nearest))


def _zeros_and_subnormals(x: Array, tiny: float) -> tuple[int, int]:
    zeros = int(np.count_nonzero(x == 0.0))
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
