"""Hugging Face folders: weights by their usual names, ``config.json`` as data.

No code of the folder is run, no class is looked up, and files that are neither weights nor
configuration (``*.py``, ``optimizer.pt``, ``training_args.bin``) are never opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from initlint.load.checkpoint import model_of, read_weights
from initlint.load.files import MAX_HELD, Folder, shown
from initlint.load.shards import read_index
from initlint.load.stored import Contents, Stored
from initlint.load.untrusted_json import parse_json
from initlint.model import Kind, LoadError, Model

MAX_CONFIG = 1_000_000
"""Bytes; the largest published ``config.json`` files (label maps) have a few hundred thousand."""

_STEMS = ("model", "diffusion_pytorch_model", "adapter_model", "consolidated", "open_clip_model")
_PICKLED_STEMS = ("pytorch_model", "diffusion_pytorch_model", "adapter_model")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(safetensors|bin)")
_NOT_WEIGHTS = re.compile(r"(optimizer|scheduler|scaler|rng_state|training_args|tokenizer).*", re.I)


def load_folder(path: str) -> Model:
    """The model in a folder of the Hugging Face layout (also of the hub's cache).

    ``safetensors`` win over pickled ``.bin``; ``metadata["config"]`` keeps ``config.json``.

    Raises:
        LoadError: no weights in it, a shard missing, or a file damaged.
    """
    folder = Folder.of(path)
    config = _config(folder)
    contents = _weights(folder, path)
    kind = Kind.CHECKPOINT if config is None else Kind.HUGGINGFACE
    facts = config or {}
    return model_of(path, kind, contents, _heads(facts), config=facts)


def _config(folder: Folder) -> dict[str, Any] | None:
    for name in ("config.json", "adapter_config.json"):
        if folder.has(name):
            with folder.open(name) as file:
                if file.size > MAX_CONFIG:
                    raise LoadError(f"{shown(file.name)}: more than {MAX_CONFIG} bytes")
                value = parse_json(file.read_at(0, file.size), file.name)
            if not isinstance(value, dict):
                raise LoadError(f"{shown(name)}: not a JSON object")
            return value
    return None


def _heads(config: Mapping[str, Any]) -> int | None:
    for key in ("num_attention_heads", "n_head", "num_heads"):
        value = config.get(key)
        if type(value) is int and 0 < value < 1 << 16:
            return value
    return None


def _weights(folder: Folder, path: str) -> Contents:
    names = folder.names()
    for stems, suffix in ((_STEMS, "safetensors"), (_PICKLED_STEMS, "bin")):
        for stem in stems:
            if f"{stem}.{suffix}.index.json" in names:
                with folder.open(f"{stem}.{suffix}.index.json") as index:
                    return read_index(index, folder, read_weights)
            if f"{stem}.{suffix}" in names:
                return read_weights(folder.open(f"{stem}.{suffix}"))
        found = [
            name for name in names if name.endswith(f".{suffix}") and not _NOT_WEIGHTS.match(name)
        ]
        if found:
            return _together(folder, found, path)
    found = [
        name for name in names if name.endswith((".pt", ".pth")) and not _NOT_WEIGHTS.match(name)
    ]
    if len(found) == 1:
        return read_weights(folder.open(found[0]))
    raise LoadError(
        f"{shown(path)}: no weights found in this folder (looked for model.safetensors, its "
        "index, pytorch_model.bin); name the file itself"
    )


def _together(folder: Folder, names: list[str], path: str) -> Contents:
    """One file, or the shards of one checkpoint that has lost its index."""
    if len(names) == 1 and _SHARD.fullmatch(names[0]) is None:
        return read_weights(folder.open(names[0]))
    parts = [_SHARD.fullmatch(name) for name in names]
    stems = {(part["stem"], part["count"]) for part in parts if part}
    if not all(parts) or len(stems) != 1:
        raise LoadError(
            f"{shown(path)}: several weight files ({shown(', '.join(names))}) and no index; "
            "name one of them"
        )
    count = int(next(iter(stems))[1])
    present = {int(part["number"]) for part in parts if part}
    missing = [number for number in range(1, min(count, 1 << 16) + 1) if number not in present]
    if missing:
        raise LoadError(f"{shown(path)}: shard {missing[0]} of {count} is missing")
    tensors: dict[str, Stored] = {}
    read = [read_weights(folder.open(name, hold=len(names) <= MAX_HELD)) for name in names]
    for contents in read:
        tensors.update(contents.tensors)
    notices = tuple(notice for contents in read for notice in contents.notices)
    return replace(read[0], tensors=tensors, notices=notices)
