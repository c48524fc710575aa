"""Structural questions about a layer graph: gates, gated units, heads, depth, blocks, trunk.

Pure functions of the graph, linear in its size unless their docstring says otherwise. Residual
additions are in `initlint.model.residual`, and offered here as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from initlint.model.graph import Edge, LayerGraph, derived
from initlint.model.layer import Layer
from initlint.model.op import ACTIVATIONS, NORMALISERS, TRANSPARENT, WEIGHTED, Op
from initlint.model.residual import MIXING, Residual, residual_branches

__all__ = [
    "Gate",
    "GluProduct",
    "Repetition",
    "Residual",
    "blocks",
    "dominators",
    "gates",
    "glu_products",
    "heads",
    "main_depth",
    "normaliser_between",
    "residual_branches",
]

_GATING = (Op.SIGMOID, Op.HARD_SIGMOID, Op.SOFTMAX, Op.TANH)


@dataclass(frozen=True, slots=True)
class Gate:
    """A bounded activation that multiplies another tensor.

    Attributes:
        product: id of the `Op.MUL` (or `Op.GLU`) layer.
        activation: id of the sigmoid, hard sigmoid, softmax or tanh; the product itself for GLU.
        source: id of the weighted layer that computes the gate, None when there is none.
        value: id of the layer that computes the gated tensor.
    """

    product: str
    activation: str
    source: str | None
    value: str


def _id(layer: Layer | None) -> str | None:
    return None if layer is None else layer.id


def _behind(graph: LayerGraph, key: str) -> Layer:
    """The producer of a tensor, seen through operators that pass values on."""
    layer = graph[key]
    while layer.op in TRANSPARENT and not layer.params and graph.inputs(layer.id):
        layer = graph[graph.inputs(layer.id)[0].source]
    return layer


def _feeder(graph: LayerGraph, key: str) -> Layer | None:
    """The weighted layer behind a chain of operators with one tensor input each."""
    layer = _behind(graph, key)
    while layer.op not in WEIGHTED:
        edges = graph.inputs(layer.id)
        if layer.op in MIXING or len(edges) != 1:
            return None
        layer = _behind(graph, edges[0].source)
    return layer


@derived
def gates(graph: LayerGraph) -> tuple[Gate, ...]:
    """Products in which a sigmoid, hard sigmoid, softmax or tanh is a factor, in order.

    ``x (1 + tanh(g))`` and ``x (1 - sigmoid(g))`` count: fixed addends and factors are looked
    through. A tanh that is the gated candidate beside a sigmoid is the value, not the gate.
    """
    return tuple(gate for layer in graph.order for gate in _gates_of(graph, layer))


def _gates_of(graph: LayerGraph, layer: Layer) -> Iterator[Gate]:
    edges = graph.inputs(layer.id)
    if layer.op is Op.GLU and edges:
        source = _feeder(graph, edges[0].source)
        yield Gate(layer.id, layer.id, _id(source), edges[0].source)
    if layer.op is not Op.MUL or len(edges) != 2:
        return
    factors = [_gate_activation(graph, edge.source) for edge in edges]
    ranks = [_GATING.index(item.op) if item is not None else len(_GATING) for item in factors]
    if min(ranks) == len(_GATING):
        return
    index = ranks.index(min(ranks))
    activation = factors[index]
    if activation is not None:
        source = _feeder(graph, graph.inputs(activation.id)[0].source)
        value = _behind(graph, edges[1 - index].source)
        yield Gate(layer.id, activation.id, _id(source), value.id)


def _gate_activation(graph: LayerGraph, key: str) -> Layer | None:
    layer = _behind(graph, key)
    while layer.op in (Op.ADD, Op.SUB, Op.MUL, Op.DIV) and "constant" in layer.attrs:
        layer = _behind(graph, graph.inputs(layer.id)[0].source)
    return layer if layer.op in _GATING and graph.inputs(layer.id) else None


@dataclass(frozen=True, slots=True)
class GluProduct:
    """A gated linear unit kept as a product: ``φ(gate(x)) · up(x)``.

    Attributes:
        product: id of the `Op.MUL` layer.
        gate: id of the weighted layer on the activated path.
        up: id of the weighted layer on the other path; equal to ``gate`` when one layer computes
            both halves.
        activation: id of the activation; None for the bilinear form without one.
    """

    product: str
    gate: str
    up: str
    activation: str | None


@derived
def glu_products(graph: LayerGraph) -> tuple[GluProduct, ...]:
    """Products of two paths from weighted layers that read the same tensor, in order."""
    found = (_glu(graph, layer) for layer in graph.order if layer.op is Op.MUL)
    return tuple(product for product in found if product is not None)


def _glu(graph: LayerGraph, layer: Layer) -> GluProduct | None:
    edges = graph.inputs(layer.id)
    if len(edges) != 2:
        return None
    paths = [_activated(graph, edge) for edge in edges]
    (first, first_bend), (second, second_bend) = paths
    if first is None or second is None or (first_bend and second_bend):
        return None
    if first.id == second.id:
        related = _part(graph, edges[0], first_bend) != _part(graph, edges[1], second_bend)
    else:
        related = _siblings(graph, first, second)
    if not related:
        return None
    if second_bend:
        return GluProduct(layer.id, second.id, first.id, second_bend.id)
    return GluProduct(layer.id, first.id, second.id, _id(first_bend))


def _activated(graph: LayerGraph, edge: Edge) -> tuple[Layer | None, Layer | None]:
    """The weighted layer behind at most one activation, and that activation."""
    layer = _behind(graph, edge.source)
    bend = None
    if layer.op in ACTIVATIONS and graph.inputs(layer.id):
        bend = layer
        layer = _behind(graph, graph.inputs(layer.id)[0].source)
    return (layer if layer.op in (Op.LINEAR, Op.CONV) else None), bend


def _part(graph: LayerGraph, edge: Edge, bend: Layer | None) -> tuple[str, int]:
    """Which part of a split tensor a path reads: the layer that cuts it, and its output."""
    cutting = (Op.SPLIT, Op.SLICE, Op.GATHER)
    while graph[edge.source].op not in cutting:
        layer = graph[edge.source]
        inputs = graph.inputs(layer.id)
        if not inputs or (layer.op not in TRANSPARENT and (bend is None or layer.id != bend.id)):
            break
        edge = inputs[0]
    return edge.source, edge.output


def _siblings(graph: LayerGraph, first: Layer, second: Layer) -> bool:
    sources = [graph.inputs(layer.id) for layer in (first, second)]
    if not all(sources):
        return False
    a, b = (_behind(graph, edges[0].source).id for edges in sources)
    return a == b


@derived
def heads(graph: LayerGraph) -> tuple[Layer, ...]:
    """Weighted layers with no other weighted layer or product of activations behind them.

    Layers whose output reaches no graph output count only when the graph marks no outputs.
    """
    mixing_below: set[str] = set()
    reaching: set[str] = set()
    marked = any(layer.op is Op.OUTPUT for layer in graph)
    for layer in reversed(graph.order):
        targets = [edge.target for edge in graph.outputs(layer.id)]
        if any(key in mixing_below or graph[key].op in MIXING for key in targets):
            mixing_below.add(layer.id)
        if layer.op is Op.OUTPUT or not marked or any(key in reaching for key in targets):
            reaching.add(layer.id)
    return tuple(
        layer for layer in graph.weighted if layer.id in reaching and layer.id not in mixing_below
    )


def normaliser_between(graph: LayerGraph, source: str, target: str) -> bool:
    """True when every path from one layer to another crosses a normaliser between them.

    False when there is no path. Cost: the layers between the two.
    """
    position = graph.position
    queue, seen = [source], {source}
    crossed = False
    while queue:
        for edge in graph.outputs(queue.pop()):
            key = edge.target
            if key == target:
                return False
            if key in seen or position[key] > position[target]:
                continue
            seen.add(key)
            if graph[key].op in NORMALISERS:
                crossed = crossed or target in graph.descendants(key)
            else:
                queue.append(key)
    return crossed


@derived
def main_depth(graph: LayerGraph) -> int:
    """Weighted layers on the longest path, embeddings not counted."""
    depth: dict[str, int] = {}
    for layer in graph.order:
        before = max((depth.get(edge.source, 0) for edge in graph.inputs(layer.id)), default=0)
        counts = layer.op in WEIGHTED and layer.op is not Op.EMBEDDING
        depth[layer.id] = before + counts
    return max(depth.values(), default=0)


@derived
def dominators(graph: LayerGraph) -> tuple[str, ...]:
    """Layers that every path from the inputs to the main output crosses, in order.

    The main output is the one behind most weighted layers: auxiliary outputs (caches, states) do
    not open a way around the trunk. Masks, conditions and indices are not paths.
    """
    carrying = _carrying(graph)
    position = graph.position
    order = [layer.id for layer in graph.order if layer.id in carrying]
    roots = [
        key
        for key in order
        if graph[key].op is not Op.INPUT
        and not any(
            edge.source in carrying and graph[edge.source].op is not Op.INPUT
            for edge in _value_inputs(graph, key)
        )
    ]
    furthest = max([-1, *(position[key] for key in (*roots, *_past_roots(graph, roots, carrying)))])
    found: list[str] = []
    for key in order:
        if graph[key].op is Op.INPUT:
            continue
        if furthest <= position[key]:
            found.append(key)
        targets = [edge.target for edge in graph.outputs(key) if edge.target in carrying]
        furthest = max([furthest, *(position[target] for target in targets)])
    return tuple(key for key in found if graph[key].op is not Op.OUTPUT)


@derived
def post_dominators(graph: LayerGraph) -> dict[str, str | None]:
    """For each layer the next one that all of its paths to the outputs cross.

    None where there is none: at the outputs, and before paths that end at different ones. A chain
    of layers each of which is reached from the one before in this map is a series: what lies on it
    is beside nothing.
    """
    found: dict[str, str | None] = {}
    for layer in reversed(graph.order):
        targets = {edge.target for edge in graph.outputs(layer.id)}
        common: str | None = None
        for number, target in enumerate(sorted(targets, key=graph.position.__getitem__)):
            common = target if number == 0 else _meeting(graph, found, common, target)
        found[layer.id] = common
    return found


def _meeting(
    graph: LayerGraph, after: Mapping[str, str | None], first: str | None, second: str | None
) -> str | None:
    """The first layer that both chains of post-dominators cross."""
    while first != second:
        if first is None or second is None:
            return None
        if graph.position[first] < graph.position[second]:
            first = after[first]
        else:
            second = after[second]
    return first


def _past_roots(graph: LayerGraph, roots: Sequence[str], carrying: set[str]) -> list[str]:
    """Layers that read an input of a root again: a skip path, or an image that is sampled later.

    A product is no path of its own: it is zero when its other factor is.
    """
    starts = {edge.source for key in roots for edge in _value_inputs(graph, key)}
    return [
        edge.target
        for start in starts
        if graph[start].op is Op.INPUT
        for edge in graph.outputs(start)
        if edge.target in carrying
        and graph[edge.target].op not in (Op.MUL, Op.DIV, Op.MATMUL)
        and edge in _value_inputs(graph, edge.target)
    ]


def _value_inputs(graph: LayerGraph, key: str) -> tuple[Edge, ...]:
    """Inputs that carry values: no attention masks, conditions, or indices."""
    edges, op = graph.inputs(key), graph[key].op
    if op is Op.ATTENTION:
        return edges[:3]
    if op is Op.WHERE:
        return edges[1:] if len(edges) == 3 else edges[-1:]
    return edges[:1] if op in (Op.GATHER, Op.RESHAPE, Op.EXPAND, Op.SLICE) else edges


def _carrying(graph: LayerGraph) -> set[str]:
    """Ancestors of the main output along edges that carry values, itself included."""
    depth: dict[str, int] = {}
    outputs: list[str] = []
    for layer in graph.order:
        before = max((depth.get(edge.source, 0) for edge in graph.inputs(layer.id)), default=0)
        depth[layer.id] = before + (layer.op in WEIGHTED)
        if layer.op is Op.OUTPUT:
            outputs.append(layer.id)
    ends = outputs or [layer.id for layer in graph.order if not graph.outputs(layer.id)]
    if not ends:
        return set()
    main = max(ends, key=lambda key: (depth[key], -graph.position[key]))
    queue, found = [main], {main}
    while queue:
        for edge in _value_inputs(graph, queue.pop()):
            if edge.source not in found:
                found.add(edge.source)
                queue.append(edge.source)
    return found


@dataclass(frozen=True, slots=True)
class Repetition:
    """Blocks of one container with equal operators and parameter shapes.

    Attributes:
        container: module path of the list that holds them (``encoder.layer``).
        indices: their numbers in that list.
        blocks: ids of each block's layers with parameters, in the same relative order.
    """

    container: str
    indices: tuple[int, ...]
    blocks: tuple[tuple[str, ...], ...]


@derived
def blocks(graph: LayerGraph) -> tuple[Repetition, ...]:
    """Repeated blocks: module paths that differ in one number, with equal contents.

    Every numbered level is looked at, so a list of blocks that hold numbered layers gives the
    blocks and, where those are alike, the layers. Two or more blocks make a repetition.
    """
    members: dict[tuple[str, int], list[tuple[str, Layer]]] = defaultdict(list)
    for layer in graph.order:
        if not layer.params:
            continue
        parts = layer.id.split(".")
        for index, part in enumerate(parts):
            if part.isdecimal():
                key = (".".join(parts[:index]), int(part))
                members[key].append((".".join(parts[index + 1 :]), layer))
    groups: dict[tuple[str, tuple[object, ...]], list[int]] = defaultdict(list)
    for (path, number), content in members.items():
        groups[path, _signature(content)].append(number)
    result = []
    for (container, _), numbers in groups.items():
        if len(numbers) < 2:
            continue
        numbers = sorted(numbers)
        contents = (
            sorted(members[container, number], key=lambda item: item[0]) for number in numbers
        )
        ids = tuple(tuple(layer.id for _, layer in sorted_content) for sorted_content in contents)
        result.append(Repetition(container, tuple(numbers), ids))
    return tuple(sorted(result, key=lambda item: (item.container, item.indices)))


def _signature(content: list[tuple[str, Layer]]) -> tuple[object, ...]:
    return tuple(
        sorted(
            (path, layer.op.value, tuple((p.role.value, p.shape) for p in layer.params))
            for path, layer in content
        )
    )


_AVERAGING = frozenset({Op.POOL, Op.REDUCE, Op.DROPOUT}) | TRANSPARENT
"""What averages positions, and what may stand around that."""


def before_averaging(graph: LayerGraph, name: str) -> str:
    """The layer whose positions are averaged before the head.

    Averages over independent positions of noise are alike whatever the network; those of data,
    whose positions belong together, are not.
    """
    while graph[name].op in _AVERAGING and len(graph.inputs(name)) == 1:
        name = graph.inputs(name)[0].source
    return name
