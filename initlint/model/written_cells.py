"""Gated cells that are written out step by step: the gates that keep their state."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from initlint.model.graph import Edge, LayerGraph
from initlint.model.layer import Layer, Param, Role
from initlint.model.op import TRANSPARENT, Op
from initlint.model.record import record
from initlint.model.structure import Gate, gates
from initlint.model.unrolled import LEAST_STEPS

_SQUASHING = (Op.SIGMOID, Op.HARD_SIGMOID)


@dataclass(frozen=True, slots=True)
class KeepingGate:
    """A gate by which the state of a written cell reaches the next step.

    Attributes:
        layer: the layer that computes it, at its first use; of two that are added, one with a bias.
        bias: that layer's bias.
        further: biases of others that are added.
        rows: the rows of the biases that are this gate's, where one layer computes several.
        opening: 1 where an open gate keeps the state, -1 where an open gate replaces it.
        steps: how often the state is handed on.
        states: ids of the sums that are the state, step by step.
        coupled: True where the same gate shuts what would enter as it keeps the state (a GRU).
    """

    layer: str
    bias: Param
    opening: int
    steps: int
    states: tuple[str, ...]
    further: tuple[Param, ...] = ()
    rows: tuple[int, int] | None = None
    coupled: bool = False


def keeping_gates(graph: LayerGraph) -> tuple[KeepingGate, ...]:
    """Gates of one weight that multiply a sum, at `LEAST_STEPS` steps and more, into the next sum.

    The shared weight tells steps of a cell from the layers of a gated stack.
    """
    found: dict[tuple[str, tuple[int, int], int], list[tuple[_Made, str]]] = defaultdict(list)
    coupled: set[str] = set()
    for gate in gates(graph):
        state = _next_state(graph, gate)
        made = _made(graph, gate.activation) if state is not None else None
        if state is not None and made is not None:
            key = made.layer.weight.key if made.layer.weight is not None else ""
            found[key, made.rows or (0, 0), _opening(graph, gate)].append((made, state))
            if _is_coupled(graph, gate):
                coupled.add(state)
    first: dict[str, str] = {}  # the first step has no state to keep
    for layer in graph.weighted:
        if layer.weight is not None:
            first.setdefault(layer.weight.key, layer.id)
    return tuple(
        KeepingGate(
            first[key],
            uses[0][0].biases[0],
            opening,
            len(uses) + 1,
            tuple(state for _, state in uses),
            uses[0][0].biases[1:],
            uses[0][0].rows,
            any(state in coupled for _, state in uses),
        )
        for (key, _, opening), uses in found.items()
        if len(uses) + 1 >= LEAST_STEPS
    )


@record(frozen=True, slots=True)
class _Made:
    """What a gate is made of: a layer with a bias, all biases that are added, and which rows."""

    layer: Layer
    biases: tuple[Param, ...]
    rows: tuple[int, int] | None


def _made(graph: LayerGraph, activation: str) -> _Made | None:
    """The linear layers behind a gate, through sums, added biases and one split of outputs."""
    found: list[tuple[Layer, tuple[int, int] | None]] = []
    added: list[tuple[Param, tuple[int, int] | None]] = []
    waiting: list[tuple[Edge, tuple[int, int] | None]]
    waiting = [(edge, None) for edge in graph.inputs(activation)]
    while waiting:
        edge, rows = waiting.pop(0)
        layer = graph[edge.source]
        passed = _passes_on(layer) and layer.op not in (Op.SPLIT, Op.SLICE, Op.GATHER)
        if layer.op is Op.LINEAR and layer.weight is not None:
            found.append((layer, rows))
            continue
        if layer.op is Op.SPLIT and rows is None and "sizes" in layer.attrs:
            sizes = layer.attrs["sizes"]
            start = sum(sizes[: edge.output])
            rows = start, start + sizes[edge.output]
        elif layer.op is Op.ADD and len(graph.inputs(layer.id)) == 1 and layer.params:
            added += [(param, rows) for param in layer.with_role(Role.SHIFT)]
            if not added and not layer.with_role(Role.TABLE):
                return None
        elif not passed and not (_is_sum(graph, layer.id) and not layer.params):
            return None
        waiting += [(before, rows) for before in graph.inputs(layer.id)]
    biased = [layer for layer, _ in found if layer.bias is not None]
    parts = [rows for _, rows in (*found, *added)]
    if not found or not (biased or added) or len(found) > 2 or len(set(parts)) > 1:
        return None
    biases = [layer.bias for layer in biased if layer.bias is not None]
    biases += [param for param, _ in added]
    return _Made((biased or [found[0][0]])[0], tuple(biases), parts[0])


def _next_state(graph: LayerGraph, gate: Gate) -> str | None:
    """The sum that takes the gated state up; None where a gate does something else."""
    if graph[gate.activation].op not in _SQUASHING or not _holds_state(graph, gate.value):
        return None
    readers = [edge.target for edge in graph.outputs(gate.product)]
    while len(readers) == 1 and _passes_on(graph[readers[0]]):
        readers = [edge.target for edge in graph.outputs(readers[0])]
    return readers[0] if len(readers) == 1 and _is_sum(graph, readers[0]) else None


def _holds_state(graph: LayerGraph, key: str) -> bool:
    """True for a sum, and for how far one is from what would replace it: ``n + z (h - n)``."""
    return _is_sum(graph, key) or _is_distance(graph, key) is not None


def _is_distance(graph: LayerGraph, key: str) -> bool | None:
    """Whether the state comes first in a difference of it and something else; None for no such."""
    if graph[key].op is not Op.SUB or len(graph.inputs(key)) != 2:
        return None
    first, second = (_is_sum(graph, edge.source) for edge in graph.inputs(key))
    return first if first != second else None


def _passes_on(layer: Layer) -> bool:
    return layer.op in TRANSPARENT and not layer.params


def _is_sum(graph: LayerGraph, key: str) -> bool:
    return graph[key].op is Op.ADD and len(graph.inputs(key)) == 2


def _is_coupled(graph: LayerGraph, gate: Gate) -> bool:
    """True where the gate, or one minus it, multiplies something else than the state, too."""
    if _is_distance(graph, gate.value) is not None:
        return True
    waiting, products = [gate.activation], set()
    while waiting:
        for edge in graph.outputs(waiting.pop()):
            reader = graph[edge.target]
            if reader.op is Op.MUL and len(graph.inputs(reader.id)) == 2:
                products.add(reader.id)
            elif reader.op in TRANSPARENT or (reader.op is Op.SUB and "constant" in reader.attrs):
                waiting.append(reader.id)
    return bool(products - {gate.product})


def _opening(graph: LayerGraph, gate: Gate) -> int:
    """-1 where the state is multiplied by one minus the gate."""
    turned = -1 if _is_distance(graph, gate.value) is False else 1
    sign = turned
    for edge in graph.inputs(gate.product):
        layer = graph[edge.source]
        while layer.id != gate.activation and graph.inputs(layer.id):
            if layer.op not in TRANSPARENT and "constant" not in layer.attrs:
                break
            if layer.op is Op.SUB and layer.attrs.get("constant_first"):
                sign = -sign
            layer = graph[graph.inputs(layer.id)[0].source]
        if layer.id == gate.activation:
            return sign
        sign = turned
    return sign
