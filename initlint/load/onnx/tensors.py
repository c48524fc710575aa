"""TensorProto to lazily read `Tensor`: raw bytes, typed fields, external data, sparse."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from initlint.load.decode import BITS, FileSource, byte_count, decode
from initlint.load.files import File, Folder, shown
from initlint.load.onnx.reading import Read, is_lfs_pointer
from initlint.model import LoadError, Tensor
from initlint.model.record import record
from initlint.model.tensor import Array

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1",
    24: "float8_e8m0",
    25: "uint2",
    26: "int2",
}
"""TensorProto.DataType to the names of `initlint.load.decode`."""

FLOATS = frozenset(name for name in BITS if "float" in name)
"""Element types of weights: real floating-point numbers."""

INTEGERS = frozenset(
    name for name in DTYPES.values() if "int" in name or name in ("bool", "string")
)
"""Element types that are no real numbers."""

_FIELDS = {
    "float32": ("float_data", "<f4"),
    "complex64": ("float_data", "<f4"),
    "float64": ("double_data", "<f8"),
    "complex128": ("double_data", "<f8"),
    "int64": ("int64_data", "<i8"),
    "uint32": ("uint64_data", "<u4"),
    "uint64": ("uint64_data", "<u8"),
    "int32": ("int32_data", "<i4"),
    "int16": ("int32_data", "<i2"),
    "uint16": ("int32_data", "<u2"),
    "float16": ("int32_data", "<u2"),
    "bfloat16": ("int32_data", "<u2"),
}
"""Where a TensorProto keeps elements that are not in ``raw_data``, and how wide they are; the
types of a byte or less sit in ``int32_data``, one byte each."""

MAX_SPARSE_ELEMENTS = 1 << 28
"""Dense size of a sparse initializer. Its header alone may claim any size, so a claim beyond a
gibibyte of float32 is refused."""

_HELD_FILES = 16
"""Descriptors held open for external data; more files than this are reopened for each read."""

_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})


MAX_AXES = 32
"""Axes that every NumPy in use can represent."""


def representable(shape: tuple[int, ...]) -> bool:
    """True when NumPy can hold an array of this shape, sides of 0 included."""
    return len(shape) <= MAX_AXES and prod(max(side, 1) for side in shape) < 1 << 48


@dataclass(slots=True)
class _Decoded:
    """The last payload taken out of a protobuf: each access to a bytes field copies it."""

    owner: object = None
    data: Any = b""


_last = _Decoded()


@record(frozen=True, slots=True, eq=False)
class ProtoSource:
    """Elements inside a TensorProto (a `initlint.model.Source`).

    Attributes:
        proto: the TensorProto.
        dtype: element type.
        count: number of elements.
    """

    proto: Any
    dtype: str
    count: int

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop`` as floats."""
        global _last
        latest = _last
        if latest.owner is not self.proto:
            latest = _last = _Decoded(self.proto, self._bytes())
        width = BITS[self.dtype]
        first = start * width // 8
        skip = start - first * 8 // width
        data = memoryview(latest.data)[first : (stop * width + 7) // 8]
        values = decode(self.dtype, data, skip + stop - start)
        return values[skip:] if skip else values

    def _bytes(self) -> bytes:
        if self.proto.HasField("raw_data"):
            data: bytes = self.proto.raw_data
            return data
        name, width = _FIELDS.get(self.dtype, ("int32_data", "<u1"))
        values = np.array(getattr(self.proto, name))
        if values.dtype.kind in "iu" and width[1] in "iu":
            values = values.astype("<i8" if values.dtype.kind == "i" else "<u8")
        return values.astype(width).tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class SparseSource:
    """A sparse tensor, read as if it were dense (a `initlint.model.Source`).

    Attributes:
        positions: (n,) sorted flat positions of the stored elements.
        elements: (n,) their values.
    """

    positions: Array
    elements: Array

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop`` of the dense tensor."""
        dense = np.zeros(stop - start, dtype=self.elements.dtype)
        low, high = np.searchsorted(self.positions, (start, stop))
        dense[self.positions[low:high] - start] = self.elements[low:high]
        return dense


@dataclass(slots=True)
class TensorReader:
    """Turns TensorProtos of one model into `Tensor`, reading external data from its folder.

    Attributes:
        path: the model file; external data is confined to its folder.
        own: what was read of it.
        external: True once some tensor was found in another file.
    """

    path: str
    own: Read | None = None
    external: bool = False
    _folder: Folder | None = None
    _files: dict[str, File] = field(default_factory=dict)

    def tensor(self, proto: Any, name: str | None = None, *, main: bool = False) -> Tensor:
        """A TensorProto as a lazily read tensor.

        Args:
            proto: the message.
            name: how to name it; by default as the message does.
            main: it is an initializer of the main graph.

        Raises:
            LoadError: negative sides, an unknown element type, fewer elements than the shape
                states, or external data that is missing, short or outside the model's folder.
        """
        name = proto.name if name is None else name
        shape = tuple(proto.dims[:])
        dtype = DTYPES.get(proto.data_type)
        if dtype is None:
            raise LoadError(
                f"tensor {shown(name)!r} has unknown element type {proto.data_type}; upgrade onnx"
            )
        if shape and min(shape) < 0:
            raise LoadError(f"tensor {shown(name)!r} has a negative side: {list(shape)[:8]}")
        count = prod(shape)
        if len(shape) > MAX_AXES or (not count and not representable(shape)):
            raise LoadError(f"tensor {shown(name)!r} claims the shape {list(shape)[:8]}")
        if proto.data_location == 1 or len(proto.external_data):
            return Tensor(name, dtype, shape, self._external(proto, name, dtype, count))
        if dtype == "string":
            self._check_count(name, shape, count, len(proto.string_data), "strings")
        elif main and self.own is not None and proto.name in self.own.places:
            offset, held = self.own.places[proto.name]
            self._check_count(name, shape, byte_count(dtype, count), held, "bytes")
            assert self.own.file is not None
            return Tensor(name, dtype, shape, FileSource(self.own.file, offset, dtype, count))
        elif proto.HasField("raw_data"):
            self._check_count(name, shape, byte_count(dtype, count), len(proto.raw_data), "bytes")
        else:
            field_name, _ = _FIELDS.get(dtype, ("int32_data", ""))
            held = len(getattr(proto, field_name))
            needed = count * (2 if dtype.startswith("complex") else 1)
            if BITS[dtype] < 8:
                needed = byte_count(dtype, count)
            self._check_count(name, shape, needed, held, "elements")
        return Tensor(name, dtype, shape, ProtoSource(proto, dtype, count))

    def sparse(self, proto: Any) -> Tensor:
        """A SparseTensorProto as a tensor that reads as if it were dense.

        Raises:
            LoadError: as `tensor`, or indices outside the shape.
        """
        name = proto.values.name
        shape = tuple(proto.dims)
        claim = prod(max(side, 1) for side in shape)
        if any(side < 0 for side in shape) or claim > MAX_SPARSE_ELEMENTS or len(shape) > MAX_AXES:
            raise LoadError(f"sparse tensor {shown(name)!r} claims the shape {list(shape)[:8]}")
        values, indices = self.tensor(proto.values), self.tensor(proto.indices)
        if values.dtype == "string" or indices.dtype != "int64":
            raise LoadError(f"sparse tensor {shown(name)!r} has values or indices of a wrong type")
        count, total = values.size, prod(shape)
        index = indices.read().astype(np.int64)
        if index.ndim == 2 and index.shape == (count, len(shape)):
            if count and ((index < 0).any() or (index >= np.array(shape)).any()):
                raise LoadError(f"sparse tensor {shown(name)!r} has indices outside its shape")
            flat = np.ravel_multi_index(tuple(index.T), shape) if shape and count else index[:0, 0]
        elif index.shape == (count,):
            flat = index
        else:
            raise LoadError(f"sparse tensor {shown(name)!r} has {index.shape} indices for {count}")
        if count and not (flat.min() >= 0 and flat.max() < total):
            raise LoadError(f"sparse tensor {shown(name)!r} has indices outside its shape")
        order = np.argsort(flat, kind="stable")
        if (np.diff(flat[order]) == 0).any():
            raise LoadError(f"sparse tensor {shown(name)!r} states one element twice")
        elements = values.read().reshape(-1)[order]
        return Tensor(name, values.dtype, shape, SparseSource(flat[order], elements))

    @staticmethod
    def _check_count(name: str, shape: tuple[int, ...], needed: int, held: int, unit: str) -> None:
        if held < needed:
            raise LoadError(
                f"tensor {shown(name)!r} of shape {list(shape)[:8]} needs {needed} {unit} but "
                f"holds {held}: a truncated or damaged model"
            )

    def raw(self, proto: Any) -> bytes:
        """The little-endian bytes of a TensorProto whose data is external.

        Raises:
            LoadError: as `tensor` does.
        """
        dtype = DTYPES[proto.data_type]
        count = prod(proto.dims)
        source = self._external(proto, proto.name, dtype, count)
        return source.file.read_array(source.offset, byte_count(dtype, count)).tobytes()

    def _external(self, proto: Any, name: str, dtype: str, count: int) -> FileSource:
        entries: dict[str, str] = {}
        for entry in proto.external_data:
            if entry.key in entries:
                raise LoadError(f"tensor {shown(name)!r} states {shown(entry.key)!r} twice")
            if entry.key in _EXTERNAL_KEYS:
                entries[entry.key] = entry.value
        location = entries.get("location")
        if not location:
            raise LoadError(f"tensor {shown(name)!r} is external but names no file")
        offset = _decimal(entries.get("offset", "0"), name, "offset")
        length = entries.get("length")
        needed = byte_count(dtype, count)
        if length is not None and _decimal(length, name, "length") < needed:
            raise LoadError(
                f"tensor {shown(name)!r} needs {needed} bytes, but its external data is "
                f"{shown(length)} bytes long"
            )
        file = self._file(location, name)
        if offset + max(needed, int(length or 0)) > file.size:
            raise LoadError(
                f"external data {shown(location)!r} is too short: tensor {shown(name)!r} needs "
                f"bytes {offset} to {offset + max(needed, int(length or 0))} of {file.size}; "
                "download it again"
            )
        return FileSource(file, offset, dtype, count)

    def _file(self, location: str, name: str) -> File:
        self.external = True
        if location not in self._files:
            if self._folder is None:
                self._folder = Folder.of(os.path.dirname(self.path))
            try:
                file = self._folder.open(location, hold=len(self._files) < _HELD_FILES)
            except LoadError as error:
                raise LoadError(f"external data of tensor {shown(name)!r}: {error}") from None
            if is_lfs_pointer(file.read_at(0, min(file.size, 64))):
                raise LoadError(
                    f"external data {shown(location)!r} is a Git LFS pointer, it was not pulled; "
                    "run: git lfs pull"
                )
            self._files[location] = file
        return self._files[location]


def _decimal(text: str, name: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise LoadError(f"tensor {shown(name)!r} has an external {what} of {shown(text)!r}")
    return int(text)
