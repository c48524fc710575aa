"""Zip checkpoints: a writer that can lie, archives that do, and lying tensors in honest ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.case import Cases, End

ARCHIVES = Cases("zip archives", ".pt")
TENSORS = Cases("pickled tensors", ".pt")


@dataclass(frozen=True)
class Member:
    """One member as both of its headers state it; None: the truth."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    local_name: str | None = None
    offset: int | None = None


def archive(
    members: Sequence[Member],
    *,
    prefix: bytes = b"",
    comment: bytes = b"",
    count: int | None = None,
    directory_offset: int | None = None,
) -> bytes:
    """A zip archive of these members."""
    out = bytearray(prefix)
    directory = bytearray()
    for member in members:
        stored = member.data
        if member.method == 8:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            stored = packer.compress(member.data) + packer.flush()
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        packed = len(stored) if member.packed is None else member.packed
        size = len(member.data) if member.size is None else member.size
        offset = len(out) if member.offset is None else member.offset
        local = (member.name if member.local_name is None else member.local_name).encode()
        name = member.name.encode("utf-8", "surrogateescape")
        sizes = struct.pack("<III", crc, packed & 0xFFFFFFFF, size & 0xFFFFFFFF)
        out += b"PK\3\4" + struct.pack("<HHHHH", 20, member.flags, member.method, 0, 33)
        out += sizes + struct.pack("<HH", len(local), 0) + local + stored
        directory += b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, member.flags, member.method, 0, 33)
        directory += sizes + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, offset) + name
    start = len(out) if directory_offset is None else directory_offset
    entries = min(len(members) if count is None else count, 0xFFFF)
    end = struct.pack("<HHHHIIH", 0, 0, entries, entries, len(directory), start, len(comment))
    return bytes(out + directory + b"PK\5\6" + end + comment)


def checkpoint(
    folder: Path,
    pickled: bytes | None = None,
    storages: Mapping[str, bytes] | None = None,
    name: str = "model.pt",
    extra: Sequence[Member] = (),
) -> None:
    """A zip checkpoint as ``torch.save`` lays it out."""
    members = [
        Member("archive/data.pkl", state_dict() if pickled is None else pickled),
        Member("archive/byteorder", b"little"),
        Member("archive/version", b"3\n"),
    ]
    stored = {"0": values()} if storages is None else storages
    members += [Member(f"archive/data/{key}", data) for key, data in stored.items()]
    (folder / name).write_bytes(archive([*members, *extra]))


def values(count: int = 12) -> bytes:
    return np.zeros(count, "<f4").tobytes()


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    size = (value.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def storage(key: bytes = _text("0"), kind: str = "FloatStorage", count: int = 12) -> bytes:
    return (
        _tuple(_text("storage"), f"ctorch\n{kind}\n".encode(), key, _text("cpu"), _number(count))
        + b"Q"
    )


def tensor(
    shape: Sequence[int] = (4, 3),
    strides: Sequence[int] = (3, 1),
    offset: int = 0,
    source: bytes | None = None,
    sizes: bytes | None = None,
) -> bytes:
    """``torch._utils._rebuild_tensor_v2`` with these arguments."""
    arguments = _tuple(
        storage() if source is None else source,
        _number(offset),
        _tuple(*map(_number, shape)) if sizes is None else sizes,
        _tuple(*map(_number, strides)),
        b"\x89",
        b"ccollections\nOrderedDict\n)R",
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def state_dict(items: Mapping[str, bytes] | None = None) -> bytes:
    """A pickled dictionary of tensors."""
    items = {"fc.weight": tensor()} if items is None else items
    pairs = b"".join(_text(name) + value for name, value in items.items())
    return b"\x80\x02}(" + pairs + b"u."


def _members(folder: Path, members: Sequence[Member], **options: Any) -> None:
    (folder / "model.pt").write_bytes(archive(members, **options))


_DATA = Member("archive/data.pkl", state_dict())
_STORAGE = Member("archive/data/0", values())


def _lie(
    name: str, *members: Member, end: End = End.REFUSED, words: str = "", **options: Any
) -> None:
    ARCHIVES.add(name, end, words)(partial(_members, members=members, **options))


_lie("two_pickles_same_name", _DATA, _DATA, _STORAGE)
_lie("two_pickles", _DATA, Member("other/data.pkl", state_dict()), _STORAGE)
_lie("local_name_differs", Member("archive/data.pkl", state_dict(), local_name="x"), _STORAGE)
_lie("encrypted", Member("archive/data.pkl", state_dict(), flags=1), _STORAGE)
_lie("method_unknown", Member("archive/data.pkl", state_dict(), method=99), _STORAGE)
_lie("method_lzma", Member("archive/data.pkl", state_dict(), method=14), _STORAGE)
_lie("crc_of_pickle", Member("archive/data.pkl", state_dict(), crc=1), _STORAGE)
_lie("crc_of_storage", _DATA, Member("archive/data/0", values(), crc=1))
_lie("size_larger", Member("archive/data.pkl", state_dict(), size=10**6), _STORAGE)
_lie("size_4g", _DATA, Member("archive/data/0", values(), size=0xFFFFFFFE, packed=0xFFFFFFFE))
_lie("zip64_without_field", _DATA, Member("archive/data/0", values(), size=0xFFFFFFFF))
_lie("offset_beyond", _DATA, Member("archive/data/0", values(), offset=10**8))
_lie("offset_into_other", _DATA, Member("archive/data/0", values(), offset=5))
_lie("count_too_large", _DATA, _STORAGE, count=5000)
_lie("count_too_small", _DATA, _STORAGE, count=1)
_lie("directory_elsewhere", _DATA, _STORAGE, directory_offset=3)
_lie("comment_with_end", _DATA, _STORAGE, comment=b"PK\5\6" + bytes(18))
_lie("storage_missing", _DATA, words="missing")
_lie("storage_short", _DATA, Member("archive/data/0", values(3)))
_lie("storage_path_escapes", _DATA, Member("archive/../../etc/passwd", values()))
_lie("no_pickle", _STORAGE)
_lie("no_members")
_lie("big_endian", _DATA, _STORAGE, Member("archive/byteorder", b"big"), words="big-endian")
_lie(
    "torchscript", _DATA, _STORAGE, Member("archive/constants.pkl", b"\x80\x02)."), words="program"
)
_lie("name_with_nul", Member("archive/data.pkl\0.txt", state_dict()), _STORAGE)
_lie("prefix_of_other_format", _DATA, _STORAGE, prefix=b"#!/bin/sh\n")
_lie("deflate_bomb", Member("archive/data.pkl", b"\x80\x02" + bytes(50_000_000), method=8))
_lie(
    "deflated_storage_bomb",
    Member(
        "archive/data.pkl",
        state_dict({"w": tensor((5000, 5000), (5000, 1), source=storage(count=25_000_000))}),
    ),
    Member("archive/data/0", bytes(100_000_000), method=8),
)
_lie("members_60000", *(Member(f"archive/data/{n}", b"") for n in range(60_000)), _DATA)
_lie("tail_only", end=End.REFUSED, prefix=b"PK\3\4")
ARCHIVES.content("first_bytes_only", b"PK\x03\x04")
ARCHIVES.content("truncated", archive([_DATA, _STORAGE])[:-30], words="truncated")
ARCHIVES.content("cut_in_half", archive([_DATA, _STORAGE])[:300])
ARCHIVES.content("zip_as_safetensors", archive([_DATA, _STORAGE]), suffix=".safetensors")


def _holds(name: str, value: bytes, end: End = End.REFUSED) -> None:
    TENSORS.add(name, end)(partial(checkpoint, pickled=state_dict({"fc.weight": value})))


_holds("shape_too_large", tensor((1000, 1000), (1000, 1)))
_holds("stride_zero_2_to_40", tensor((2**20, 2**20), (0, 0)))
_holds("stride_negative", tensor((4, 3), (-3, 1), 11))
_holds("offset_beyond", tensor(offset=10**9))
_holds("offset_negative", tensor(offset=-1))
_holds("shape_negative", tensor((-4, -3)))
_holds("shape_huge", tensor((2**62, 2**62), (1, 1)))
_holds("shape_of_text", tensor(sizes=_tuple(_text("4"), _text("3"))))
_holds("shape_of_floats", tensor(sizes=_tuple(b"G\x7f\xf8" + bytes(6), b"K\x03")))
_holds("shape_is_none", tensor(sizes=b"N"))
_holds("shape_rank_5000", tensor((1,) * 5000, (1,) * 5000))
_holds("strides_rank_differs", tensor((4, 3), (1,)))
_holds("storage_count_huge", tensor(source=storage(count=2**62)))
_holds("storage_count_negative", tensor(source=storage(count=-12)))
_holds("storage_kind_unknown", tensor(source=storage(kind="EvilStorage")))
_holds("storage_key_escapes", tensor(source=storage(_text("../../../etc/passwd"))))
_holds("storage_key_number", tensor(source=storage(b"K\x00")), End.ANY)
_holds("storage_is_text", tensor(source=_text("storage")))
_holds("no_arguments", b"ctorch._utils\n_rebuild_tensor_v2\n)R")
_holds("function_itself", b"ctorch._utils\n_rebuild_tensor_v2\n")
_holds(
    "sparse_outside_its_shape",
    b"ctorch._utils\n_rebuild_sparse_tensor\n"
    + _tuple(b"ctorch\nsparse_coo\n", _tuple(tensor(), tensor(), _tuple(b"K\x02", b"K\x02")))
    + b"R",
)
_holds("typed_float_tensor", b"ctorch\nFloatTensor\n\x8a\x05\0\0\0\0\x01\x85R")
_holds("bytearray", b"cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x01\x85R")


@TENSORS.add("views_50000", End.REFUSED)
def _views(folder: Path) -> None:
    big = tensor((1000, 250), (250, 1), source=storage(count=250_000))
    items = {
        f"w{n}": tensor((1000, 249 - n % 200), (250, 1), source=storage(count=250_000))
        for n in range(5000)
    }
    checkpoint(folder, state_dict({**items, "w": big}), {"0": values(250_000)})
