"""Checkpoints in several files, listed by an ``*.index.json``."""

from __future__ import annotations

from collections.abc import Callable

from initlint.load.files import MAX_HELD, File, Folder, shown
from initlint.load.stored import MAX_TENSORS, Contents, Stored
from initlint.load.untrusted_json import parse_json
from initlint.model import LoadError

MAX_INDEX = 100_000_000
"""Bytes, as for a safetensors header, which lists as much."""

MAX_SHARDS = 4096

Reader = Callable[[File], Contents]


def is_index(file: File) -> bool:
    """True for a JSON document with a ``weight_map``; raises `LoadError` for broken JSON."""
    value = parse_json(_read(file), file.name)
    return isinstance(value, dict) and isinstance(value.get("weight_map"), dict)


def read_index(file: File, folder: Folder, read: Reader) -> Contents:
    """The tensors of all shards of an index, in the order of the index.

    Args:
        file: the index.
        folder: where the shards are; no other folder is read.
        read: reader of one shard.

    Raises:
        LoadError: a shard is missing or elsewhere, or lacks a tensor that the index puts there.
    """
    value = parse_json(_read(file), file.name)
    placed = value["weight_map"]
    if len(placed) > MAX_TENSORS or not all(isinstance(shard, str) for shard in placed.values()):
        raise LoadError(f"{shown(file.name)}: damaged weight_map")
    if not placed:
        raise LoadError(f"{shown(file.name)}: lists no weights")
    shards = list(dict.fromkeys(placed.values()))
    if len(shards) > MAX_SHARDS:
        raise LoadError(f"{shown(file.name)}: more than {MAX_SHARDS} shards")
    contents = {shard: _read_shard(folder, shard, len(shards), read) for shard in shards}
    tensors: dict[str, Stored] = {}
    for name, shard in placed.items():
        if name not in contents[shard].tensors:
            raise LoadError(
                f"{shown(file.name)}: shard {shown(shard)} lacks tensor {shown(name)!r}"
            )
        tensors[name] = contents[shard].tensors[name]
    extra = sum(len(part.tensors) for part in contents.values()) - len(tensors)
    notices = [notice for part in contents.values() for notice in part.notices]
    if extra:
        notices.append(f"{extra} tensors of the shards are not in the index and were left out")
    producer = next((part.producer for part in contents.values() if part.producer), "")
    return Contents(tensors, tuple(notices), {"shards": len(shards)}, producer)


def _read_shard(folder: Folder, shard: str, count: int, read: Reader) -> Contents:
    if not folder.has(shard):
        folder.open(shard).close()
        raise LoadError(f"shard {shown(shard)} is missing")
    return read(folder.open(shard, hold=count <= MAX_HELD))


def _read(file: File) -> bytes:
    if file.size > MAX_INDEX:
        raise LoadError(f"{shown(file.name)}: an index of more than {MAX_INDEX} bytes")
    return file.read_at(0, file.size)
