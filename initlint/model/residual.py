"""Residual additions: which operand is the skip path, and what the other one consists of."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from initlint.model.graph import Edge, LayerGraph, derived
from initlint.model.layer import Layer, Role
from initlint.model.op import ACTIVATIONS, NORMALISERS, TRANSPARENT, WEIGHTED, Op
from initlint.model.record import record

MIXING = WEIGHTED | {Op.MATMUL, Op.ATTENTION}
"""Operators that mix units: what a branch has and a skip path has not."""

_GATING = frozenset({Op.SIGMOID, Op.HARD_SIGMOID, Op.SOFTMAX, Op.TANH})

_TERMS = 3
"""Branches that may have been added to a trunk already when the next one is."""

_REACH = 4096
"""Layers looked at in search of the fork behind one addition. The search ends at the fork, so only
an addition of unrelated tensors, or a skip across most of a network, costs as much as this."""

_LONG = 16
"""Additions of one graph that may cost as much; an ordinary branch is a few dozen layers long."""

_ORDINARY = 64
"""Layers that any addition may look at, and a quarter of them what it leaves to longer ones: all
additions together cost a time linear in the graph."""


@dataclass(frozen=True, slots=True)
class Residual:
    """An addition whose operands fork from one tensor, one of them a skip path.

    Attributes:
        add: id of the `Op.ADD` layer.
        trunk: id of the layer where skip and branch fork.
        skip: ids of the layers on the skip path, in order; empty for a plain identity.
        branch: ids of the layers on the branch, in order.
        layers: ids of the weighted layers on the branch, in order.
        last: id of the last weighted layer on the branch's value path, None when it has none.
        writers: ids of all weighted layers whose output reaches the sum without crossing another
            one (several for parallel attention and MLP), in order.
        projection: id of the weighted layer on the skip path, None for an identity.
        norms: ids of the normalisers on the branch, in order.
        entry_norm: id of the normaliser that all of the branch reads through, or None.
        closing_norm: id of the normaliser between ``last`` and the sum, or None.
        post_norm: id of the normaliser that all later layers read the sum through, or None.
        gate: id of the product that closes the branch, or None: with a trainable operand
            (LayerScale, ReZero), a fixed one (scaled residuals) or a tensor (adaptive norms).
        skip_scale: id of the product on the skip path, or None (DeepNorm).
    """

    add: str
    trunk: str
    skip: tuple[str, ...]
    branch: tuple[str, ...]
    layers: tuple[str, ...]
    last: str | None
    writers: tuple[str, ...]
    projection: str | None = None
    norms: tuple[str, ...] = ()
    entry_norm: str | None = None
    closing_norm: str | None = None
    post_norm: str | None = None
    gate: str | None = None
    skip_scale: str | None = None

    @property
    def normalised(self) -> bool:
        """True when a normaliser stands on the branch or right behind the sum."""
        return bool(self.norms) or self.post_norm is not None


@record(frozen=True, slots=True)
class _Fork:
    trunk: str
    sides: tuple[tuple[str, ...], ...]


class _Forks:
    """Where the operands of additions fork, within what all searches of one graph may cost."""

    def __init__(self, graph: LayerGraph, additions: int) -> None:
        self._graph = graph
        self._left = _LONG * _REACH + _ORDINARY // 4 * additions

    def of(self, edges: tuple[Edge, ...]) -> _Fork | None:
        """The fork of one addition, and what the search took from the others."""
        most = max(_ORDINARY, min(_REACH, self._left))
        fork, seen = _fork(self._graph, edges, most)
        self._left -= seen
        return fork


def _fork(graph: LayerGraph, edges: tuple[Edge, ...], most: int) -> tuple[_Fork | None, int]:
    """The latest common ancestor of all operands, and the layers of each side behind it.

    Walks back in falling topological order, so every layer is settled before its producers. The
    second result is how many layers were looked at, ``most`` at most.
    """
    position = graph.position
    everyone = (1 << len(edges)) - 1
    reached: dict[str, int] = {}
    queue: list[tuple[int, str]] = []
    for index, edge in enumerate(edges):
        if edge.source not in reached:
            heapq.heappush(queue, (-position[edge.source], edge.source))
        reached[edge.source] = reached.get(edge.source, 0) | 1 << index
    settled: list[str] = []
    while queue and len(settled) < most:
        _, key = heapq.heappop(queue)
        if reached[key] == everyone:
            fork = _Fork(key, _sides(graph, key, settled, reached, len(edges)))
            return fork, len(settled)
        settled.append(key)
        for edge in graph.inputs(key):
            if position[edge.source] >= position[key]:
                continue
            if edge.source not in reached:
                heapq.heappush(queue, (-position[edge.source], edge.source))
            reached[edge.source] = reached.get(edge.source, 0) | reached[key]
    return None, len(settled)


def _sides(
    graph: LayerGraph, trunk: str, settled: list[str], reached: dict[str, int], count: int
) -> tuple[tuple[str, ...], ...]:
    """Layers between the fork and the sum, per operand, side inputs left out."""
    below = {trunk}
    sides: list[list[str]] = [[] for _ in range(count)]
    for key in reversed(settled):
        if not any(edge.source in below for edge in graph.inputs(key)):
            continue
        below.add(key)
        operands = reached[key]
        while operands:  # as many steps as bits are set: a sum may have as many operands as layers
            lowest = operands & -operands
            sides[lowest.bit_length() - 1].append(key)
            operands ^= lowest
    return tuple(tuple(side) for side in sides)


@derived
def residual_branches(graph: LayerGraph) -> tuple[Residual, ...]:
    """Every residual addition, in topological order.

    An addition is residual when its operands fork from one tensor, one operand passes it on
    without mixing units (identity, pooling, resizing, scaling, a normaliser) or through a single
    projection, and the other has weighted layers. A projection counts as a skip path only beside a
    branch with a non-linearity: a low-rank adapter beside its matrix is no residual branch.
    Concatenated skips are not additions.
    """
    additions = [layer for layer in graph.order if layer.op is Op.ADD]
    forks = _Forks(graph, len(additions))
    found: list[Residual] = []
    skips: dict[str, Edge] = {}  # by sum, where it has its trunk from
    for layer in additions:
        edges = graph.inputs(layer.id)
        if len(edges) < 2:
            continue
        residual = _residual(graph, layer, edges, forks)
        for _ in range(_TERMS):  # (x + attention) + mlp adds two branches to x
            if residual is not None or not any(edge.source in skips for edge in edges):
                break
            edges = tuple(skips.get(edge.source, edge) for edge in edges)
            residual = _residual(graph, layer, edges, forks)
        if residual is not None:
            found.append(residual)
            ends = {residual.trunk, *residual.skip}
            skips[layer.id] = next(edge for edge in edges if edge.source in ends)
    return tuple(found)


def _residual(
    graph: LayerGraph, add: Layer, edges: tuple[Edge, ...], forks: _Forks
) -> Residual | None:
    fork = forks.of(edges)
    if fork is None:
        return None
    chosen = _skip_side(graph, fork)
    if chosen is None:
        return None
    skip = fork.sides[chosen]
    others = {key for index, side in enumerate(fork.sides) if index != chosen for key in side}
    if takes_other_parts(graph, fork.trunk, skip, others):
        return None
    branch = tuple(sorted(others - set(skip), key=graph.position.__getitem__))
    layers = tuple(key for key in branch if graph[key].op in WEIGHTED)
    heads = [edge for index, edge in enumerate(edges) if index != chosen]
    writers = _writers(graph, heads, others)
    ends = _ends(graph, heads[-1], others) if len(heads) == 1 else _Ends()
    norms = tuple(key for key in branch if graph[key].op in NORMALISERS)
    return Residual(
        add=add.id,
        trunk=fork.trunk,
        skip=skip,
        branch=branch,
        layers=layers,
        last=writers[-1] if writers else None,
        writers=writers,
        projection=next((key for key in skip if graph[key].op in WEIGHTED), None),
        norms=norms,
        entry_norm=_entry_norm(graph, fork.trunk, branch, norms),
        closing_norm=ends.norm,
        post_norm=_post_norm(graph, add.id),
        gate=ends.gate,
        skip_scale=next((key for key in skip if _is_product(graph, key)), None),
    )


_PARTS = frozenset({Op.SLICE, Op.SPLIT, Op.GATHER})


def takes_other_parts(
    graph: LayerGraph, trunk: str, skip: Collection[str], branch: Collection[str]
) -> bool:
    """True when both paths begin with cuts of one tensor: what is added is another part of it.

    So add the steps of a recurrence that is written out, and the halves of a coupling. The cut may
    be the fork itself, which both paths leave by outputs of their own.
    """
    if graph[trunk].op is Op.SPLIT:
        taken, mixed = _outputs(graph, trunk, skip), _outputs(graph, trunk, branch)
        if taken and mixed and taken.isdisjoint(mixed):
            return True
    cut = {_cut_tensor(graph, key) for key in skip if graph[key].op in _PARTS}
    return bool(cut) and any(
        _cut_tensor(graph, key) in cut for key in branch if graph[key].op in _PARTS
    )


def _outputs(graph: LayerGraph, trunk: str, path: Collection[str]) -> set[int]:
    """Which outputs of the fork the layers of a path read."""
    return {edge.output for edge in graph.outputs(trunk) if edge.target in path}


def _cut_tensor(graph: LayerGraph, key: str) -> str | None:
    edges = graph.inputs(key)
    return edges[0].source if edges else None


def _skip_side(graph: LayerGraph, fork: _Fork) -> int | None:
    """Which operand is the skip path."""
    mixing = [[key for key in side if graph[key].op in MIXING] for side in fork.sides]
    plain = [index for index, keys in enumerate(mixing) if not keys]
    if len(plain) == 1 and any(graph[key].op in WEIGHTED for keys in mixing for key in keys):
        return plain[0]
    if plain or len(fork.sides) != 2:
        return None
    for index in (0, 1):
        if _is_projection(graph, fork.sides[index], mixing[index]) and _is_nonlinear(
            graph, fork.sides[1 - index], mixing[1 - index]
        ):
            return index
    return None


def _is_projection(graph: LayerGraph, side: tuple[str, ...], mixing: list[str]) -> bool:
    single = len(mixing) == 1 and graph[mixing[0]].op in (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE)
    return single and not any(graph[key].op in ACTIVATIONS for key in side)


def _is_nonlinear(graph: LayerGraph, side: tuple[str, ...], mixing: list[str]) -> bool:
    if len(mixing) < 2:
        return False
    between = side[side.index(mixing[0]) : side.index(mixing[-1])]
    bends = ACTIVATIONS | {Op.ATTENTION, Op.SOFTMAX, Op.MUL, Op.GLU, Op.MAXIMUM}
    return any(graph[key].op in bends for key in between)


def _is_product(graph: LayerGraph, key: str) -> bool:
    layer = graph[key]
    return layer.op in (Op.MUL, Op.DIV) and (bool(layer.params) or "constant" in layer.attrs)


def value_edges(graph: LayerGraph, layer: Layer) -> tuple[Edge, ...]:
    """Inputs that carry the value through a layer, gates and attention weights left out."""
    edges = graph.inputs(layer.id)
    if layer.op is Op.ATTENTION and len(edges) > 2:
        return edges[2:3]
    if layer.op is Op.MUL and len(edges) == 2:
        free = tuple(edge for edge in edges if not _leads_to_gate(graph, edge.source))
        return free if len(free) == 1 else edges
    if layer.op is Op.MATMUL and len(edges) == 2 and _leads_to_gate(graph, edges[0].source):
        return edges[1:]
    return edges


def _leads_to_gate(graph: LayerGraph, key: str) -> bool:
    layer = graph[key]
    while layer.op in TRANSPARENT and not layer.params and graph.inputs(layer.id):
        layer = graph[graph.inputs(layer.id)[0].source]
    return layer.op in _GATING


def _writers(graph: LayerGraph, heads: Iterable[Edge], side: set[str]) -> tuple[str, ...]:
    queue = [edge.source for edge in heads]
    seen: set[str] = set()
    found: list[str] = []
    while queue:
        key = queue.pop()
        if key in seen or key not in side:
            continue
        seen.add(key)
        if graph[key].op in WEIGHTED:
            found.append(key)
        else:
            queue.extend(edge.source for edge in value_edges(graph, graph[key]))
    return tuple(sorted(found, key=graph.position.__getitem__))


@record(frozen=True, slots=True)
class _Ends:
    norm: str | None = None
    gate: str | None = None


def _ends(graph: LayerGraph, head: Edge, side: set[str]) -> _Ends:
    """The normaliser and the product between the sum and the branch's last weighted layer."""
    norm = gate = None
    key = head.source
    while key in side and graph[key].op not in MIXING:
        layer = graph[key]
        if layer.op in NORMALISERS:
            norm = norm or key
        elif layer.op is Op.MUL or _is_product(graph, key):
            gate = gate or (key if norm is None or layer.with_role(Role.GAIN) else None)
        elif layer.op not in TRANSPARENT and layer.op not in (Op.POOL, Op.RESIZE):
            break
        following = [edge for edge in value_edges(graph, layer) if edge.source in side]
        if not following:
            break
        key = max((edge.source for edge in following), key=graph.position.__getitem__)
    return _Ends(norm, gate)


def _entry_norm(
    graph: LayerGraph, trunk: str, branch: tuple[str, ...], norms: tuple[str, ...]
) -> str | None:
    """The normaliser that every layer of the branch reads the trunk through."""
    members = set(branch)
    queue = [edge.target for edge in graph.outputs(trunk) if edge.target in members]
    entry: set[str] = set()
    seen: set[str] = set()
    while queue:
        key = queue.pop()
        if key in seen:
            continue
        seen.add(key)
        layer = graph[key]
        if key in norms:
            entry.add(key)
        elif layer.op in TRANSPARENT and not layer.params:
            queue.extend(edge.target for edge in graph.outputs(key) if edge.target in members)
        else:
            return None
    return next(iter(entry)) if len(entry) == 1 else None


def _post_norm(graph: LayerGraph, add: str) -> str | None:
    found = graph.effective_consumers(add)
    return found[0].id if len(found) == 1 and found[0].op in NORMALISERS else None
