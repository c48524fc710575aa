"""Checkpoints: which reader a file needs, and what model its tensors make."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from initlint.load.archive import Archive
from initlint.load.binding import bind
from initlint.load.files import File, Folder, is_folder, open_file, shown
from initlint.load.inferred import infer_layers
from initlint.load.naming import shared_prefix
from initlint.load.pickle_file import read_pickle, read_torch_zip
from initlint.load.ranks import read_ranks
from initlint.load.safetensors_file import looks_like_safetensors, read_safetensors
from initlint.load.shards import is_index, read_index
from initlint.load.state_dict import find_weights
from initlint.load.stored import Contents
from initlint.load.torch_export import is_export, read_export
from initlint.model import Kind, LayerGraph, LoadError, Model

__all__ = ["bind", "load_checkpoint", "read_weights"]

_HEAD = 512
_FORMATS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras); export the model to ONNX"),
    (b"GGUF", "a GGUF file; lint the safetensors that it was made from"),
    (b"\x93NUMPY", "a NumPy array, not a checkpoint"),
    (b"\x1f\x8b", "gzip-compressed; unpack it first"),
    (b"BZh", "bzip2-compressed; unpack it first"),
    (b"\xfd7zXZ", "xz-compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstandard-compressed; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
)
_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml")


def load_checkpoint(path: str) -> Model:
    """The tensors of a checkpoint as a model of inferred layers without edges.

    Args:
        path: a safetensors file, an ``*.index.json`` of shards, a PyTorch checkpoint, an exported
            program (``.pt2``), or a Hugging Face folder. The file of the first rank of several
            (``mp_rank_00…``, ``consolidated.00…``) brings the others along: ``metadata["ranks"]``
            has their tensors by rank and name, ``metadata["tensor_parallel"]`` whether they are
            parts of the same matrices.

    Raises:
        LoadError: missing, damaged, of an unknown format, or holding more than weights.
    """
    if is_folder(path):
        from initlint.load.huggingface import load_folder

        return load_folder(path)
    contents, kind = _read(open_file(path), path)
    model = model_of(path, kind, contents)
    ranks = read_ranks(path, contents, read_weights)
    if ranks is None:
        return model
    facts = {**model.metadata, "ranks": ranks.tensors, "tensor_parallel": ranks.tensor_parallel}
    return replace(model, notices=(*model.notices, *ranks.notices), metadata=facts)


def model_of(
    target: str, kind: Kind, contents: Contents, heads: int | None = None, **metadata: Any
) -> Model:
    """A model without edges from the tensors of a checkpoint.

    ``metadata["tensors"]`` keeps every tensor by its stored name, for `bind`.
    """
    inferred = infer_layers(contents, heads)
    facts: dict[str, Any] = {**contents.metadata, **metadata}
    facts["tensors"] = {name: stored.tensor for name, stored in contents.tensors.items()}
    prefix = shared_prefix(contents.tensors)
    if prefix:
        facts["prefix"] = prefix
    packed = sum(
        param.quantised and param.tensor is None
        for layer in inferred.layers
        for param in layer.params
    )
    unread = (f"{packed} quantised weights were not read: integers behind a scale",) * bool(packed)
    return Model(
        target,
        kind,
        LayerGraph(inferred.layers, ()),
        connected=False,
        loose=tuple(inferred.loose),
        notices=(*contents.notices, *unread),
        producer=contents.producer,
        metadata=facts,
    )


def read_weights(file: File) -> Contents:
    """The tensors of one weight file, by the reader that its first bytes ask for.

    Raises:
        LoadError: damaged, of an unknown format, or holding more than weights.
    """
    return _read(file, None)[0]


def _read(file: File, path: str | None) -> tuple[Contents, Kind]:
    head = file.read_at(0, min(_HEAD, file.size))
    # First, because the length that begins a safetensors file can look like any magic number.
    if looks_like_safetensors(head, file.size):
        return read_safetensors(file), Kind.CHECKPOINT
    _refuse_known(file.name, head)
    if head.startswith(b"PK\3\4"):
        archive = Archive(file)
        if is_export(archive):
            return read_export(archive), Kind.TORCH_EXPORT
        pickled = read_torch_zip(archive)
        return find_weights(pickled, file.name), Kind.CHECKPOINT
    if head[:1] == b"\x80":
        return find_weights(read_pickle(file), file.name), Kind.CHECKPOINT
    if path is not None and head.lstrip()[:1] == b"{":
        return _read_index(file, path), Kind.CHECKPOINT
    if file.name.endswith(".safetensors"):
        return read_safetensors(file), Kind.CHECKPOINT
    if file.size and (head[:1] in (b"(", b"]", b"}", b"c") and _is_torch_name(file.name)):
        return find_weights(read_pickle(file), file.name), Kind.CHECKPOINT
    raise LoadError(
        f"{shown(file.name)}: not a model file known here (ONNX, safetensors, PyTorch checkpoint, "
        "exported program, shard index)"
    )


def _is_torch_name(name: str) -> bool:
    return name.lower().endswith((".pt", ".pth", ".bin", ".ckpt", ".pkl"))


def _read_index(file: File, path: str) -> Contents:
    if not is_index(file):
        raise LoadError(f"{shown(path)}: a JSON file that lists no weight shards")
    return read_index(file, Folder.of(os.path.dirname(path)), read_weights)


def _refuse_known(name: str, head: bytes) -> None:
    """Name the formats that people mistake for a checkpoint."""
    where = shown(name)
    if not head:
        raise LoadError(f"{where}: empty file")
    if head.startswith(b"version https://git-lfs"):
        raise LoadError(f"{where}: a Git LFS pointer, not the file itself; run: git lfs pull")
    if head.lstrip().lower().startswith(_WEB_PAGE):
        raise LoadError(f"{where}: a web page, not a model; the download went wrong")
    if head[257:262] == b"ustar" or (b"\0" in head[:100] and head[100:107].strip(b"\0 ").isdigit()):
        raise LoadError(
            f"{where}: a tar archive, which is not read here; load it with the framework that "
            "wrote it and save the state_dict or safetensors"
        )
    for magic, what in _FORMATS:
        if head.startswith(magic):
            raise LoadError(f"{where}: {what}")
