"""A checkpoint under the graph of its module: ``--model``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from initlint.load.naming import shared_prefix
from initlint.model import Kind, LayerGraph, Model, Param, Tensor
from initlint.model.record import record

if TYPE_CHECKING:
    from initlint.load.torch_binding import StateDict

Shape = tuple[int, ...]
_MOST_PREFIXES = 64


@record(frozen=True, slots=True)
class _File:
    """The checkpoint by the module's names.

    Attributes:
        tensors: every stored tensor.
        blocks: the inferred parameters by `Param.key`.
    """

    tensors: Mapping[str, Tensor]
    blocks: Mapping[str, Param]


@record(frozen=True, slots=True)
class _Match:
    """How the names and shapes of a module and a checkpoint compare."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mis_shaped: Mapping[str, tuple[Shape, Shape]]

    @property
    def complete(self) -> bool:
        return not self.missing and not self.mis_shaped


def bind(checkpoint: Model, module: Model) -> Model:
    """The checkpoint's tensors under the module's graph, and in the module that the probe runs.

    Names are compared after the prefixes that wrappers add (``module.``, ``_orig_mod.``, the name
    of a base model). A parameter that the checkpoint lacks keeps no tensor, so that nothing is
    said about values that it does not hold; tied parameters are found under either name.

    ``metadata`` gets ``missing`` and ``unexpected`` (tuples of names), ``mis_shaped`` (name to the
    module's and the file's shape) and, where names had to be changed, ``renamed_prefix`` (what
    was dropped and what was added). The probe runs only a module that the checkpoint fills.
    """
    state = _state(module)
    shapes = state.shapes if state else _graph_shapes(module)
    stored: Mapping[str, Tensor] = checkpoint.metadata["tensors"]
    dropped, added = _prefixes(stored, shapes)
    tensors = {renamed(name, dropped, added): tensor for name, tensor in stored.items()}
    blocks = {renamed(param.key, dropped, added): param for _, param in checkpoint.graph.params}
    match = _match(shapes, tensors, state)
    file = _File(_with_twins(tensors, state), blocks)
    layers = [
        replace(layer, params=tuple(_bound(param, file) for param in layer.params))
        for layer in module.graph
    ]
    edges = [edge for layer in module.graph for edge in module.graph.outputs(layer.id)]
    filled = match.complete and _fill(module, state, tensors)
    facts: dict[str, Any] = {
        **module.metadata,
        **checkpoint.metadata,
        "missing": match.missing,
        "unexpected": match.unexpected,
        "mis_shaped": dict(match.mis_shaped),
    }
    if dropped or added:
        facts["renamed_prefix"] = (dropped, added)
    return replace(
        module,
        target=checkpoint.target,
        kind=checkpoint.kind,
        graph=LayerGraph(layers, edges),
        loose=tuple(_bound(param, file) for param in module.loose),
        runnable=module.runnable if filled else None,
        notices=(*checkpoint.notices, *module.notices, *_notices(match, filled)),
        producer=checkpoint.producer or module.producer,
        fresh_hint=None,
        metadata=facts,
    )


def _notices(match: _Match, filled: bool) -> tuple[str, ...]:
    if filled:
        return ()
    if match.complete:
        return ("the module holds no storage to fill, so the checkpoint was not probed",)
    return (
        f"the checkpoint does not fill the module ({len(match.missing)} tensors missing, "
        f"{len(match.mis_shaped)} of another shape), so it was not probed",
    )


def _state(module: Model) -> StateDict | None:
    if module.kind is not Kind.TORCH or module.runnable is None:
        return None
    from initlint.load.torch_binding import state_of

    return state_of(module.runnable)


def _fill(module: Model, state: StateDict | None, tensors: Mapping[str, Tensor]) -> bool:
    if state is None:
        return False
    from initlint.load.torch_binding import fill

    return fill(module.runnable, {key: tensors[key] for key in tensors if key in state.shapes})


def _graph_shapes(module: Model) -> dict[str, Shape]:
    """Stored shapes by name, as far as the graph tells them (packed blocks have their own)."""
    found: dict[str, Shape] = {}
    for param in (*(param for _, param in module.graph.params), *module.loose):
        if param.stored_name and param.tensor is not None:
            found[param.stored_name] = param.tensor.stored_shape
        elif param.stored_name and param.packed == 1:
            found[param.stored_name] = param.shape
    return found


def _match(
    shapes: Mapping[str, Shape], tensors: Mapping[str, Tensor], state: StateDict | None
) -> _Match:
    def present(name: str) -> bool:
        return any(twin in tensors for twin in (state.twins[name] if state else (name,)))

    return _Match(
        tuple(name for name in shapes if not present(name)),
        tuple(name for name in tensors if name not in shapes),
        {
            name: (shape, tensors[name].shape)
            for name, shape in shapes.items()
            if name in tensors and tensors[name].shape != shape
        },
    )


def _with_twins(tensors: Mapping[str, Tensor], state: StateDict | None) -> dict[str, Tensor]:
    """Tensors also under the other names of tied parameters."""
    found = dict(tensors)
    for name, twins in (state.twins if state else {}).items():
        twin = next((twin for twin in twins if twin in tensors), None)
        if twin is not None:
            found.setdefault(name, tensors[twin])
    return found


def _prefixes(stored: Iterable[str], expected: Iterable[str]) -> tuple[str, str]:
    """The prefix to drop from the file's names, and the one to add, for the most matches."""
    names, wanted = list(stored), frozenset(expected)
    wrapper = shared_prefix(names)
    first = dict.fromkeys(name.partition(".")[0] + "." for name in names if "." in name)
    heads = dict.fromkeys(name.partition(".")[0] + "." for name in sorted(wanted) if "." in name)
    candidates = [
        ("", ""),
        (wrapper, ""),
        *((prefix, "") for prefix in [*first][:_MOST_PREFIXES]),
        *((wrapper, head) for head in [*heads][:_MOST_PREFIXES]),
    ]

    def matches(pair: tuple[str, str]) -> int:
        return sum(renamed(name, *pair) in wanted for name in names)

    return max(candidates, key=matches)


def renamed(name: str, dropped: str, added: str) -> str:
    """A checkpoint's key as the module has it: without one prefix, with another."""
    return added + name.removeprefix(dropped)


def _bound(param: Param, file: _File) -> Param:
    tensor = file.tensors.get(param.stored_name) if param.stored_name else None
    seen = _seen(param, tensor, file)
    if seen is None:
        return replace(param, tensor=None)
    return replace(param, tensor=seen, dtype=seen.dtype, stored_name=seen.name)


def _seen(param: Param, tensor: Tensor | None, file: _File) -> Tensor | None:
    """The file's tensor as the module uses it; None when it is not there or does not fit."""
    if tensor is not None and param.tensor is not None:
        if param.tensor.stored_shape != tensor.shape:
            return None
        return replace(tensor, views=(*tensor.views, *param.tensor.views))
    block = file.blocks.get(param.key)
    if block is not None and block.shape == param.shape:
        return block.tensor
    return tensor if tensor is not None and tensor.shape == param.shape else None
