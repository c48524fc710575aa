"""safetensors headers that lie, and indexes of shards that point elsewhere."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.case import Cases, End
from tests.hostile.onnx_files import LFS_POINTER, WEB_PAGE

HEADERS = Cases("safetensors headers", ".safetensors")
SHARDS = Cases("shards", ".safetensors.index.json")


def entry(shape: Any = (4, 3), start: Any = 0, end: Any = 48, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def file_of(header: Any, data: bytes = bytes(48), length: int | None = None) -> bytes:
    """A safetensors file; a header that is no bytes is written as JSON."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


GOOD = {"fc.weight": entry()}
_RAW = json.dumps(GOOD).encode()

for _name, _data in {
    "length_beyond_file": file_of(GOOD, length=10**6),
    "length_2_to_64": file_of(GOOD, length=2**64 - 1),
    "length_zero": file_of(b"", bytes(8)),
    "header_is_no_json": file_of(b"{nonsense}"),
    "header_is_list": file_of([GOOD]),
    "header_is_number": file_of(b"7"),
    "name_twice": file_of(_RAW[:-1] + b", " + _RAW[1:]),
    "field_twice": file_of(
        b'{"w":{"dtype":"F32","dtype":"F64","shape":[4,3],"data_offsets":[0,48]}}'
    ),
    "nan_offset": file_of(b'{"w":{"dtype":"F32","shape":[4,3],"data_offsets":[NaN,48]}}'),
    "infinite_shape": file_of(b'{"w":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,48]}}'),
    "number_of_10000_digits": file_of(
        b'{"w":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,48]}}'
    ),
    "overlap": file_of({"a": entry(), "b": entry()}),
    "hole": file_of({"a": entry(), "b": entry(start=60, end=108)}, bytes(108)),
    "trailing_bytes": file_of(GOOD, bytes(100)),
    "truncated_data": file_of(GOOD, bytes(10)),
    "offsets_reversed": file_of({"w": entry(start=48, end=0)}),
    "offset_negative": file_of({"w": entry(start=-48, end=0)}),
    "offset_float": file_of({"w": entry(end=48.0)}),
    "offset_bool": file_of({"w": entry(start=False)}),
    "offset_text": file_of({"w": entry(end="48")}),
    "offsets_three": file_of({"w": {**entry(), "data_offsets": [0, 24, 48]}}),
    "shape_mismatch": file_of({"w": entry((5, 3))}),
    "shape_negative": file_of({"w": entry((-4, -3))}),
    "shape_overflow": file_of({"w": entry((2**32, 2**32, 0))}, b""),
    "shape_text": file_of({"w": entry("43")}),
    "shape_null": file_of({"w": entry(None)}),
    "shape_rank_100000": file_of({"w": entry([1] * 100_000, end=4)}, bytes(4)),
    "dtype_unknown": file_of({"w": entry(dtype="F128")}),
    "dtype_list": file_of({"w": entry(dtype=["F32"])}),
    "dtype_missing": file_of({"w": {"shape": [4, 3], "data_offsets": [0, 48]}}),
    "entry_is_list": file_of({"w": [1, 2, 3]}),
    "metadata_is_list": file_of({"__metadata__": [1], **GOOD}),
    "nested_100000": file_of(b"[" * 100_000 + b"]" * 100_000),
    "nested_in_entry": file_of(b'{"w":' * 50_000 + b"1" + b"}" * 50_000),
    "not_utf8": file_of(b'{"\xff\xfe":{}}'),
    "utf16": file_of(json.dumps(GOOD).encode("utf-16")),
    "byte_order_mark": file_of(b"\xef\xbb\xbf" + _RAW),
    "name_of_a_megabyte": file_of({"n" * (1 << 20): entry()}),
    "seven_bytes": b"\x02\0\0\0\0\0\0",
    "eight_zeros": bytes(8),
}.items():
    HEADERS.content(_name, _data)
HEADERS.content("pointer", LFS_POINTER, words="Git LFS")
HEADERS.content("page", WEB_PAGE, words="web page")
HEADERS.content("pickle_inside", b"\x80\x02cos\nsystem\n.", words="")


@HEADERS.add("names_1000000", End.REFUSED)
def _names(folder: Path) -> None:
    rows = ",".join(
        f'"t{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(1_000_000)
    )
    (folder / "model.safetensors").write_bytes(file_of(f"{{{rows}}}".encode(), b""))


@HEADERS.add("header_of_99_megabytes", End.ANY)
def _long(folder: Path) -> None:
    raw = b'{"__metadata__":{"a":"' + b"x" * 99_000_000 + b'"}}'
    (folder / "model.safetensors").write_bytes(file_of(raw, b""))


@HEADERS.add("values_10000000", End.REFUSED)
def _values(folder: Path) -> None:
    raw = b'{"w":[' + b"[]," * 10_000_000 + b"1]}"
    (folder / "model.safetensors").write_bytes(file_of(raw, b""))


@HEADERS.add("sparse_file_of_a_terabyte", End.ANY)
def _terabyte(folder: Path) -> None:
    header = {"w": entry((2**19, 2**19), end=2**40)}
    with open(folder / "model.safetensors", "wb") as file:
        file.write(file_of(header, b""))
        file.truncate(file.tell() + 2**40)


def _index(folder: Path, shard: str, document: Any = None) -> None:
    value = {"weight_map": {"fc.weight": shard}} if document is None else document
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    (folder / "model.safetensors.index.json").write_bytes(raw)


for _name, _shard, _words in (
    ("missing", "model-00001-of-00001.safetensors", "missing"),
    ("parent", "../outside.safetensors", "own folder"),
    ("absolute", "/etc/passwd", "own folder"),
    ("itself", "model.safetensors.index.json", ""),
    ("device", "/dev/zero", "own folder"),
    ("empty", "", ""),
    ("controls", "\x1b]0;x\x07\n::error::x", ""),
):
    SHARDS.add(_name, End.REFUSED, _words)(partial(_index, shard=_shard))
for _name, _document in {
    "map_is_list": {"weight_map": ["a"]},
    "map_of_numbers": {"weight_map": {"a": 3}},
    "map_missing": {"metadata": {}},
    "shards_100000": {"weight_map": {f"w{n}": f"s{n}.safetensors" for n in range(100_000)}},
    "nested_100000": b'{"weight_map":' * 100_000,
    "not_json": b"{",
    "empty_map": {"weight_map": {}},
}.items():
    SHARDS.add(_name)(partial(_index, shard="", document=_document))


def _shard(folder: Path, kind: str) -> None:
    _index(folder, "shard.safetensors")
    shard = folder / "shard.safetensors"
    if kind == "pointer":
        shard.write_bytes(LFS_POINTER)
    elif kind == "folder":
        shard.mkdir()
    elif kind == "fifo":
        os.mkfifo(shard)
    elif kind == "link":
        shard.symlink_to("/etc/passwd")
    elif kind == "other tensor":
        shard.write_bytes(file_of({"other": entry()}))
    elif kind == "pickle":
        shard.write_bytes(b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.")


for _kind in ("pointer", "folder", "fifo", "link", "other tensor", "pickle"):
    SHARDS.add(_kind)(partial(_shard, kind=_kind))
