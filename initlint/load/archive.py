"""Reader of zip archives that trusts no size, name or checksum it has not compared.

Python's ``zipfile`` takes the last of two members of one name where libtorch takes the first,
and inflates whatever it is given.
"""

from __future__ import annotations

import struct
import threading
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from initlint.load.files import File, shown
from initlint.model import LoadError

MAX_MEMBERS = 250_000
MAX_DIRECTORY = 1 << 26
MAX_RATIO = 100
"""Weights hardly compress; deflate reaches 1032 to 1 only on runs of one byte."""

_STORED, _DEFLATED = 0, 8
_END, _END64 = b"PK\5\6", b"PK\6\6"
_LOCATOR64 = b"PK\6\7"
_CENTRAL, _LOCAL = b"PK\1\2", b"PK\3\4"
_LONGEST_COMMENT = 0xFFFF
_EXTRA64 = 1


@dataclass(frozen=True, slots=True)
class Member:
    """One file in the archive.

    Attributes:
        name: path in the archive.
        offset: where its local header begins.
        packed: bytes in the archive.
        size: bytes when unpacked.
        method: 0 stored, 8 deflated.
        crc: checksum of the unpacked bytes; 0 when the writer did not compute it.
    """

    name: str
    offset: int
    packed: int
    size: int
    method: int
    crc: int


class Archive:
    """The members of a zip archive.

    Raises:
        LoadError: no zip archive, damaged, or with two members of one name.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        self.members: dict[str, Member] = {}
        count, size, offset = self._directory()
        if count > MAX_MEMBERS:
            raise self._damaged(f"{count} members")
        raw = file.read_at(offset, size)
        position = 0
        for _ in range(count):
            member, position = self._member(raw, position)
            if member.name in self.members:
                raise self._damaged(f"two members called {shown(member.name)!r}")
            self.members[member.name] = member
        self._check_extents(offset)

    def read(self, name: str, limit: int) -> bytes:
        """The unpacked bytes of a member.

        Raises:
            LoadError: missing, larger than ``limit``, damaged, or packed suspiciously well.
        """
        member = self._find(name)
        if member.size > limit:
            raise LoadError(
                f"{shown(self.file.name)}: {shown(name)} has {member.size} bytes, "
                f"more than the {limit} that it may have"
            )
        if member.method == _STORED:
            data = self.file.read_at(self.data_offset(member), member.size)
        else:
            data = self._inflate(member)
        if member.crc and zlib.crc32(data) != member.crc:
            raise self._damaged(f"wrong checksum of {shown(name)}; download it again")
        return data

    def storage(self, name: str) -> Storage | None:
        """Where the bytes of a stored member lie; None for a compressed one."""
        member = self._find(name)
        if member.method != _STORED:
            return None
        return Storage(self.file, self.data_offset(member), member.size, member.crc, name)

    def data_offset(self, member: Member) -> int:
        """First byte of a member's data."""
        header = self.file.read_at(member.offset, 30)
        if header[:4] != _LOCAL:
            raise self._damaged(f"no member where {shown(member.name)} should be")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        name = self.file.read_at(member.offset + 30, name_length)
        if name.decode("utf-8", "replace") != member.name:
            raise self._damaged(f"two names for member {shown(member.name)}")
        offset: int = member.offset + 30 + name_length + extra_length
        if offset + member.packed > self.file.size:
            raise self._damaged(f"{shown(member.name)} is not all there; download it again")
        return offset

    def _find(self, name: str) -> Member:
        if name not in self.members:
            raise self._damaged(f"member {shown(name)!r} is missing")
        return self.members[name]

    def check_packing(self, member: Member) -> None:
        """Raise `LoadError` for a member that claims to be packed better than weights can be."""
        if member.size > MAX_RATIO * max(member.packed, 1):
            raise self._damaged(f"{shown(member.name)} unpacks to {member.size} bytes")

    def _inflate(self, member: Member) -> bytes:
        self.check_packing(member)
        packed = self.file.read_at(self.data_offset(member), member.packed)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflater.decompress(packed, member.size + 1)
        except zlib.error:
            raise self._damaged(f"{shown(member.name)} cannot be unpacked") from None
        if len(data) != member.size:
            raise self._damaged(f"wrong size of {shown(member.name)}")
        return data

    def _directory(self) -> tuple[int, int, int]:
        """Number of members, bytes and offset of the central directory."""
        tail_size = min(self.file.size, _LONGEST_COMMENT + 22)
        tail = self.file.read_at(self.file.size - tail_size, tail_size)
        at = tail.rfind(_END)
        if at < 0 or len(tail) < at + 22:
            raise self._damaged("no end of archive: truncated; download it again")
        entries, size, offset = struct.unpack("<8xHHII2x", tail[at : at + 22])[1:]
        position = self.file.size - tail_size + at
        if entries == 0xFFFF or 0xFFFFFFFF in (size, offset):
            entries, size, offset = self._directory64(position)
        if offset + size > position or not 46 * entries <= size <= MAX_DIRECTORY:
            raise self._damaged("its directory is not all there")
        return entries, size, offset

    def _directory64(self, end: int) -> tuple[int, int, int]:
        if end < 20:
            raise self._damaged("no 64-bit directory")
        locator = self.file.read_at(end - 20, 20)
        (at,) = struct.unpack("<8xQ4x", locator)
        if locator[:4] != _LOCATOR64 or at + 56 > end:
            raise self._damaged("no 64-bit directory")
        record = self.file.read_at(at, 56)
        if record[:4] != _END64:
            raise self._damaged("no 64-bit directory")
        entries, size, offset = struct.unpack("<32xQQQ", record)
        return entries, size, offset

    def _member(self, raw: bytes, at: int) -> tuple[Member, int]:
        fixed = raw[at : at + 46]
        if len(fixed) < 46 or fixed[:4] != _CENTRAL:
            raise self._damaged("its directory is cut off")
        flags, method, crc, packed, size, names, extras, comments, offset = struct.unpack(
            "<8xHH4xIIIHHH8xI", fixed
        )
        name_at = at + 46
        extra = raw[name_at + names : name_at + names + extras]
        size, packed, offset = self._wide(extra, size, packed, offset)
        name = raw[name_at : name_at + names].decode("utf-8", "replace")
        if flags & 1 or method not in (_STORED, _DEFLATED):
            raise self._damaged(f"{shown(name)} is encrypted or packed in an unknown way")
        if method == _STORED and packed != size:
            raise self._damaged(f"two sizes for member {shown(name)}")
        member = Member(name, offset, packed, size, method, crc)
        return member, name_at + names + extras + comments

    def _wide(self, extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
        """The three numbers that do not fit 32 bits, from the zip64 field."""
        values = [size, packed, offset]
        wanted = [index for index, value in enumerate(values) if value == 0xFFFFFFFF]
        at = 0
        while wanted and at + 4 <= len(extra):
            kind, length = struct.unpack("<HH", extra[at : at + 4])
            field = extra[at + 4 : at + 4 + length]
            if kind == _EXTRA64 and len(field) >= 8 * len(wanted):
                for slot, index in enumerate(wanted):
                    values[index] = int.from_bytes(field[8 * slot : 8 * slot + 8], "little")
                break
            at += 4 + length
        return values[0], values[1], values[2]

    def _check_extents(self, directory: int) -> None:
        """Members may not overlap: one block would stand for many."""
        end = 0
        for member in sorted(self.members.values(), key=lambda member: member.offset):
            if member.offset < end:
                raise self._damaged(f"{shown(member.name)} overlaps another member")
            end = member.offset + 30 + member.packed
            if end > directory:
                raise self._damaged(f"{shown(member.name)} is not all there; download it again")

    def _damaged(self, why: str) -> LoadError:
        return LoadError(f"{shown(self.file.name)}: damaged archive: {why}")


@dataclass(slots=True)
class Storage:
    """A run of stored bytes whose checksum is verified as they are first read through.

    Attributes:
        file: the file they are in.
        offset: first byte.
        size: number of bytes.
        crc: expected CRC-32; 0 when there is none.
        name: how messages name it.
    """

    file: File
    offset: int
    size: int
    crc: int
    name: str
    _position: int = field(default=0, repr=False)
    _running: int = field(default=0, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def read_array(self, offset: int, length: int) -> NDArray[np.uint8]:
        """``length`` bytes from ``offset``, checking the sum when a pass reaches the end.

        Raises:
            LoadError: outside the storage, or the bytes do not have the sum that they should.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise LoadError(f"{shown(self.file.name)}: {shown(self.name)} is not all there")
        data = self.file.read_array(self.offset + offset, length)
        if self.crc:
            self._check_sum(data, offset)
        return data

    def _check_sum(self, data: NDArray[np.uint8], offset: int) -> None:
        with self._lock:
            if not offset <= self._position < offset + data.size:
                return
            self._running = zlib.crc32(data[self._position - offset :].data, self._running)
            self._position = offset + data.size
            if self._position == self.size and self._running != self.crc:
                raise LoadError(
                    f"{shown(self.file.name)}: wrong checksum of {shown(self.name)}: "
                    "the file is damaged; download it again"
                )
