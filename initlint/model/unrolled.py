"""Recurrences written out step by step: loops over cells, and what exporters make of plain RNNs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from initlint.model.graph import LayerGraph
from initlint.model.layer import Layer, Param
from initlint.model.op import TRANSPARENT, Op
from initlint.model.record import record

LEAST_STEPS = 3
"""Fewer uses of one matrix are tying, not time."""

_ADDENDS = 4
"""Additions between a product and the activation: the input and two biases."""


@dataclass(frozen=True, slots=True)
class Unrolled:
    """A plain recurrence ``h_t = φ(a_t + W h_{t-1})`` whose steps are layers of their own.

    Attributes:
        weight: W, ``(hidden, hidden)``, as the first step holds it.
        steps: ids of the layers that multiply by W, in order.
        inputs: ids of the layers that give a_t, one per step but the last.
        others: ids of the sums and activations of the steps.
        activation: `Op.TANH` or `Op.RELU`.
    """

    weight: Param
    steps: tuple[str, ...]
    inputs: tuple[str, ...]
    others: tuple[str, ...]
    activation: Op


def unrolled_recurrences(graph: LayerGraph) -> tuple[Unrolled, ...]:
    """Every plain recurrence of at least `LEAST_STEPS` steps, in order; linear in the graph.

    Each step must get an input of its own: steps that all add the same tensor iterate one map
    towards its fixed point (equilibrium networks), which is no sequence.
    """
    groups: dict[str, list[Layer]] = defaultdict(list)
    for layer in graph.weighted:
        weight = layer.weight
        if layer.op is Op.LINEAR and weight is not None and len(set(weight.shape)) == 1:
            groups[weight.name].append(layer)
    found = (_chain(graph, group) for group in groups.values() if len(group) >= LEAST_STEPS)
    return tuple(recurrence for recurrence in found if recurrence is not None)


@record(frozen=True, slots=True)
class _Step:
    before: str
    added: str
    state: str
    sums: tuple[str, ...]


def _chain(graph: LayerGraph, group: Sequence[Layer]) -> Unrolled | None:
    members = {layer.id for layer in group}
    steps = {layer.id: _step(graph, layer.id, members) for layer in group}
    lengths: dict[str, int] = {}
    for layer in group:
        step = steps[layer.id]
        lengths[layer.id] = lengths.get(step.before, 0) + 1 if step else 1
    last = max(lengths, key=lambda key: lengths[key])
    longest = [last]
    while (step := steps[longest[-1]]) is not None:
        longest.append(step.before)
    longest.reverse()
    links = [step for key in longest[1:] if (step := steps[key]) is not None]
    inputs = tuple(step.added for step in links)
    weight = graph[longest[0]].weight
    if len(longest) < LEAST_STEPS or len(set(inputs)) < len(inputs) or weight is None:
        return None
    others = tuple(key for step in links for key in (*step.sums, step.state))
    return Unrolled(weight, tuple(longest), inputs, others, graph[links[0].state].op)


def _step(graph: LayerGraph, key: str, members: set[str]) -> _Step | None:
    """The product whose activated sum with another tensor a layer multiplies."""
    bend = _source(graph, key)
    if bend is None or graph[bend].op not in (Op.TANH, Op.RELU):
        return None
    current, added = _source(graph, bend), ""
    sums: list[str] = []
    for _ in range(_ADDENDS):
        if current is None or graph[current].op is not Op.ADD:
            break
        sums.append(current)
        operands = [edge.source for edge in graph.inputs(current)]
        behind = [_behind(graph, source) for source in operands]
        if len(operands) == 1:
            current = behind[0]
            continue
        towards = next((i for i, item in enumerate(behind) if item in members), None)
        if towards is None:  # W h + b is a sum as well
            towards = next((i for i, item in enumerate(behind) if graph[item].op is Op.ADD), None)
        if towards is None:
            return None
        added = next(source for index, source in enumerate(operands) if index != towards)
        current = behind[towards]
    if current not in members or not added:
        return None
    return _Step(current, added, bend, tuple(sums))


def _source(graph: LayerGraph, key: str) -> str | None:
    edges = graph.inputs(key)
    return _behind(graph, edges[0].source) if edges else None


def _behind(graph: LayerGraph, key: str) -> str:
    layer = graph[key]
    while layer.op in TRANSPARENT and not layer.params and graph.inputs(layer.id):
        layer = graph[graph.inputs(layer.id)[0].source]
    return layer.id


_STATE_READERS = frozenset({Op.GATHER, Op.SLICE, Op.SPLIT})
"""What takes single steps out of a sequence of states."""

_CELLS = frozenset({Op.RNN, Op.LSTM, Op.GRU})


def reads_all_steps(graph: LayerGraph, layer: Layer) -> bool:
    """True when the states of all steps go on, at the latest from a recurrent layer behind."""
    return _goes_on(graph, [edge.target for edge in graph.outputs(layer.id) if edge.output == 0])


def reads_between(graph: LayerGraph, recurrence: Unrolled) -> bool:
    """The same of a recurrence written out: a state in the middle is read by more than its step."""
    inside = {*recurrence.steps, *recurrence.others}
    readers = (edge.target for key in recurrence.others for edge in graph.outputs(key))
    return _goes_on(graph, [key for key in readers if key not in inside])


def _goes_on(graph: LayerGraph, readers: list[str]) -> bool:
    """True when something reads a sequence of states other than to take single ones."""
    seen: set[str] = set()
    while readers:
        reader = graph[readers.pop()]
        passes = reader.op is Op.CONCAT or (reader.op in TRANSPARENT and not reader.params)
        if reader.op in _STATE_READERS or reader.id in seen:
            continue
        seen.add(reader.id)
        if not passes and reader.op not in _CELLS:
            return True
        after = graph.outputs(reader.id)
        readers.extend(edge.target for edge in after if passes or edge.output == 0)
    return False
