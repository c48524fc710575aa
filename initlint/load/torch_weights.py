"""Parameters of a PyTorch module as `Param` records over live storage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from initlint.model import BUFFERS, Param, Role, Tensor, View
from initlint.model.tensor import Array

_PARAMETRISED = re.compile(r"\.?parametrizations\.(\w+)\.(original\d*|\d+(\..*)?)$")
_REPARAMETRISED = re.compile(r"(?<=[a-z0-9])_(orig|g|v)$")


@dataclass(frozen=True, slots=True)
class TorchSource:
    """Elements of a live tensor; converted to float piece by piece, never copied whole.

    The tensor is read when asked, so a weight that changed since is seen as it is now.

    Attributes:
        tensor: the live tensor.
        operands: the parameters that it was computed from, where no parameter holds it.
    """

    tensor: Any
    operands: tuple[Tensor, ...] = ()

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop`` in row-major order, as floats."""
        tensor = self.tensor.detach()
        if tensor.is_contiguous():
            piece = tensor.view(-1)[start:stop]
        else:
            piece = _strided_piece(tensor, start, stop)
        if piece.is_complex():
            piece = piece.abs()
        wide = piece.dtype in (torch.float64, torch.int64)
        array: Array = piece.to(
            device="cpu", dtype=torch.float64 if wide else torch.float32
        ).numpy()
        return array


def _strided_piece(tensor: Any, start: int, stop: int) -> Any:
    """A run of elements of a tensor whose storage is in another order."""
    if tensor.ndim < 2 or start >= stop:
        return tensor.reshape(-1)[start:stop]
    row = max(prod(tensor.shape[1:]), 1)
    first, last = start // row, -(-stop // row)
    return tensor[first:last].reshape(-1)[start - first * row : stop - first * row]


def dtype_name(tensor: Any) -> str:
    """``float32`` for ``torch.float32``; integers behind a scale keep their torch name."""
    return str(tensor.dtype).removeprefix("torch.")


def class_name(module: Any) -> str:
    """Qualified class of a module, with torch's own classes under their public names."""
    kind = type(module)
    path = "torch.nn" if kind.__module__.startswith("torch.nn.modules") else kind.__module__
    return f"{path}.{kind.__qualname__}"


def public_name(name: str) -> str:
    """The parameter a user knows: ``fc.weight`` for what a parametrisation stores elsewhere."""
    name = _PARAMETRISED.sub(lambda match: f".{match.group(1)}", name)
    return _REPARAMETRISED.sub("", name).lstrip(".")


def unwrap(module: Any) -> tuple[Any, str]:
    """The module inside ``torch.compile`` and data-parallel wrappers, and its key prefix."""
    prefix = ""
    while True:
        if hasattr(module, "_orig_mod"):
            module, prefix = module._orig_mod, f"{prefix}_orig_mod."
        elif type(module).__name__ in ("DataParallel", "DistributedDataParallel"):
            module, prefix = module.module, f"{prefix}module."
        else:
            return module, prefix


_COMPILED = re.compile(r"(^|\.)_orig_mod(?=\.|$)")


def _plain_path(path: str) -> str:
    """A module path without the wrappers that compiling a part of the model put in."""
    return _COMPILED.sub("", path).lstrip(".")


class Names:
    """Which names the tensors of a module have, and which module owns them."""

    def __init__(self, module: Any, prefix: str = "") -> None:
        self.modules: dict[str, Any] = {}
        self.paths: dict[int, str] = {}
        for path, child in module.named_modules():
            self.paths[id(child)] = _plain_path(path)
            self.modules[_plain_path(path)] = child
        self.tensors: dict[str, Any] = {}
        self.parameters: set[str] = set()
        self._names: dict[int, list[str]] = {}
        self._owner: dict[str, Any] = {}
        self._stored: dict[str, str] = {}
        self._by_storage: dict[tuple[Any, ...], str] = {}
        for path, child in module.named_modules(remove_duplicate=False):
            for stem, tensor in (*child._parameters.items(), *child._buffers.items()):
                if tensor is None:
                    continue
                plain = _plain_path(path)
                name = f"{plain}.{stem}" if plain else stem
                if name in self.tensors:
                    continue
                self._stored[name] = f"{prefix}{path}.{stem}" if path else f"{prefix}{stem}"
                self.tensors[name] = tensor
                self._owner[name] = child
                if stem in child._parameters:
                    self.parameters.add(name)
                self._names.setdefault(id(tensor), []).append(name)
                self._by_storage.setdefault(_storage(tensor, name), name)

    def of(self, tensor: Any) -> str | None:
        """The first name of a parameter or buffer; None for any other tensor."""
        names = self._names.get(id(tensor))
        return names[0] if names else None

    def all_of(self, name: str) -> tuple[str, ...]:
        """Every name of the tensor that has this one."""
        return tuple(self._names[id(self.tensors[name])])

    def shared(self) -> list[tuple[str, ...]]:
        """Groups of names that are one tensor."""
        return [tuple(names) for names in self._names.values() if len(names) > 1]

    def at(self, tensor: Any, path: str) -> str | None:
        """The name of a tensor as seen from the module at ``path``."""
        names = self._names.get(id(tensor), [])
        here = [name for name in names if name.rpartition(".")[0] == path]
        return here[0] if here else (names[0] if names else None)

    def tied(self, name: str) -> str | None:
        """The first parameter with the same storage, when ``name`` is not that one."""
        tensor = self.tensors[name]
        first = self._by_storage[_storage(tensor, name)]
        return None if first == name else public_name(first)

    def owner(self, name: str) -> Any:
        """The module that holds a named tensor."""
        return self._owner[name]

    def stored(self, name: str) -> str:
        """The state_dict key of a named tensor."""
        return self._stored[name]

    def unique(self) -> Iterator[tuple[str, Any]]:
        """Every parameter and floating buffer once, under its first name."""
        for name, tensor in self.tensors.items():
            if self._names[id(tensor)][0] == name:
                yield name, tensor


def _storage(tensor: Any, name: str) -> tuple[Any, ...]:
    """A key that is equal for two tensors over the same memory; meta tensors by identity."""
    if tensor.device.type == "meta" or isinstance(
        tensor, torch.nn.parameter.UninitializedTensorMixin
    ):
        return ("id", id(tensor))
    try:
        pointer = tensor.data_ptr()
    except RuntimeError:
        pointer = 0
    if not pointer or not tensor.numel():
        return ("name", name)
    return (pointer, tuple(tensor.shape), tuple(tensor.stride()))


@dataclass(frozen=True, slots=True)
class Static:
    """A tensor that depends on parameters, buffers and constants alone.

    Attributes:
        tensor: its live value.
        sources: names of the parameters it was computed from, in order of first use.
        stack: the whole stack of matrices, where data chose among its blocks (experts).
    """

    tensor: Any
    sources: tuple[str, ...] = ()
    stack: Any = None


def view_of(tensor: Any, base: Any) -> tuple[View, ...] | None:
    """The steps from a contiguous parameter to a view of it; None when there is no short chain."""
    if tensor is base:
        return ()
    if tensor.device.type == "meta" or not base.is_contiguous() or tensor.dtype != base.dtype:
        return None
    if tensor.untyped_storage().data_ptr() != base.untyped_storage().data_ptr():
        return None
    offset = tensor.storage_offset() - base.storage_offset()
    order = sorted(range(tensor.ndim), key=lambda axis: (-tensor.stride(axis), axis))
    straight = tensor.permute(order)
    if not straight.is_contiguous():
        return None
    views: list[View] = []
    row = max(prod(base.shape[1:]), 1) if base.ndim else 1
    if tensor.numel() != base.numel():
        if not base.ndim or offset % row or tensor.numel() % row:
            return None
        views.append(View("slice", (0, offset // row, (offset + tensor.numel()) // row)))
    shape = (tensor.numel() // row, *base.shape[1:]) if base.ndim else ()
    if tuple(straight.shape) != shape:
        views.append(View("reshape", tuple(straight.shape)))
    if order != list(range(tensor.ndim)):
        back = tuple(sorted(range(tensor.ndim), key=order.__getitem__))
        views.append(View("transpose", back))
    return tuple(views)


def _is_exponential(tensor: Any, base: Any) -> bool:
    """True for a parameter that is stored as its logarithm (a temperature, a rate).

    Zeros do not tell: their exponential is also their sum with one, as in a gain of 1 + w.
    """
    if tensor.device.type == "meta" or tensor.shape != base.shape or tensor.dtype != base.dtype:
        return False
    if not base.is_floating_point() or not base.any():
        return False
    return bool(torch.equal(tensor.detach(), base.detach().exp()))


def handle(names: Names, static: Static, name: str) -> tuple[Tensor | None, str, str]:
    """How to read a static tensor: the lazy tensor, its dtype and the stored name.

    A view of one parameter, or its exponential, reads its storage through a chain of views;
    anything else computed (a weight-normalised kernel, an effective gain) reads the computed value,
    and has no stored name because no single stored tensor holds it.
    """
    tensor = static.tensor
    if static.sources:
        base = names.tensors[static.sources[0]]
        views = view_of(tensor, base) if len(static.sources) == 1 else None
        if views is None and _is_exponential(tensor, base):
            views = (View("exp", None),)
        if tensor.device.type == "meta":
            stored = names.stored(static.sources[0]) if len(static.sources) == 1 else ""
            return None, dtype_name(base), stored
        if views is not None:
            stored = names.stored(static.sources[0])
            lazy = Tensor(stored, dtype_name(base), tuple(base.shape), TorchSource(base), views)
            return lazy, dtype_name(base), stored
    if tensor.device.type == "meta":
        return None, dtype_name(tensor), ""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    dtype = dtype_name(static.tensor)
    operands = tuple(_stored(names, source) for source in static.sources)
    source = TorchSource(tensor.detach(), operands)
    return Tensor(name, dtype, tuple(tensor.shape), source), dtype, ""


def _stored(names: Names, source: str) -> Tensor:
    tensor = names.tensors[source]
    shape = tuple(tensor.shape)
    return Tensor(names.stored(source), dtype_name(tensor), shape, TorchSource(tensor))


def make_param(
    names: Names,
    static: Static,
    role: Role,
    path: str,
    stem: str,
    *,
    views: tuple[View, ...] = (),
    **fields: Any,
) -> Param:
    """A `Param` for a static tensor used by the module at ``path``.

    Args:
        names: the module's names.
        static: the tensor as the operator gets it.
        role: what it is for.
        path: the module whose code used it.
        stem: what to call it when no single parameter holds it (``weight``).
        views: further steps to canonical orientation.
        **fields: further attributes of `Param`.
    """
    source = static.sources[0] if static.sources else names.of(static.tensor)
    if source is None:
        name = f"{path}.{stem}" if path else stem
        tied = module = None
        trainable = False
    else:
        source = names.at(names.tensors[source], path) or source
        name = public_name(source)
        tied, module = names.tied(source), class_name(names.owner(source))
        used = static.sources or (source,)
        trainable = any(names.tensors[key].requires_grad for key in used)
    tensor, dtype, stored = handle(names, static, name)
    shape = tuple(static.tensor.shape)
    for view in views:
        tensor = None if tensor is None else _with_view(tensor, view)
        shape = _shape_after(shape, view)
    return Param(
        role,
        name,
        shape,
        dtype,
        tensor,
        trainable=trainable and role not in BUFFERS,
        tied_to=tied,
        stored_name=stored,
        module=module,
        **fields,
    )


def _with_view(tensor: Tensor, view: View) -> Tensor:
    if view.kind == "reshape":
        return tensor.reshape(*view.argument)
    if view.kind == "transpose":
        return tensor.transpose(*view.argument)
    return tensor.take(*view.argument)


def _shape_after(shape: tuple[int, ...], view: View) -> tuple[int, ...]:
    probe = Tensor("", "float32", shape, TorchSource(None), (view,))
    return probe.shape


def constant_value(tensor: Any, limit: int = 1 << 16) -> float | Array | None:
    """A fixed operand as a number, or as an array when small enough to keep; None on meta."""
    if tensor.device.type == "meta" or tensor.numel() > limit or tensor.is_complex():
        return None
    tensor = tensor.detach()
    if tensor.numel() == 1:
        return float(tensor.item())
    wide = tensor.dtype in (torch.float64, torch.int64)
    array: Array = tensor.to("cpu", torch.float64 if wide else torch.float32).numpy()
    if array.size and np.all(array == array.flat[0]):
        return float(array.flat[0])
    return array.copy()
