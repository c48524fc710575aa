"""Where a repaired model goes: the kind of file that it came from, else safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from initlint import engine
from initlint.fix.canonical import Array, NotInvertible, encode
from initlint.fix.changes import Change, merged, set_module
from initlint.fix.onnx_bytes import relocated
from initlint.fix.writing import (
    exact_bytes,
    external_files,
    is_safetensors,
    move_into_place,
    pack_safetensors,
    workshop,
    write_onnx,
    write_safetensors,
)
from initlint.model import Kind, LoadError, Model
from initlint.model.tensor import ArraySource, Tensor
from initlint.settings import Settings

Packed = dict[str, tuple[str, tuple[int, ...], bytes]]


def save(
    model: Model, changes: Sequence[Change], out: Path, settings: Settings
) -> tuple[list[str], dict[str, Any] | None]:
    """Write a repaired model.

    ONNX and safetensors files keep every byte outside the changed tensors. PyTorch checkpoints and
    modules are written as safetensors, which holds no code.

    Returns:
        The files written, and the target object of a fresh lint of the finished file, made before
        it took its name (None for weights without a graph of their own).

    Raises:
        LoadError: one line, when it cannot be written.
    """
    arrays = merged(changes)
    dtypes = _dtypes(changes)
    try:
        if model.kind is Kind.ONNX:
            return _onnx(model, arrays, dtypes, out, settings)
        if model.kind is Kind.TORCH:
            set_module(model, arrays)
            packed = _module_state(model)
        elif Path(model.target).is_file() and is_safetensors(Path(model.target)):
            with workshop(out) as folder:
                write_safetensors(Path(model.target), folder / out.name, arrays, dtypes)
                move_into_place({out: folder / out.name})
            return [str(out)], None
        else:
            packed = _checkpoint_state(model, arrays)
        with workshop(out) as folder:
            pack_safetensors(folder / out.name, packed)
            move_into_place({out: folder / out.name})
    except NotInvertible as error:
        raise LoadError(f"{out}: not written: {error}") from error
    except OSError as error:
        raise LoadError(f"{out}: cannot be written: {error.strerror or error}") from error
    return [str(out)], None


def _dtypes(changes: Sequence[Change]) -> dict[str, str]:
    return {
        param.tensor.name: param.tensor.dtype
        for change in changes
        for param in change.stored
        if param.tensor is not None
    }


def _onnx(
    model: Model,
    arrays: Mapping[str, Array],
    dtypes: Mapping[str, str],
    out: Path,
    settings: Settings,
) -> tuple[list[str], dict[str, Any]]:
    from initlint.load.onnx import load_onnx

    source = Path(model.runnable.path)
    in_place = out.exists() and out.samefile(source)
    with workshop(out) as folder:
        external = write_onnx(source, folder, out.name, arrays, dtypes)
        if external and not in_place and _same_folder(source, out):
            external = _apart(folder, out.name, external)
        if external and not in_place:
            _require_own(out, external)
        found = engine.lint(load_onnx(str(folder / out.name)), settings)
        files = {out.parent / location: folder / location for location in external}
        for target in files:
            target.parent.mkdir(parents=True, exist_ok=True)
        move_into_place({**files, out: folder / out.name})
    return [str(out), *(str(target) for target in files)], found


def _apart(folder: Path, name: str, external: Sequence[str]) -> list[str]:
    """Give a model files of its own, beside those of the model that it was made from.

    Returns:
        Their names: that of the model and ``.data``, numbered where there are several.
    """
    numbers = ("" if len(external) == 1 else f".{number}" for number in range(len(external)))
    places = {old: f"{name}{number}.data" for old, number in zip(external, numbers, strict=True)}
    for old, new in places.items():
        (folder / old).rename(folder / new)
    (folder / name).write_bytes(relocated((folder / name).read_bytes(), places))
    return list(places.values())


def _same_folder(source: Path, out: Path) -> bool:
    return source.parent.resolve() == out.parent.resolve()


def _require_own(out: Path, external: Sequence[str]) -> None:
    """Refuse to replace data that another model in the folder may keep its weights in.

    Raises:
        LoadError: one of the files is there, and no older version of the model that is written
            names it.
    """
    own = external_files(out) if out.exists() else frozenset()
    for location in external:
        if (out.parent / location).exists() and location not in own:
            raise LoadError(
                f"{out}: the model keeps weights in {location}, and {out.parent / location} "
                "belongs to another model; write to another folder"
            )


def _module_state(model: Model) -> Packed:
    """A module's state_dict, bit for bit."""
    import torch

    state: Packed = {}
    for name, tensor in model.runnable.module.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        flat = tensor.detach().cpu().contiguous()
        dtype = str(flat.dtype).removeprefix("torch.")
        data = flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        state[name] = (dtype, tuple(flat.shape), data)
    return state


def _checkpoint_state(model: Model, arrays: Mapping[str, Array]) -> Packed:
    """A checkpoint's tensors with the changed ones replaced.

    Raises:
        NotInvertible: a tensor that safetensors does not have or that decoding would round.
    """
    state: Packed = {}
    tensors: Mapping[str, Tensor] = model.metadata["tensors"]
    for name, tensor in tensors.items():
        if name in arrays:
            tensor = replace(tensor, source=ArraySource(arrays[name]))
            data = encode(tensor.dtype, tensor.read())
        else:
            data = exact_bytes(tensor)
        state[name] = (tensor.dtype, tensor.shape, data)
    return state
