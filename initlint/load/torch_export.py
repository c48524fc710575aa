"""Exported programs (``.pt2``): their JSON and raw weights, never ``torch.export.load``.

That function unpickles sample inputs, constants and some weights, evaluates symbolic shapes as
Python and runs guard code. Archive layout: ``torch/export/pt2_archive/constants.py``; weight
records: ``torch/_export/serde/schema.py``.
"""

from __future__ import annotations

from math import prod
from typing import Any

from initlint.load.archive import Archive, Member, Storage
from initlint.load.decode import FileSource, bits
from initlint.load.files import shown
from initlint.load.pickle_file import Inflated
from initlint.load.stored import (
    Contents,
    Stored,
    check_overlap,
    checked_name,
    checked_shape,
    real_parts,
    strided,
)
from initlint.load.untrusted_json import parse_json
from initlint.model import LoadError

MAX_JSON = 1 << 27
"""Bytes of the JSON that lists weights: far more than any model's names take."""

_CONFIGS = ("model_weights_config.json", "model_constants_config.json")

_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
}
"""``ScalarType`` in ``torch/_export/serde/schema.py``."""


def is_export(archive: Archive) -> bool:
    """True for the archives that ``torch.export.save`` writes, old and new."""
    names = {name.rpartition("/")[2] for name in archive.members}
    return bool(names & {"archive_format", "serialized_exported_program.json"}) and (
        "data.pkl" not in names
    )


def read_export(archive: Archive) -> Contents:
    """The parameters and buffers of an exported program, by name.

    Raises:
        LoadError: the older layout, whose weights are pickled as a whole, or damaged.
    """
    name = archive.file.name
    if any(member.endswith("serialized_exported_program.json") for member in archive.members):
        raise LoadError(
            f"{shown(name)}: an exported program of PyTorch before 2.8, whose weights are pickled; "
            "export it again, or export to ONNX"
        )
    configs = sorted(
        member
        for member in archive.members
        if member.rpartition("/")[2] in _CONFIGS
        or member.endswith(("_weights_config.json", "_constants_config.json"))
    )
    tensors: dict[str, Stored] = {}
    skipped: list[str] = []
    for config in configs:
        _read_config(archive, config, tensors, skipped)
    if not tensors:
        raise LoadError(f"{shown(name)}: an exported program without readable weights")
    check_overlap(tensors, archive.file.size)
    notices = [f"{len(skipped)} pickled values of the program were not read"] if skipped else []
    return Contents(tensors, tuple(notices), producer="torch.export", ordered=True)


def _read_config(
    archive: Archive, config: str, tensors: dict[str, Stored], skipped: list[str]
) -> None:
    value = parse_json(archive.read(config, MAX_JSON), f"{archive.file.name}: {config}")
    entries = value.get("config") if isinstance(value, dict) else None
    if not isinstance(entries, dict):
        raise LoadError(f"{shown(archive.file.name)}: damaged {shown(config)}")
    folder = config.rpartition("/")[0]
    for name, entry in entries.items():
        checked_name(name)
        if not isinstance(entry, dict) or not isinstance(entry.get("path_name"), str):
            raise LoadError(f"{shown(archive.file.name)}: damaged entry of {shown(name)!r}")
        if entry.get("use_pickle") or not isinstance(entry.get("tensor_meta"), dict):
            skipped.append(name)
            continue
        member = archive.members.get(f"{folder}/{entry['path_name']}")
        if member is None:
            raise LoadError(f"{shown(archive.file.name)}: weight {shown(name)!r} is missing")
        tensors[name] = _stored(archive, member, name, entry)


def _stored(archive: Archive, member: Member, name: str, entry: dict[str, Any]) -> Stored:
    meta = entry["tensor_meta"]
    code = meta.get("dtype")
    dtype = _DTYPES.get(code) if isinstance(code, int) else None
    if dtype is None:
        raise LoadError(f"tensor {shown(name)!r} has an unknown element type {shown(code)}")
    shape = checked_shape(_integers(meta.get("sizes"), name), name)
    strides = checked_shape(_integers(meta.get("strides"), name), name)
    (offset,) = _integers([meta.get("storage_offset", {"as_int": 0})], name)
    unit, sides = real_parts(dtype, shape)
    where: Storage | Inflated = archive.storage(member.name) or Inflated(archive, member)
    factor = bits(dtype) // bits(unit)
    if factor > 1:
        strides = (*(step * factor for step in strides), 1)
    available = where.size * 8 // bits(unit)
    source = FileSource(where, 0, unit, available)
    if prod(sides) == available and type(offset) is int and offset:
        raise LoadError(f"tensor {shown(name)!r} reaches outside its storage")
    tensor = strided(name, dtype, source, available, offset * factor, sides, strides)
    identity = (member.name, offset, shape, strides)
    trainable = meta.get("requires_grad") if entry.get("is_param") else False
    return Stored(tensor, identity, trainable if isinstance(trainable, bool) else None)


def _integers(values: Any, name: str) -> list[int]:
    """Plain integers; a symbolic size is an expression, which is not evaluated."""
    if not isinstance(values, list):
        raise LoadError(f"tensor {shown(name)!r}: damaged shape")
    numbers = [value.get("as_int") if isinstance(value, dict) else None for value in values]
    if any(type(number) is not int for number in numbers):
        raise LoadError(f"tensor {shown(name)!r}: its shape is not made of numbers")
    return [number for number in numbers if isinstance(number, int)]
