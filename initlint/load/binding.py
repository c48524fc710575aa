"""A checkpoint under the graph of its module: ``--model``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from initlint.load.naming import shared_prefix
from initlint.model import Layer, LayerGraph, Model, Param, Tensor


@dataclass(slots=True)
class _Binding:
    """What matched and what did not.

    Attributes:
        tensors: the checkpoint's tensors by the module's names.
        blocks: the checkpoint's inferred parameters by `Param.key`.
        used: names that the module asked for and found.
        missing: names that it asked for in vain.
        mis_shaped: name to the module's shape and the file's.
    """

    tensors: Mapping[str, Tensor]
    blocks: Mapping[str, Param]
    used: set[str] = field(default_factory=set)
    missing: dict[str, None] = field(default_factory=dict)
    mis_shaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)


def bind(checkpoint: Model, module: Model) -> Model:
    """The checkpoint's tensors under the module's graph.

    Names are compared after the prefixes that wrappers add (``module.``, ``_orig_mod.``, the name
    of a base model). A parameter that the checkpoint lacks keeps no tensor, so that nothing is
    said about values that the checkpoint does not hold.

    ``metadata`` gets ``missing`` and ``unexpected`` (lists of names), ``mis_shaped`` (name to the
    module's and the file's shape) and ``renamed_prefix`` (the file's and the module's prefix)
    where there are any.
    """
    expected = [param.stored_name or param.name for _, param in module.graph.params]
    expected += [param.stored_name or param.name for param in module.loose]
    stored: Mapping[str, Tensor] = checkpoint.metadata["tensors"]
    dropped, added = _prefixes(stored, expected)
    renamed = {_renamed(name, dropped, added): tensor for name, tensor in stored.items()}
    blocks = {_renamed(param.key, dropped, added): param for _, param in checkpoint.graph.params}
    binding = _Binding(renamed, blocks)
    layers = [_bound_layer(layer, binding) for layer in module.graph]
    loose = tuple(_bound(param, binding) for param in module.loose)
    edges = [edge for layer in module.graph for edge in module.graph.outputs(layer.id)]
    facts: dict[str, Any] = {**module.metadata, **checkpoint.metadata}
    facts["missing"] = list(binding.missing)
    facts["unexpected"] = [name for name in renamed if name not in binding.used]
    facts["mis_shaped"] = dict(binding.mis_shaped)
    if dropped or added:
        facts["renamed_prefix"] = (dropped, added)
    return replace(
        module,
        target=checkpoint.target,
        kind=checkpoint.kind,
        graph=LayerGraph(layers, edges),
        loose=loose,
        runnable=None,
        notices=(*checkpoint.notices, *module.notices, _summary(binding, facts)),
        producer=checkpoint.producer or module.producer,
        fresh_hint=None,
        metadata=facts,
    )


def _summary(binding: _Binding, facts: Mapping[str, Any]) -> str:
    return (
        f"bound {len(binding.used)} tensors to the module; {len(facts['missing'])} missing, "
        f"{len(facts['unexpected'])} unexpected, {len(facts['mis_shaped'])} of another shape; "
        "the probe runs the module itself, not the checkpoint, and was left out"
    )


def _prefixes(stored: Iterable[str], expected: Iterable[str]) -> tuple[str, str]:
    """The prefix to drop from the file's names, and the one to add, for the most matches."""
    names, wanted = list(stored), frozenset(expected)
    wrapper = shared_prefix(names)
    heads = {name.partition(".")[0] + "." for name in wanted if "." in name}
    first = {name.partition(".")[0] + "." for name in names if "." in name}
    candidates = [("", ""), (wrapper, "")]
    candidates += [(wrapper, head) for head in sorted(heads)]
    candidates += [
        (prefix, "") for prefix in sorted(first) if all(n.startswith(prefix) for n in names)
    ]

    def matches(pair: tuple[str, str]) -> int:
        return sum(_renamed(name, *pair) in wanted for name in names)

    best = max(candidates[:64], key=matches)
    return best if matches(best) > matches(("", "")) else ("", "")


def _renamed(name: str, dropped: str, added: str) -> str:
    return added + name.removeprefix(dropped)


def _bound_layer(layer: Layer, binding: _Binding) -> Layer:
    return replace(layer, params=tuple(_bound(param, binding) for param in layer.params))


def _bound(param: Param, binding: _Binding) -> Param:
    name = param.stored_name or param.name
    tensor = binding.tensors.get(name)
    if tensor is None:
        binding.missing[name] = None
        return replace(param, tensor=None)
    binding.used.add(name)
    seen = _seen(param, tensor, binding)
    if seen is None:
        expected = param.tensor.stored_shape if param.tensor else param.shape
        binding.mis_shaped[name] = (tuple(expected), tensor.shape)
        return replace(param, tensor=None)
    return replace(param, tensor=seen, dtype=tensor.dtype, stored_name=tensor.name)


def _seen(param: Param, tensor: Tensor, binding: _Binding) -> Tensor | None:
    """The file's tensor through the module's views; None when the shapes do not fit."""
    if param.tensor is not None:
        if param.tensor.stored_shape != tensor.shape:
            return None
        return replace(tensor, views=(*tensor.views, *param.tensor.views))
    block = binding.blocks.get(param.key)
    if block is not None and block.shape == param.shape:
        return block.tensor
    return tensor if tensor.shape == param.shape else None
