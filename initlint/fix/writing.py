"""Fixed files: written whole or not at all, equal to the original outside the changed tensors."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from initlint.fix.canonical import Array, NotInvertible, encode
from initlint.fix.onnx_bytes import locate, replaced
from initlint.load.files import Folder, open_file
from initlint.load.safetensors_file import DTYPES, looks_like_safetensors
from initlint.model import LoadError, Tensor

_CODES = {name: code for code, name in DTYPES.items()}


@contextmanager
def workshop(out: Path) -> Iterator[Path]:
    """A private folder beside ``out``, gone afterwards: what is moved out of it is complete."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(files: Mapping[Path, Path]) -> None:
    """Rename finished files to their names, the main file last.

    Every file is on disk before the first takes its name; each is replaced whole. Only a crash
    between two renames of one model in several files leaves both generations, each file intact.
    """
    for source in files.values():
        _sync(source)
    for target, source in files.items():
        if target.exists():
            shutil.copymode(target, source)
        else:
            source.chmod(0o644)
        os.replace(source, target)
    for folder in {target.parent for target in files}:
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        return  # a file system that cannot; the rename is still atomic
    finally:
        os.close(descriptor)


def write_onnx(
    source: Path, folder: Path, name: str, arrays: Mapping[str, Array], dtypes: Mapping[str, str]
) -> list[str]:
    """An ONNX file and its external data with some initializers replaced.

    Args:
        source: the original.
        folder: where to write.
        name: of the model file there; external data keep their names, to which the model points.
        arrays: stored arrays by initializer name.
        dtypes: their element types.

    Returns:
        Names of the external files written, relative to the folder.

    Raises:
        LoadError: an initializer that is not there, or external data that cannot be read.
    """
    data = source.read_bytes()
    stored = locate(data)
    inline: dict[str, bytes] = {}
    patches: dict[str, list[tuple[int, bytes]]] = {}
    for key, array in arrays.items():
        elements = encode(dtypes[key], array)
        if key not in stored:
            raise LoadError(f"initializer {key!r} is not in the main graph")
        external = stored[key].external
        if external:
            place = (int(external.get("offset") or 0), elements)
            patches.setdefault(external["location"], []).append(place)
        else:
            inline[key] = elements
    (folder / name).write_bytes(replaced(data, inline))
    locations = {item.external["location"] for item in stored.values() if item.external}
    origin = Folder.of(str(source.parent))
    for location in sorted(locations):
        _copy_patched(origin, location, folder, patches.get(location, []))
    return sorted(locations)


def external_files(path: Path) -> frozenset[str]:
    """Where an ONNX file keeps weights outside itself; nothing for a file that is none."""
    try:
        stored = locate(path.read_bytes())
    except LoadError:
        return frozenset()
    return frozenset(item.external["location"] for item in stored.values() if item.external)


def _copy_patched(
    origin: Folder, location: str, folder: Path, patches: list[tuple[int, bytes]]
) -> None:
    file = origin.open(location)  # refuses what lies outside the model's folder
    target = folder / location
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        for start in range(0, file.size, 1 << 24):
            out.write(file.read_at(start, min(1 << 24, file.size - start)))
        for offset, elements in patches:
            out.seek(offset)
            out.write(elements)


def write_safetensors(
    source: Path, target: Path, arrays: Mapping[str, Array], dtypes: Mapping[str, str]
) -> None:
    """A safetensors file with some tensors replaced, its header as it was.

    Raises:
        LoadError: a tensor that is not there.
    """
    with open_file(str(source)) as file:
        length = int.from_bytes(file.read_at(0, 8), "little")
        header = json.loads(file.read_at(8, length))
    shutil.copyfile(source, target)
    with target.open("r+b") as out:
        for name, array in arrays.items():
            entry = header.get(name)
            elements = encode(dtypes[name], array)
            if entry is None or entry["data_offsets"][1] - entry["data_offsets"][0] != len(
                elements
            ):
                raise LoadError(f"tensor {name!r} is not in {source.name} with this size")
            out.seek(8 + length + entry["data_offsets"][0])
            out.write(elements)


def is_safetensors(path: Path) -> bool:
    """True when the first bytes say so."""
    with open_file(str(path)) as file:
        return looks_like_safetensors(file.read_at(0, min(512, file.size)), file.size)


def pack_safetensors(
    target: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]
) -> None:
    """A new safetensors file.

    Args:
        target: where.
        tensors: element type, shape and little-endian elements by name.

    Raises:
        NotInvertible: an element type that the format does not have.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, elements) in tensors.items():
        if dtype not in _CODES:
            raise NotInvertible(f"{name}: safetensors has no element type {dtype}")
        end = offset + len(elements)
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for _, _, elements in tensors.values():
            out.write(elements)


def exact_bytes(tensor: Tensor) -> bytes:
    """A stored tensor's elements in its own order and type, bit for bit.

    Raises:
        NotInvertible: elements that decoding would round.
    """
    if tensor.dtype in ("float16", "bfloat16", "float32", "float64"):
        return encode(tensor.dtype, tensor.read())
    codes = {"bool": "u1", "int8": "i1", "uint8": "u1", "int16": "<i2", "int32": "<i4"}
    codes["int64"] = "<i8"
    values = tensor.read()
    exact = 2**53 if values.dtype.itemsize == 8 else 2**24
    if tensor.dtype not in codes or (values.size and abs(values).max() >= exact):
        raise NotInvertible(f"{tensor.name}: {tensor.dtype} cannot be copied exactly")
    return bytes(values.astype(codes[tensor.dtype]).tobytes())
