"""Reader of the safetensors format, with its own header parser.

Format: 8 bytes of little-endian header length, a JSON header, then the tensors' bytes without
holes (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
from collections import Counter
from math import prod
from typing import Any

from initlint.load.decode import FileSource, bits
from initlint.load.files import File, shown
from initlint.load.stored import (
    MAX_RANK,
    MAX_TENSORS,
    Contents,
    Stored,
    checked_name,
    checked_shape,
    real_parts,
)
from initlint.model import LoadError, Tensor

MAX_HEADER = 100_000_000
"""The format's own limit, in bytes."""

DTYPES = {
    "BOOL": "bool",
    "F4": "float4_e2m1",
    "F6_E2M3": "float6_e2m3",
    "F6_E3M2": "float6_e3m2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
    "C64": "complex64",
    "C128": "complex128",
}

_MAX_COMMAS = MAX_TENSORS * (MAX_RANK // 4)
"""Values a header may list: enough for the most tensors at any usual rank, and few enough to parse
in seconds."""


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """True when a file of ``size`` bytes that begins with ``head`` can be safetensors."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and head[8:9] == b"{" and 2 <= length <= size - 8


def read_safetensors(file: File) -> Contents:
    """The tensors of a safetensors file; only the header is read.

    Raises:
        LoadError: the header is too long, malformed or repeats a name, or its offsets have holes,
            overlap, leave the file or disagree with shape and element type.
    """
    try:
        return _read(file)
    except LoadError as error:
        text = str(error)
        prefix = shown(file.name)
        raise LoadError(text if text.startswith(prefix) else f"{prefix}: {text}") from None


def _read(file: File) -> Contents:
    if file.size < 8:
        raise LoadError("too short to be a safetensors file")
    length = int.from_bytes(file.read_at(0, 8), "little")
    if length > MAX_HEADER:
        raise LoadError(f"not safetensors: its header would have {length} bytes")
    if length > file.size - 8:
        raise LoadError(
            f"truncated: the header has {length} bytes, the file {file.size}; download it again"
        )
    header = _parse(file.read_at(8, length))
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise LoadError("damaged safetensors header: __metadata__ is not an object")
    start = 8 + length
    tensors: dict[str, Stored] = {}
    extents: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        checked_name(name)
        begin, end, stored = _entry(file, name, entry, start)
        extents.append((begin, end, name))
        tensors[name] = stored
    _check_extents(extents, file.size - start)
    strings = {key: value for key, value in metadata.items() if isinstance(value, str)}
    return Contents(tensors, metadata={"safetensors": strings}, producer=strings.get("format", ""))


def _parse(raw: bytes) -> dict[str, Any]:
    if raw.count(b'"dtype"') > MAX_TENSORS or raw.count(b",") > _MAX_COMMAS:
        raise LoadError(f"refused: more than {MAX_TENSORS} tensors in one file")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError:
        raise LoadError("damaged safetensors header: nested too deeply") from None
    except ValueError as error:
        raise LoadError(f"damaged safetensors header: {shown(error)}") from None
    if not isinstance(header, dict):
        raise LoadError("damaged safetensors header: not a JSON object")
    return header


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise LoadError(f"damaged safetensors header: {shown(twice)!r} is there twice")
    return found


def _entry(file: File, name: str, entry: Any, start: int) -> tuple[int, int, Stored]:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise LoadError(f"damaged safetensors header: no dtype, shape and offsets of {shown(name)}")
    code, offsets = entry["dtype"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise LoadError(f"tensor {shown(name)!r} has an unknown element type {shown(code)!r}")
    dtype, shape = DTYPES[code], checked_shape(entry["shape"], name)
    bounds = checked_shape(offsets, name)
    if len(bounds) != 2 or bounds[0] > bounds[1] or start + bounds[1] > file.size:
        raise LoadError(
            f"tensor {shown(name)!r} is not all there: truncated or damaged; download it again"
        )
    if prod(shape) * bits(dtype) != (bounds[1] - bounds[0]) * 8:
        raise LoadError(
            f"tensor {shown(name)!r}: {list(shape)} of {code} does not take "
            f"{bounds[1] - bounds[0]} bytes"
        )
    element, sides = real_parts(dtype, shape)
    source = FileSource(file, start + bounds[0], element, prod(sides))
    return bounds[0], bounds[1], Stored(Tensor(name, dtype, sides, source))


def _check_extents(extents: list[tuple[int, int, str]], size: int) -> None:
    position = 0
    for begin, end, name in sorted(extents):
        if begin != position:
            what = "overlaps another tensor" if begin < position else "leaves a hole before it"
            raise LoadError(f"tensor {shown(name)!r} {what}: damaged safetensors file")
        position = end
    if position != size:
        raise LoadError(f"{size - position} bytes follow the last tensor: damaged or truncated")
