"""Reader of PyTorch's pickled checkpoints: the zip format, the older plain one, NumPy pickles.

Layouts: ``torch/serialization.py``, functions ``_save`` and ``_legacy_save``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.load.archive import Archive, Member
from initlint.load.decode import Readable
from initlint.load.files import File, shown
from initlint.load.pickle_globals import StorageBytes, TorchBuilder
from initlint.load.pickle_machine import BytesStream, run
from initlint.model import LoadError

MAX_PICKLE = 1 << 28
"""Bytes of a pickle: names, shapes, hyperparameters, and the data of NumPy arrays."""

MAX_INFLATED = 1 << 30
"""Bytes of one compressed storage, which has to be unpacked as a whole."""

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class Pickled:
    """What a pickle describes.

    Attributes:
        value: plain containers, `initlint.load.stored.Stored` tensors, records.
        stored_bytes: bytes that its tensors can be views of.
        producer: what wrote it.
    """

    value: Any
    stored_bytes: int
    producer: str


def read_torch_zip(archive: Archive) -> Pickled:
    """The pickle of a zip checkpoint; its storages stay in the file until they are read.

    Raises:
        LoadError: TorchScript, damaged, or not made of weights alone.
    """
    name = archive.file.name
    pickles = [member for member in archive.members if member.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise LoadError(f"{shown(name)}: a zip archive without one data.pkl is no checkpoint")
    prefix = pickles[0][: -len("data.pkl")]
    if any(member in archive.members for member in (f"{prefix}constants.pkl", f"{prefix}code")):
        raise LoadError(
            f"{shown(name)}: a TorchScript archive is a program, which is never run here; save "
            "model.state_dict(), or export the model to ONNX"
        )
    if f"{prefix}byteorder" in archive.members:
        order = archive.read(f"{prefix}byteorder", 16).strip()
        if order != b"little":
            raise LoadError(f"{shown(name)}: stored big-endian, which cannot be read")
    builder = TorchBuilder()
    value = _named(name, BytesStream(archive.read(pickles[0], MAX_PICKLE)), builder)
    for storage in builder.storages.values():
        _place(archive, f"{prefix}data/{storage.key}", storage)
    total = sum(storage.size for storage in builder.storages.values())
    return Pickled(value, total + archive.members[pickles[0]].size, "pytorch")


def _place(archive: Archive, member: str, storage: StorageBytes) -> None:
    where: Readable | None = archive.storage(member)
    if where is None:
        where = Inflated(archive, archive.members[member])
    if where.size < storage.size:
        raise LoadError(
            f"{shown(archive.file.name)}: storage {shown(storage.key)} has {where.size} of "
            f"{storage.size} bytes: damaged; download it again"
        )
    storage.where = where


@dataclass(slots=True)
class Inflated:
    """A compressed storage, unpacked when it is read."""

    archive: Archive
    member: Member
    _data: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.archive.check_packing(self.member)

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"{self.archive.file.name}: {self.member.name}"

    @property
    def size(self) -> int:
        """Number of unpacked bytes."""
        return self.member.size

    def read_array(self, offset: int, length: int) -> NDArray[np.uint8]:
        """``length`` unpacked bytes from ``offset``; the last pass forgets them again."""
        data = self._data
        if data is None:
            data = self._data = self.archive.read(self.member.name, MAX_INFLATED)
        if offset + length >= self.size:
            self._data = None
        return np.frombuffer(data, dtype=np.uint8)[offset : offset + length].copy()


def read_pickle(file: File) -> Pickled:
    """A plain pickle: PyTorch before 1.6, or containers of NumPy arrays.

    Raises:
        LoadError: damaged, or not made of weights alone.
    """
    stream = FileStream(file)
    builder = TorchBuilder()
    first = _named(file.name, stream, builder)
    if first != _MAGIC:
        if builder.storages:
            raise LoadError(f"{shown(file.name)}: malformed pickle: storages without a file format")
        return Pickled(first, file.size, "pickle")
    if _named(file.name, stream, builder) != _PROTOCOL:
        raise LoadError(f"{shown(file.name)}: unknown version of PyTorch's file format")
    system = _named(file.name, stream, builder)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise LoadError(f"{shown(file.name)}: stored big-endian, which cannot be read")
    value = _named(file.name, stream, builder)
    keys = _named(file.name, stream, builder)
    if not isinstance(keys, list):
        raise LoadError(f"{shown(file.name)}: malformed pickle: no list of storages")
    _place_in_order(file, stream.position, keys, builder)
    return Pickled(value, file.size, "pytorch")


def _place_in_order(file: File, position: int, keys: list[Any], builder: TorchBuilder) -> None:
    """Storages follow the pickles: eight bytes of element count, then the elements."""
    for key in keys:
        storage = builder.storages.get(str(key)) if isinstance(key, (str, int)) else None
        if storage is None or storage.where is not None:
            raise LoadError(f"{shown(file.name)}: malformed pickle: a storage without a tensor")
        count = int.from_bytes(file.read_at(position, 8), "little")
        if count * max(storage.size // max(count, 1), 1) != storage.size:
            raise LoadError(f"{shown(file.name)}: storage {shown(key)} has a damaged size")
        if position + 8 + storage.size > file.size:
            raise LoadError(f"{shown(file.name)}: truncated; download it again")
        storage.where, storage.offset = file, position + 8
        position += 8 + storage.size
    missing = [key for key, storage in builder.storages.items() if storage.where is None]
    if missing:
        raise LoadError(f"{shown(file.name)}: storage {shown(missing[0])} is missing")


def _named(name: str, stream: BytesStream | FileStream, builder: TorchBuilder) -> Any:
    try:
        return run(stream, builder)
    except LoadError as error:
        raise LoadError(f"{shown(name)}: {error}") from None


class FileStream:
    """A stream over the beginning of a file, read in pieces as a pickle needs them."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._start = 0
        self._buffer = b""
        self._at = 0

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._start + self._at

    def read(self, length: int) -> bytes:
        """Exactly ``length`` bytes."""
        end = self._at + length
        if end > len(self._buffer):
            self._fill(length)
            end = length
        piece = self._buffer[self._at : end]
        self._at = end
        return piece

    def line(self) -> bytes:
        """The bytes up to the next newline."""
        end = self._buffer.find(b"\n", self._at)
        if end < 0:
            self._fill(0)
            end = self._buffer.find(b"\n")
        if end < 0:
            raise self._truncated()
        piece = self._buffer[self._at : end]
        self._at = end + 1
        return piece

    def _fill(self, length: int) -> None:
        start = self.position
        if length > self._file.size - start:
            raise self._truncated()
        if start + length > MAX_PICKLE:
            raise LoadError(f"refused: a pickle of more than {MAX_PICKLE} bytes")
        size = min(max(length, _BUFFER), self._file.size - start)
        self._buffer = self._file.read_at(start, size)
        self._start, self._at = start, 0

    def _truncated(self) -> LoadError:
        return LoadError("truncated or malformed pickle: it ends too early; download it again")
