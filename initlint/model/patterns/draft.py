"""A layer graph that can be rewritten, and what matchers ask of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import numpy as np

from initlint.model.graph import Edge, LayerGraph
from initlint.model.layer import Layer, Param, Where
from initlint.model.op import Op
from initlint.model.record import record

UNCHANGED = frozenset({Op.CAST, Op.IDENTITY})
"""Operators that exporters put anywhere: matchers look through them."""


@record(frozen=True, slots=True)
class Ref:
    """One output of one layer; equal when producer and output index are."""

    layer: str
    output: int = 0
    shape: tuple[int | None, ...] | None = field(default=None, compare=False)


class _Inputs(dict[str, tuple[Ref, ...]]):
    """What the layers of a graph read, looked up when asked for: most are never asked about."""

    def __init__(self, graph: LayerGraph) -> None:
        super().__init__()
        self._graph = graph

    def __missing__(self, key: str) -> tuple[Ref, ...]:
        self[key] = found = _refs(self._graph.inputs(key))
        return found


class _Users(dict[str, dict[tuple[str, int], None]]):
    """Which inputs of which layers read the layers of a graph, looked up when asked for."""

    def __init__(self, graph: LayerGraph) -> None:
        super().__init__()
        self._graph = graph

    def __missing__(self, key: str) -> dict[tuple[str, int], None]:
        edges = self._graph.outputs(key)
        self[key] = found = dict.fromkeys([(edge.target, edge.position) for edge in edges])
        return found


def _refs(edges: Sequence[Edge]) -> tuple[Ref, ...]:
    return tuple([Ref(edge.source, edge.output, edge.shape) for edge in edges])


class Draft:
    """A layer graph under rewriting.

    Every operation costs as much as the neighbourhood it touches, so a pass over all layers is
    linear in the graph.
    """

    def __init__(self, graph: LayerGraph) -> None:
        self.layers: dict[str, Layer] = {layer.id: layer for layer in graph}
        self._given: LayerGraph | None = graph if _is_plain(graph) else None
        self.inputs: dict[str, tuple[Ref, ...]] = _Inputs(graph)
        self.users: dict[str, dict[tuple[str, int], None]] = _Users(graph)
        self._rank: dict[str, int] = dict(zip(self.layers, range(len(self.layers)), strict=True))
        self._by_op: dict[Op, dict[str, None]] = defaultdict(dict)
        for key, layer in self.layers.items():
            self._by_op[layer.op][key] = None
        self._scopes: Counter[str] = Counter()
        if self._given is None:
            self._own({key: {} for key in self.layers})
            for key, refs in self.inputs.items():
                for position, ref in enumerate(refs):
                    self.users[ref.layer][key, position] = None

    def _begin(self) -> None:
        """Make ready for changes, after which the given graph tells nothing any more."""
        if self._given is not None:
            self._own({key: self.users[key] for key in self.layers})
            self._given = None

    def _own(self, users: dict[str, dict[tuple[str, int], None]]) -> None:
        """Hold inputs, users and scopes of all layers, looked up or not."""
        self.inputs = {key: self.inputs[key] for key in self.layers}
        self.users = users
        self._scopes = Counter([layer.scope for layer in self.layers.values()])

    def graph(self) -> LayerGraph:
        """The rewritten graph in the given order of layers; the given one where nothing changed."""
        if self._given is not None:
            return self._given
        order = sorted(self.layers, key=self._rank.__getitem__)
        edges = (
            Edge(ref.layer, key, position, ref.output, ref.shape)
            for key in order
            for position, ref in enumerate(self.inputs[key])
        )
        return LayerGraph([self.layers[key] for key in order], edges)

    # looking

    def of(self, *ops: Op) -> Iterator[Layer]:
        """Layers that have one of these operators when their turn comes, in the given order."""
        keys = [key for op in ops for key in self._by_op[op]]
        for key in sorted(keys, key=self._rank.__getitem__):
            layer = self.layers.get(key)
            if layer is not None and layer.op in ops:
                yield layer

    def __contains__(self, layer_id: object) -> bool:
        return layer_id in self.layers

    def skip(self, ref: Ref, through: frozenset[Op] = UNCHANGED) -> Ref:
        """The tensor behind casts and identities (or other first-input operators)."""
        while True:
            layer = self.layers[ref.layer]
            if layer.op not in through or layer.params or not self.inputs[layer.id]:
                return ref
            ref = self.inputs[layer.id][0]

    def producer(self, ref: Ref, through: frozenset[Op] = UNCHANGED) -> Layer:
        """The layer that computes a tensor, behind casts and identities."""
        return self.layers[self.skip(ref, through).layer]

    def operands(self, layer: Layer, through: frozenset[Op] = UNCHANGED) -> tuple[Ref, ...]:
        """A layer's inputs, behind casts and identities."""
        return tuple(self.skip(ref, through) for ref in self.inputs[layer.id])

    def sole_user(
        self, layer_id: str, through: frozenset[Op] = UNCHANGED
    ) -> tuple[Layer, int] | None:
        """The one layer that reads a layer's output, and at which input; None when several do."""
        while True:
            user = self._only_user(layer_id)
            if user is None:
                return None
            target, position = user
            layer = self.layers[target]
            if layer.op in through and not layer.params and position == 0:
                layer_id = target
                continue
            return layer, position

    def _only_user(self, layer_id: str) -> tuple[str, int] | None:
        """The one layer that reads a layer's output, casts included, and at which input."""
        if self._given is not None:
            edges = self._given.outputs(layer_id)
            return (edges[0].target, edges[0].position) if len(edges) == 1 else None
        users = self.users[layer_id]
        return next(iter(users)) if len(users) == 1 else None

    def is_fixed(self, ref: Ref) -> bool:
        """True when a tensor is computed from parameters and constants alone."""
        queue, seen = [ref.layer], set()
        while queue:
            key = queue.pop()
            if key in seen:
                continue
            seen.add(key)
            if self.layers[key].op is Op.CONSTANT:
                continue
            inputs = self.inputs[key]
            if not inputs or len(seen) > 16:
                return False
            queue.extend(item.layer for item in inputs)
        return True

    # rewriting

    def replace(
        self,
        last: Layer,
        op: Op,
        inputs: Sequence[Ref],
        *,
        attrs: Mapping[str, Any] | None = None,
        params: Iterable[Param] = (),
        channel_axis: int | None = None,
    ) -> Layer:
        """Put one layer in place of ``last`` and of everything that only ``last`` needed.

        The new layer takes the module path of its parts where it is all that the module does,
        else the id of ``last``; source location and output shape come from ``last``.
        """
        self._begin()
        placeholder = f"{last.id}\0"
        axis = last.channel_axis if channel_axis is None else channel_axis
        new = replace(
            last,
            id=placeholder,
            op=op,
            params=tuple(params),
            attrs=dict(attrs or {}),
            channel_axis=axis,
        )
        self._insert(new, tuple(inputs), self._rank[last.id])
        users = self.users[last.id]
        self.users[placeholder] = dict(users)
        for target, position in users:
            self._relink(target, position, placeholder)
        users.clear()
        return self._settle(placeholder, last.id, self._drop(last.id))

    def update(self, layer: Layer, **changes: Any) -> Layer:
        """Change fields of a layer other than its id and operator."""
        self._begin()
        changed = replace(layer, **changes)
        self.layers[layer.id] = changed
        return changed

    def bypass(self, layer: Layer) -> None:
        """Remove a layer; its consumers read its first input instead."""
        self._begin()
        source = self.inputs[layer.id][0]
        users = self.users[layer.id]
        for target, position in tuple(users):
            refs = list(self.inputs[target])
            refs[position] = replace(source, shape=source.shape)
            self.inputs[target] = tuple(refs)
            self.users[source.layer][target, position] = None
        users.clear()
        self._drop(layer.id)

    def absorb(self, layer: Layer, into: Layer, params: Iterable[Param]) -> Layer:
        """Move parameters of a one-input layer to a producer behind it, and remove the layer.

        What is left puts out what the removed layer did, and so has the place of its node.
        """
        self._begin()
        where = layer.where if layer.where.node is not None else into.where
        self.layers[into.id] = replace(into, params=(*into.params, *params), where=where)
        self.bypass(layer)
        return self._settle(into.id, into.id, (layer, into))

    def _insert(self, layer: Layer, inputs: tuple[Ref, ...], rank: int) -> None:
        self.layers[layer.id] = layer
        self.inputs[layer.id] = inputs
        self._rank[layer.id] = rank
        self._by_op[layer.op][layer.id] = None
        self._scopes[layer.scope] += 1
        for position, ref in enumerate(inputs):
            self.users[ref.layer][layer.id, position] = None

    def _relink(self, target: str, position: int, source: str) -> None:
        refs = list(self.inputs[target])
        refs[position] = replace(refs[position], layer=source, output=0)
        self.inputs[target] = tuple(refs)

    def _drop(self, layer_id: str) -> list[Layer]:
        """Remove a layer without users, and then its producers that have none left."""
        removed: list[Layer] = []
        queue = [layer_id]
        while queue:
            key = queue.pop()
            if key not in self.layers or self.users[key]:
                continue
            layer = self.layers[key]
            if layer.op is Op.INPUT:
                continue
            removed.append(layer)
            for position, ref in enumerate(self.inputs[key]):
                self.users[ref.layer].pop((key, position), None)
                queue.append(ref.layer)
            del self.layers[key], self.inputs[key], self.users[key], self._rank[key]
            del self._by_op[layer.op][key]
            self._scopes[layer.scope] -= 1
        return removed

    def _settle(self, key: str, fallback: str, parts: Sequence[Layer]) -> Layer:
        """Give a fused layer its final id and source location."""
        new = self.layers[key]
        module = self._module(new, parts)
        if module is not None:
            self._scopes[new.scope] -= 1
            fallback, new = module, replace(new, scope=module.rpartition(".")[0])
            self._scopes[new.scope] += 1
        where = new.where
        if where.file is None:
            places = (part.where for part in parts if part.where.file is not None)
            place = next(places, Where())
            where = replace(where, file=place.file, line=place.line, function=place.function)
        return self._move(key, replace(new, id=fallback, where=where))

    def _module(self, new: Layer, parts: Sequence[Layer]) -> str | None:
        """The module that consists of these parts and of nothing else."""
        for scope in dict.fromkeys(part.scope for part in parts):
            own = all(part.scope == scope or part.id == scope for part in parts)
            others = self._scopes[scope] - (new.scope == scope)
            if scope and own and not others and scope not in self.layers:
                return scope
        return None

    def _move(self, key: str, named: Layer) -> Layer:
        if named.id == key:
            self.layers[key] = named
            return named
        self.layers[named.id] = named
        del self.layers[key]
        inputs = self.inputs.pop(key)
        self.inputs[named.id] = inputs
        self.users[named.id] = self.users.pop(key)
        self._rank[named.id] = self._rank.pop(key)
        del self._by_op[named.op][key]
        self._by_op[named.op][named.id] = None
        for position, ref in enumerate(inputs):
            users = self.users[ref.layer]
            users.pop((key, position), None)
            users[named.id, position] = None
        for target, position in self.users[named.id]:
            refs = list(self.inputs[target])
            refs[position] = replace(refs[position], layer=named.id)
            self.inputs[target] = tuple(refs)
        return named


def _is_plain(graph: LayerGraph) -> bool:
    """True when a draft of this graph, left as it is, would give it back edge by edge.

    Drafts number inputs without gaps, and give edges layer by layer.
    """
    edges = iter(graph.edges)
    for layer in graph:
        for position, edge in enumerate(graph.inputs(layer.id)):
            if edge.position != position or edge is not next(edges, None):
                return False
    return True


def fixed_operand(layer: Layer) -> float | None:
    """The fixed scalar operand of an arithmetic primitive; None when there is none."""
    value = layer.attrs.get("constant")
    if value is None:
        return None
    array = np.asarray(value)
    if array.size == 0 or array.dtype.kind not in "fiub":
        return None
    first = float(array.reshape(-1)[0])
    uniform = array.size == 1 or bool(np.all(array == array.reshape(-1)[0]))
    return first if uniform else None


def close(value: float | None, target: float, tolerance: float = 2e-3) -> bool:
    """Equality up to what half-precision exports round away (2^-11 relative, several factors)."""
    return value is not None and abs(value - target) <= tolerance * max(abs(target), 1e-30)
