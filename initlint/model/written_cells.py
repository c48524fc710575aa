"""Gated cells that are written out step by step: the gates that keep their state."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from initlint.model.graph import LayerGraph
from initlint.model.layer import Layer, Param
from initlint.model.op import TRANSPARENT, Op
from initlint.model.structure import Gate, gates
from initlint.model.unrolled import LEAST_STEPS

_SQUASHING = (Op.SIGMOID, Op.HARD_SIGMOID)


@dataclass(frozen=True, slots=True)
class KeepingGate:
    """A gate by which the state of a written cell reaches the next step.

    Attributes:
        layer: the layer that computes it, at its first use.
        bias: that layer's bias.
        opening: 1 where an open gate keeps the state, -1 where an open gate replaces it.
        steps: how often the state is handed on.
        states: ids of the sums that are the state, step by step.
    """

    layer: str
    bias: Param
    opening: int
    steps: int
    states: tuple[str, ...]


def keeping_gates(graph: LayerGraph) -> tuple[KeepingGate, ...]:
    """Gates of one weight that multiply a sum, at `LEAST_STEPS` steps and more, into the next sum.

    The shared weight tells steps of a cell from the layers of a gated stack.
    """
    found: dict[tuple[str, int], list[tuple[Layer, str]]] = defaultdict(list)
    for gate in gates(graph):
        state = _next_state(graph, gate)
        if gate.source is None or state is None:
            continue
        layer = graph[gate.source]
        if layer.op is Op.LINEAR and layer.weight is not None and layer.bias is not None:
            found[layer.weight.key, _opening(graph, gate)].append((layer, state))
    first: dict[str, str] = {}  # the first step has no state to keep
    for layer in graph.weighted:
        if layer.weight is not None:
            first.setdefault(layer.weight.key, layer.id)
    return tuple(
        KeepingGate(first[key], bias, opening, len(uses) + 1, tuple(state for _, state in uses))
        for (key, opening), uses in found.items()
        if len(uses) + 1 >= LEAST_STEPS and (bias := uses[0][0].bias) is not None
    )


def _next_state(graph: LayerGraph, gate: Gate) -> str | None:
    """The sum that takes the gated state up; None where a gate does something else."""
    if graph[gate.activation].op not in _SQUASHING or not _is_sum(graph, gate.value):
        return None
    readers = [edge.target for edge in graph.outputs(gate.product)]
    while len(readers) == 1 and _passes_on(graph[readers[0]]):
        readers = [edge.target for edge in graph.outputs(readers[0])]
    return readers[0] if len(readers) == 1 and _is_sum(graph, readers[0]) else None


def _passes_on(layer: Layer) -> bool:
    return layer.op in TRANSPARENT and not layer.params


def _is_sum(graph: LayerGraph, key: str) -> bool:
    return graph[key].op is Op.ADD and len(graph.inputs(key)) == 2


def _opening(graph: LayerGraph, gate: Gate) -> int:
    """-1 where the state is multiplied by one minus the gate."""
    sign = 1
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
        sign = 1
    return sign
