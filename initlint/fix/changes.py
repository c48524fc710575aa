"""Changes of parameters: what is to become of a tensor, and a model seen as if it had happened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from initlint.fix.canonical import (
    WRITABLE,
    Array,
    NotInvertible,
    encode,
    read_stored,
    rounded,
    write_through,
)
from initlint.fix.normalised import Factors, factors
from initlint.model import Kind, Layer, LayerGraph, Model, Param, Tensor, from_array
from initlint.model.graph import derived


@dataclass(frozen=True, slots=True)
class Change:
    """New values of one parameter block.

    Attributes:
        layer: id of the layer that reads it.
        param: the block.
        values: canonical values, of ``param.shape``.
        scheme: what they were made with (``rescale`` keeps the draws).
        arguments: numbers the scheme took.
        cures: names of the rules whose findings asked for it.
        copies: the same parameter where a file stores it again (see `copies_of`).
    """

    layer: str
    param: Param
    values: Array
    scheme: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    cures: tuple[str, ...] = ()
    copies: tuple[Param, ...] = ()

    @property
    def stored(self) -> tuple[Param, ...]:
        """The parameter wherever it is stored."""
        return (self.param, *self.copies)


@dataclass(frozen=True, slots=True)
class Untouched:
    """A parameter, or a finding, that is left as it is, and why."""

    name: str
    reason: str


def copies_of(model: Model, param: Param) -> tuple[Param, ...]:
    """Other tensors of a file that hold a parameter: exporters store a tied table once per use.

    A module has one tensor for all uses.
    """
    if model.kind is Kind.TORCH or param.tensor is None:
        return ()
    names = {param.tensor.name}
    found = []
    tied = _tied(model.graph)
    places = {name: tied[name] for name in (param.key, param.name) if name in tied}
    for _, other in sorted(chain.from_iterable(places.values()), key=itemgetter(0)):
        same = other.shape == param.shape
        if same and other.tensor is not None and other.tensor.name not in names:
            names.add(other.tensor.name)
            found.append(other)
    return tuple(found)


@derived
def _tied(graph: LayerGraph) -> dict[str, list[tuple[int, Param]]]:
    """Parameters by what they are tied to, each with its place in the graph."""
    found: dict[str, list[tuple[int, Param]]] = defaultdict(list)
    for place, (_, param) in enumerate(graph.params):
        if param.tied_to is not None:
            found[param.tied_to].append((place, param))
    return dict(found)


@derived
def _sources(graph: LayerGraph) -> dict[str, set[int]]:
    """By name of a tensor, which sources hold one of this name."""
    found: dict[str, set[int]] = defaultdict(set)
    for _, param in graph.params:
        if param.tensor is not None:
            found[param.tensor.name].add(id(param.tensor.source))
    return dict(found)


def unwritable(
    model: Model, param: Param, stored: Callable[[], Collection[str]] | None = None
) -> str | None:
    """Why a parameter cannot be changed where it is stored; None when it can.

    Who asks for many gives a function of the names that the model stores, which are read from all
    of a file.
    """
    tensor = param.tensor
    if tensor is None:
        return "its values are not there (structure only)"
    if param.quantised:
        return "it is quantised: integers behind a scale"
    if tensor.dtype not in WRITABLE:
        return f"its element type {tensor.dtype} is not one that weights are drawn in"
    if factors_of(model, param) is not None:
        return None
    if not tensor.name or tensor.name not in (stored() if stored else stored_names(model)):
        return "it is computed from other tensors (a parametrisation, a constant in a body)"
    if model.kind is Kind.TORCH and not _is_live(tensor, torch_tensors(model)[tensor.name]):
        return "its layer reads what is computed from it (normalised, masked, joined)"
    if len(_sources(model.graph).get(tensor.name, ())) > 1 and model.kind is not Kind.TORCH:
        return "several tensors have this name"
    return None


def factors_of(model: Model, param: Param) -> Factors | None:
    """What a module stores of a weight that it normalises where it is used; None for others."""
    tensor = param.tensor
    if model.kind is not Kind.TORCH or tensor is None or not tensor.operands:
        return None
    found = factors(tensor)
    stored = stored_names(model)
    known = found is not None and {found.gain.name, found.direction.name} <= stored
    return found if known else None


def _is_live(tensor: Tensor, live: Any) -> bool:
    """False when a layer of a module reads a result, which does not change with the parameter."""
    read = getattr(tensor.source, "tensor", None)
    if read is None:
        return tensor.stored_shape == tuple(live.shape)
    same: bool = read.untyped_storage().data_ptr() == live.untyped_storage().data_ptr()
    return same and read.shape == live.shape


def stored_names(model: Model) -> frozenset[str]:
    """Names of the tensors of a model that a fix can replace in its file or module."""
    if model.kind is Kind.ONNX:
        return frozenset(name for name, _ in _onnx_tensors(model.runnable.model))
    if model.kind is Kind.TORCH:
        return frozenset(torch_tensors(model))
    return frozenset(model.metadata.get("tensors", ()))


def torch_tensors(model: Model) -> dict[str, Any]:
    """The live tensors of a module by state_dict key."""
    names = model.runnable.names
    return {names.stored(name): tensor for name, tensor in names.tensors.items()}


def _tensors(model: Model) -> Iterator[Tensor]:
    for _, param in model.graph.params:
        if param.tensor is not None:
            yield param.tensor


def merged(changes: Iterable[Change]) -> dict[str, Array]:
    """Stored arrays after the changes, by stored name, as they will read back.

    Blocks of one packed tensor meet in one array; elements that no change speaks for keep their
    bits.

    Raises:
        NotInvertible: a change whose tensor cannot be written.
    """
    arrays: dict[str, Array] = {}
    tensors: dict[str, Tensor] = {}
    for change in changes:
        for param in change.stored:
            tensor = param.tensor
            if tensor is None:
                raise NotInvertible(f"{param.name} holds no values")
            if tensor.name not in arrays:
                arrays[tensor.name] = read_stored(tensor)
                tensors[tensor.name] = tensor
            write_through(arrays[tensor.name], tensor.views, change.values)
    return {
        name: rounded(dtype, values)
        for key, array in arrays.items()
        for name, dtype, values in _as_stored(tensors[key], array)
    }


def _as_stored(tensor: Tensor, array: Array) -> Iterator[tuple[str, str, Array]]:
    """Names, element types and values of the tensors that hold a weight."""
    parts = factors(tensor) if tensor.operands else None
    if parts is None:
        yield tensor.name, tensor.dtype, array
        return
    values = parts.through(array)
    for part in (parts.gain, parts.direction):
        yield part.name, part.dtype, values[part.name]


def by_stored_name(changes: Iterable[Change]) -> dict[str, list[Change]]:
    """Changes grouped by the stored tensor that they share."""
    groups: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        assert change.param.tensor is not None
        groups[change.param.tensor.name].append(change)
    return dict(groups)


@contextmanager
def applied(model: Model, arrays: Mapping[str, Array]) -> Iterator[Model]:
    """The model with stored arrays replaced, for as long as the block runs.

    Nothing is written: a file's tensors are replaced by arrays in memory, a module's parameters
    are changed and put back bit for bit.
    """
    if model.kind is Kind.TORCH:
        with _in_module(model, arrays):
            yield model
        return
    layers = [_layer(layer, arrays) for layer in model.graph]
    edges = [edge for layer in model.graph for edge in model.graph.outputs(layer.id)]
    graph = LayerGraph(layers, edges)
    if model.kind is Kind.ONNX:
        yield replace(model, graph=graph, runnable=_onnx_runnable(model, arrays))
    elif model.runnable is None:
        yield replace(model, graph=graph)
    else:
        with _in_module(model, _by_module_key(model, arrays)):
            yield replace(model, graph=graph)


def _layer(layer: Layer, arrays: Mapping[str, Array]) -> Layer:
    params = tuple(_param(param, arrays) for param in layer.params)
    return layer if params == layer.params else replace(layer, params=params)


def _param(param: Param, arrays: Mapping[str, Array]) -> Param:
    tensor = param.tensor
    if tensor is None or tensor.name not in arrays:
        return param
    new = from_array(tensor.name, arrays[tensor.name], tensor.dtype)
    if new.stored_shape != tensor.stored_shape:
        return param
    return replace(param, tensor=replace(new, views=tensor.views))


def _onnx_runnable(model: Model, arrays: Mapping[str, Array]) -> Any:
    proto = type(model.runnable.model)()
    proto.CopyFrom(model.runnable.model)
    dtypes = {tensor.name: tensor.dtype for tensor in _tensors(model)}
    for name, stored in _onnx_tensors(proto):
        if name not in arrays:
            continue
        kind, dims = stored.data_type, list(stored.dims)
        own = stored.name
        stored.Clear()
        stored.name, stored.data_type = own, kind
        stored.dims.extend(dims)
        stored.raw_data = encode(dtypes[name], arrays[name])
    return replace(model.runnable, model=proto)


def _onnx_tensors(proto: Any) -> Iterator[tuple[str, Any]]:
    """Initializers of the main graph and tensors of its Constant nodes, by name."""
    for tensor in proto.graph.initializer:
        yield tensor.name, tensor
    for node in proto.graph.node:
        if node.op_type == "Constant" and not node.domain:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield node.output[0], attribute.t


def _by_module_key(model: Model, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays of a checkpoint by the keys of the module that it is bound to."""
    from initlint.load.binding import renamed

    dropped, added = model.metadata.get("renamed_prefix", ("", ""))
    keys = torch_tensors(model)
    named = {renamed(name, dropped, added): array for name, array in arrays.items()}
    return {key: array for key, array in named.items() if key in keys}


@contextmanager
def _in_module(model: Model, arrays: Mapping[str, Array]) -> Iterator[None]:
    import torch

    live = torch_tensors(model)
    changed = [*(live[name] for name in arrays), *(seen for seen, _ in _computed(model, arrays))]
    kept = [tensor.detach().clone() for tensor in changed]
    try:
        set_module(model, arrays)
        yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(changed, kept, strict=True):
                tensor.data.copy_(before)


def set_module(model: Model, arrays: Mapping[str, Array]) -> None:
    """Write stored arrays into a module's live tensors, and into what was computed from them."""
    import torch

    live = torch_tensors(model)
    computed = _computed(model, arrays)
    with torch.no_grad():
        for name, array in arrays.items():
            live[name].data.copy_(torch.from_numpy(np.array(array)))
        for seen, parts in computed:
            seen.copy_(torch.from_numpy(parts.product()))


def _computed(model: Model, arrays: Mapping[str, Array]) -> list[tuple[Any, Factors]]:
    """Normalised weights, as the model's layers read them, with stored factors that change."""
    found: dict[int, tuple[Any, Factors]] = {}
    for tensor in _tensors(model):
        if any(item.name in arrays for item in tensor.operands):
            parts, seen = factors(tensor), getattr(tensor.source, "tensor", None)
            if parts is not None and seen is not None:
                found.setdefault(id(seen), (seen, parts))
    return list(found.values())
