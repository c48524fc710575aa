"""Where the signal of each layer comes from: the input that carries most of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from initlint.model.op import WEIGHTED, Op
from initlint.model.unrolled import unrolled_recurrences
from initlint.theory.forward import ForwardPass
from initlint.theory.node import Node
from initlint.theory.state import State

BOUNDED_GATES = frozenset({Op.SIGMOID, Op.HARD_SIGMOID, Op.SOFTMAX})
"""Operators whose output weights another operand: the signal runs through the other one."""


@dataclass(slots=True)
class Flow:
    """Per layer: the input that carries most of its signal, and the last weighted layer behind.

    The steps of recurrences written out are ``recurrent``: what holds for one layer that is used
    again and again does not compound like layers of their own.
    """

    nodes: Mapping[str, Node]
    states: Mapping[str, State | None]
    recurrent: frozenset[str]
    carrier: dict[str, str] = field(default_factory=dict)
    weighted: dict[str, str] = field(default_factory=dict)


def _carrier(node: Node) -> int | None:
    """Index of the input that carries most of the signal."""
    signals = node.signals
    op = node.layer.op
    if not signals:
        return None
    if op is Op.ATTENTION:
        return 2 if len(node.edges) > 2 else None
    if op is Op.MATMUL:
        left = node.states[0]
        return 1 if left is not None and left.peak is not None and len(node.edges) > 1 else 0
    if len(signals) == 1:
        return signals[0]
    graph = node.context.graph
    if op is Op.MUL:
        open_ = [i for i in signals if graph[node.edges[i].source].op not in BOUNDED_GATES]
        return (open_ or list(signals))[0]
    if op in (Op.ADD, Op.SUB, Op.CONCAT):

        def strength(index: int) -> float:
            state = node.states[index]
            return state.log_q if state is not None else -math.inf

        return max(signals, key=strength)
    return signals[0]


def _restored(node: Node) -> str | None:
    """Source of y in ``x + (y - x)``, a straight-through estimator: the value is y alone."""
    graph = node.context.graph
    if node.layer.op is not Op.ADD or len(node.edges) != 2:
        return None
    for kept, taken in (node.edges, node.edges[::-1]):
        key = taken.source
        while graph[key].op is Op.IDENTITY and graph.inputs(key):
            key = graph.inputs(key)[0].source
        operands = graph.inputs(key)
        if graph[key].op is Op.SUB and len(operands) == 2 and operands[1].source == kept.source:
            return operands[0].source
    return None


def silent_heads(flow: Flow, outputs: Collection[str]) -> frozenset[str]:
    """Last weighted layers before the outputs whose output is exactly zero."""
    heads = {flow.weighted[output] for output in outputs if output in flow.weighted}
    return frozenset(
        head for head in heads if flow.states[head] is not None and is_silent(flow.states[head])
    )


def flow_of(forward: ForwardPass) -> Flow:
    """Where the signal of each layer comes from; made once for all questions below."""
    nodes = {node.layer.id: node for node in forward.nodes}
    found = unrolled_recurrences(forward.nodes[0].context.graph) if forward.nodes else ()
    recurrent = frozenset(key for recurrence in found for key in recurrence.steps)
    flow = Flow(nodes, forward.states, recurrent)
    for node in forward.nodes:
        index = _carrier(node)
        key = node.layer.id
        if index is not None:
            source = _restored(node) or node.edges[index].source
            flow.carrier[key] = source
            if source in flow.weighted:
                flow.weighted[key] = flow.weighted[source]
        if node.layer.op in WEIGHTED:
            flow.weighted[key] = key
    return flow


def is_silent(state: State | None) -> bool:
    """True for a tensor of zeros, and for one that is not known."""
    return state is None or state.log_q == -math.inf
