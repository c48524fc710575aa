"""Stored bytes to floats, for every element type that model files use. All little-endian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from initlint.load.files import File, shown
from initlint.model import InFile, LoadError

Array = NDArray[Any]
Bytes = NDArray[np.uint8]

BITS = {
    "bool": 8,
    "int2": 2,
    "uint2": 2,
    "int4": 4,
    "uint4": 4,
    "int8": 8,
    "uint8": 8,
    "int16": 16,
    "uint16": 16,
    "int32": 32,
    "uint32": 32,
    "int64": 64,
    "uint64": 64,
    "float4_e2m1": 4,
    "float6_e2m3": 6,
    "float6_e3m2": 6,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0": 8,
    "bfloat16": 16,
    "float16": 16,
    "float32": 32,
    "float64": 64,
    "complex64": 64,
    "complex128": 128,
}
"""Bits of one stored element. Elements below a byte are packed, the first in the lowest bits."""

FLOATING = frozenset(name for name in BITS if "float" in name or "complex" in name)
"""Types that hold real or complex numbers, not integers."""

_PLAIN = {
    "bool": "u1",
    "int8": "i1",
    "uint8": "u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "int64": "<i8",
    "uint64": "<u8",
    "float32": "<f4",
    "float64": "<f8",
}
_WIDE = frozenset({"int64", "uint64", "float64"})


def bits(dtype: str) -> int:
    """Bits of one stored element.

    Raises:
        LoadError: unknown element type.
    """
    try:
        return BITS[dtype]
    except KeyError:
        raise LoadError(
            f"element type {shown(dtype)!r} holds no numbers that can be read"
        ) from None


def byte_count(dtype: str, count: int) -> int:
    """Bytes that ``count`` stored elements take, the last byte padded."""
    return (bits(dtype) * count + 7) // 8


def decode(dtype: str, data: bytes | memoryview | Bytes, count: int) -> Array:
    """``count`` elements as a 1-D float array: float64 for 64-bit types, float32 for the others.

    A complex element gives two floats, the real part first. The result may share memory with
    ``data``.

    Raises:
        LoadError: unknown element type, or fewer bytes than ``count`` elements take.
    """
    needed = byte_count(dtype, count)
    raw: Bytes = np.frombuffer(data, dtype=np.uint8)
    if count < 0 or raw.size < needed:
        raise LoadError(f"{count} elements of {dtype} need {needed} bytes, found {raw.size}")
    if raw.size > needed:
        raw = raw[:needed]
    if dtype in ("complex64", "complex128"):
        return raw.view("<f4" if dtype == "complex64" else "<f8")
    if dtype == "float16":
        return _decode_float16(raw)
    if dtype in _PLAIN:
        values: Array = raw.view(_PLAIN[dtype])
        return values.astype(np.float64 if dtype in _WIDE else np.float32, copy=False)
    if dtype == "bfloat16":
        return _decode_bfloat16(raw)
    if BITS[dtype] == 6:
        raise LoadError(f"element type {dtype}: packed six-bit values cannot be read")
    return _decode_narrow(dtype, raw, count)


def _decode_bfloat16(raw: Bytes) -> Array:
    wide = raw.view("<u2").astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def _decode_float16(raw: Bytes) -> Array:
    """Half precision by shifting its bits into place, six times as fast as NumPy's conversion.

    Exponent and mantissa move to where single precision has them; the product with 2^112 corrects
    the exponent's bias (15 to 127), for subnormals too. A block with infinities or NaN, which have
    the largest exponent, is left to NumPy.
    """
    signed, unsigned = raw.view("<i2"), raw.view("<u2")
    if raw.size and (signed.max() >= _INFINITY or unsigned.max() >= _MINUS_INFINITY):
        return raw.view("<f2").astype(np.float32)
    wide = signed.astype(np.int32)
    wide <<= 13
    wide &= _SIGN_AND_MAGNITUDE
    values: Array = wide.view(np.float32)
    values *= _BIAS
    return values


_INFINITY, _MINUS_INFINITY = 0x7C00, 0xFC00
_SIGN_AND_MAGNITUDE = np.int32(0x0FFFE000 - (1 << 31))
_BIAS = np.float32(2.0**112)


def _decode_narrow(dtype: str, raw: Bytes, count: int) -> Array:
    """Elements of at most a byte: one look-up gives all the values of two bytes."""
    table = _byte_table(dtype)
    even = raw.size & ~1
    pairs = _pair_table(dtype).take(raw[:even].view("<u2"), axis=0)
    values = pairs.view(np.float32).reshape(-1)
    if even < raw.size:
        values = np.concatenate([values, table[raw[-1]]])
    return values[:count]


@cache
def _pair_table(dtype: str) -> Array:
    """What each pair of bytes decodes to, as items that NumPy copies whole."""
    codes = np.arange(1 << 16, dtype="<u2").view(np.uint8)
    values: Array = np.ascontiguousarray(_byte_table(dtype)[codes]).reshape(1 << 16, -1)
    return values.view({2: np.float64, 4: np.complex128}.get(values.shape[1], np.float32))


@cache
def _byte_table(dtype: str) -> Array:
    """(256, elements per byte): what each byte decodes to."""
    width = BITS[dtype]
    if width == 8:
        return _wide_values(dtype)[:, None]
    shifts = np.arange(0, 8, width)
    codes = (np.arange(256)[:, None] >> shifts[None, :]) & ((1 << width) - 1)
    table: Array = _narrow_values(dtype)[codes].astype(np.float32)
    return table


def _narrow_values(dtype: str) -> Array:
    """The value of every code of a type of two or four bits."""
    if dtype == "float4_e2m1":
        return _small_floats(exponent_bits=2, mantissa_bits=1, bias=1)
    codes = np.arange(1 << BITS[dtype], dtype=np.float64)
    if dtype.startswith("uint"):
        return codes
    half = codes.size // 2
    return np.where(codes >= half, codes - codes.size, codes)


def _wide_values(dtype: str) -> Array:
    """The value of every byte of an 8-bit float type.

    Sources: the OCP 8-bit floating point specification for e4m3fn, e5m2 and e8m0;
    arXiv 2206.02915 for the fnuz variants (one zero, one NaN in place of the negative zero).
    """
    makers: dict[str, Callable[[], Array]] = {
        "float8_e4m3fn": lambda: _with_nan(_small_floats(4, 3, bias=7), [0x7F, 0xFF]),
        "float8_e4m3fnuz": lambda: _with_nan(_small_floats(4, 3, bias=8), [0x80]),
        "float8_e5m2": _e5m2,
        "float8_e5m2fnuz": lambda: _with_nan(_small_floats(5, 2, bias=16), [0x80]),
        "float8_e8m0": lambda: _with_nan(2.0 ** (np.arange(256) - 127.0), [0xFF]),
    }
    return makers[dtype]().astype(np.float32)


def _small_floats(exponent_bits: int, mantissa_bits: int, bias: int) -> Array:
    """Every code of a sign-exponent-mantissa format that has subnormals and no special codes."""
    codes = np.arange(1 << (1 + exponent_bits + mantissa_bits))
    mantissa = codes & ((1 << mantissa_bits) - 1)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    sign = np.where(codes >> (mantissa_bits + exponent_bits), -1.0, 1.0)
    fraction = mantissa / (1 << mantissa_bits) + (exponent > 0)
    return np.asarray(sign * fraction * 2.0 ** (np.maximum(exponent, 1) - bias))


def _with_nan(values: Array, codes: list[int]) -> Array:
    values[codes] = np.nan
    return values


def _e5m2() -> Array:
    values = _small_floats(5, 2, bias=15)
    values[[0x7C, 0xFC]] = np.inf, -np.inf
    return _with_nan(values, [0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF])


_STORED = {
    "float32": "<f4",
    "float64": "<f8",
    "float16": "<f2",
    "bfloat16": "<u2",
    "int8": "i1",
    "uint8": "u1",
}


def _stored(dtype: str, raw: bytes | memoryview | Bytes) -> tuple[str, Array] | None:
    """Elements as they are stored, for `initlint.model.StoredSource`."""
    layout = _STORED.get(dtype)
    return None if layout is None else (dtype, np.frombuffer(raw, dtype=layout))


def _check_elements(start: int, stop: int, count: int, where: str) -> None:
    if not 0 <= start <= stop <= count:
        raise LoadError(f"{shown(where)}: elements {start} to {stop} of {count} do not exist")


def _span(dtype: str, start: int, stop: int) -> tuple[int, int, int]:
    """First byte, bytes, and elements to drop in front, for the elements start to stop."""
    width = bits(dtype)
    first = start * width // 8
    last = (stop * width + 7) // 8
    return first, last - first, start - first * 8 // width


class Readable(Protocol):
    """Stored bytes that can be read at any offset: a file, a member of an archive."""

    @property
    def name(self) -> str:
        """How messages name it."""
        ...

    @property
    def size(self) -> int:
        """Number of bytes."""
        ...

    def read_array(self, offset: int, length: int) -> Bytes:
        """``length`` bytes from ``offset``; raises `LoadError` where there are fewer."""
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """Elements stored one after the other in a file (a `initlint.model.Source`).

    Attributes:
        file: where they are.
        offset: byte of the first element.
        dtype: element type, a key of `BITS`.
        count: number of elements.

    Raises:
        LoadError: when built, if the file is too short to hold them.
    """

    file: Readable
    offset: int
    dtype: str
    count: int

    def __post_init__(self) -> None:
        """Compare the extent with the file before anything is allocated."""
        length = byte_count(self.dtype, self.count)
        if self.count < 0 or self.offset < 0 or self.offset + length > self.file.size:
            raise LoadError(
                f"{shown(self.file.name)}: truncated or damaged: {self.count} elements of "
                f"{self.dtype} at offset {self.offset} are not in a file of {self.file.size} bytes"
            )

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop`` as floats."""
        _check_elements(start, stop, self.count, self.file.name)
        first, length, skip = _span(self.dtype, start, stop)
        raw = self.file.read_array(self.offset + first, length)
        return decode(self.dtype, raw, skip + stop - start)[skip:]

    def read_stored(self, start: int, stop: int) -> tuple[str, Array] | None:
        """Elements ``start`` to ``stop`` as they are stored."""
        _check_elements(start, stop, self.count, self.file.name)
        first, length, _ = _span(self.dtype, start, stop)
        return _stored(self.dtype, self.file.read_array(self.offset + first, length))

    def in_file(self, start: int, stop: int) -> InFile | None:
        """Where elements ``start`` to ``stop`` are; None in an archive or far away."""
        if self.dtype not in _STORED or not isinstance(self.file, File) or not self.file.local:
            return None
        _check_elements(start, stop, self.count, self.file.name)
        first, length, _ = _span(self.dtype, start, stop)
        offset, use = self.offset + first, self.file.use
        return InFile(
            self.dtype,
            offset,
            stop - start,
            lambda reader: use(offset, length, reader),
            lambda: self.read(start, stop),
        )


@dataclass(frozen=True, slots=True)
class BytesSource:
    """Elements stored in a buffer in memory (a `initlint.model.Source`).

    Attributes:
        data: the buffer.
        dtype: element type, a key of `BITS`.
        count: number of elements.

    Raises:
        LoadError: when built, if the buffer is too short to hold them.
    """

    data: bytes | memoryview
    dtype: str
    count: int

    def __post_init__(self) -> None:
        """Compare the extent with the buffer before anything is allocated."""
        needed = byte_count(self.dtype, self.count)
        if self.count < 0 or memoryview(self.data).nbytes < needed:
            raise LoadError(
                f"{self.count} elements of {self.dtype} need {needed} bytes, "
                f"found {memoryview(self.data).nbytes}"
            )

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop`` as floats."""
        _check_elements(start, stop, self.count, "tensor data")
        first, length, skip = _span(self.dtype, start, stop)
        raw = memoryview(self.data).cast("B")[first : first + length]
        return decode(self.dtype, raw, skip + stop - start)[skip:]

    def read_stored(self, start: int, stop: int) -> tuple[str, Array] | None:
        """Elements ``start`` to ``stop`` as they are stored."""
        _check_elements(start, stop, self.count, "tensor data")
        first, length, _ = _span(self.dtype, start, stop)
        return _stored(self.dtype, memoryview(self.data).cast("B")[first : first + length])
