"""From a path to a parsed ModelProto, or one clear line that says what the file is instead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initlint.load.files import File, open_file, shown
from initlint.load.onnx.proto import knows_opset, messages, newest_opset
from initlint.load.onnx.wire import LARGE, Places, without_raw
from initlint.model import LoadError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PROTOBUF_LIMIT = (1 << 31) - 1
"""Protobuf refuses messages of 2 GiB; larger models keep their weights in external data."""

_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive (PyTorch writes .pt, .pth and .pt2 so)"),
    (0, b"\x89HDF\r\n", "an HDF5 file (Keras writes .h5 so); export it to ONNX"),
    (4, b"TFL3", "a TensorFlow Lite model; export the original to ONNX"),
    (4, b"ORTM", "an onnxruntime .ort model; lint the .onnx file it was made from"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
    (0, b"BZh", "a bzip2 archive; unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive; unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89PNG", "an image"),
    (0, b"\xff\xd8\xff", "an image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x7fELF", "a program"),
)


@dataclass(frozen=True, slots=True)
class Read:
    """What was read of a file.

    Attributes:
        model: the parsed ``onnx.ModelProto``, without external data.
        places: where large raw data lies that ``model`` leaves out.
        file: holds that; None where nothing was left out.
    """

    model: Any
    places: Places
    file: File | None


def read_model(path: str) -> Read:
    """The model at ``path``.

    Large weights stay in the file: parsing would copy them, and every look at them again.

    Raises:
        LoadError: missing, empty, truncated, a folder, a Git LFS pointer, another format, too
            large for protobuf, or written for an operator set that the installed onnx package
            does not know.
    """
    if Path(path).is_dir():
        raise LoadError(f"{shown(path)}: is a folder, not an ONNX file; name the .onnx file in it")
    file = open_file(path)
    light = None
    try:
        if file.size == 0:
            raise LoadError(f"{shown(path)}: is empty; copy or export the model again")
        refuse_other_formats(path, file.read_at(0, min(file.size, 512)))
        if file.size > PROTOBUF_LIMIT:
            raise LoadError(
                f"{shown(path)}: {file.size} bytes, but protobuf ends at 2 GiB; "
                "save it with external data"
            )
        if file.local and file.size >= LARGE:
            light = without_raw(file.read_at, file.size)
        data, places = light or (file.read_at(0, file.size), {})
        file.check_unchanged()
    finally:
        if light is None:
            file.close()
    return Read(_checked(path, _parse(path, data)), places, file if light else None)


def _parse(path: str, data: bytes) -> Any:
    # protobuf ships no types
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return messages().ModelProto.FromString(data)
    except (DecodeError, RecursionError, ValueError, TypeError, MemoryError):
        raise LoadError(
            f"{shown(path)}: not an ONNX model, or a truncated or damaged one "
            f"({len(data)} bytes that protobuf cannot parse); copy or export it again"
        ) from None


def _checked(path: str, model: Any) -> Any:
    if not model.HasField("graph"):
        raise LoadError(f"{shown(path)}: holds no graph: not an ONNX model, or a truncated one")
    graph = model.graph
    if not model.ir_version and not (graph.node or graph.initializer or graph.output):
        raise LoadError(f"{shown(path)}: holds no graph: not an ONNX model, or a truncated one")
    newest_ir = messages().IR_VERSION
    if model.ir_version > newest_ir:
        raise LoadError(
            f"{shown(path)}: IR version {model.ir_version} is newer than the installed onnx "
            f"package knows ({newest_ir}); upgrade onnx, or export with an older version"
        )
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    for version in versions:
        if not knows_opset(version):
            raise LoadError(
                f"{shown(path)}: unsupported opset {version}: the installed onnx package knows "
                f"1 to {newest_opset()}; upgrade onnx, or export with another opset"
            )
    if not model.opset_import and model.ir_version >= 3 and graph.node:
        raise LoadError(
            f"{shown(path)}: names no operator set (opset_import is empty): "
            "the meaning of its nodes is undefined; export it again"
        )
    return model


def is_lfs_pointer(head: bytes) -> bool:
    """True when a file is the small text that Git LFS leaves in place of the content."""
    return head.startswith(LFS_POINTER)


def refuse_other_formats(path: str, head: bytes) -> None:
    """Raise `LoadError` that names the format when ``head`` is the start of a known other one."""
    if is_lfs_pointer(head):
        raise LoadError(
            f"{shown(path)}: is a Git LFS pointer, the model was not pulled; run: git lfs pull"
        )
    for offset, magic, what in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            raise LoadError(f"{shown(path)}: not an ONNX model but {what}")
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise LoadError(f"{shown(path)}: not an ONNX model but a Python pickle")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        raise LoadError(f"{shown(path)}: not an ONNX model but a safetensors file; rename it")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = text[:64].lower()
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise LoadError(
            f"{shown(path)}: is an HTML or XML page, not a model: probably a failed download"
        )
    if lower.startswith((b"{", b"[", b"ir_version", b"<ir_version", b"<\n", b"< ")):
        raise LoadError(
            f"{shown(path)}: is text (JSON or ONNX text), not binary ONNX; "
            "convert it: onnx.save(onnx.load(TEXT_FILE), 'model.onnx')"
        )
    if not any(head):
        raise LoadError(f"{shown(path)}: holds only zero bytes; copy or export the model again")
    if _is_text(head):
        raise LoadError(f"{shown(path)}: is plain text, not an ONNX model")


def _is_text(head: bytes) -> bool:
    """Printable ASCII and white space alone: an ONNX file starts with a control byte."""
    return all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)
