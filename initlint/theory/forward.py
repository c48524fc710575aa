"""The forward pass of theory: a `State` per layer, in topological order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from initlint.model.graph import Edge
from initlint.model.op import NORMALISERS, Op
from initlint.theory.node import Context, Node
from initlint.theory.operators import RULES
from initlint.theory.operators.normalise import reset
from initlint.theory.state import SIDE, State

KNOWN_WITHOUT_INPUT = frozenset({Op.INPUT, Op.CONSTANT, Op.SHAPE, Op.COMPARE, Op.EMBEDDING})
"""Operators whose output does not need a known signal at their input."""

TOLERANT = frozenset({Op.ADD, Op.SUB})
"""Operators that may still be known when one input is not (a mask in front of a softmax)."""


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What the forward pass found.

    Attributes:
        nodes: every layer with what arrives at it, in topological order.
        states: the state of each layer's first output; None where unknown.
        ended_at: layers whose inputs were known and whose output is not.
    """

    nodes: tuple[Node, ...]
    states: Mapping[str, State | None]
    ended_at: tuple[str, ...]


def _arriving(edge: Edge, states: Mapping[str, State | None]) -> State | None:
    """The state on an edge: the part of a packed tensor that this output of a split is."""
    state = states.get(edge.source)
    if edge.output > 0 and state is not None and edge.output < len(state.blocks):
        return replace(state, log_q=state.blocks[edge.output])
    return state


def _output(node: Node) -> State | None:
    op = node.layer.op
    rule = RULES.get(op)
    if op in KNOWN_WITHOUT_INPUT:
        return rule.forward(node) if rule else None
    if node.edges and not node.signals:
        return (
            SIDE
            if all(s is not None and s.samples < 1 for s in node.states)
            else replace(SIDE, samples=1.0)
        )
    if op in NORMALISERS and node.first is None:
        return reset(node)
    if not node.edges:
        return _from_nothing(node)
    if rule is None:
        return None
    if op not in TOLERANT and [state for state in node.states if state is None]:
        first = node.signals[0] if node.signals else 0
        if node.states[first] is None or len(node.signals) == len(node.edges):
            return None
    return rule.forward(node)


def _from_nothing(node: Node) -> State | None:
    """A layer that reads parameters alone, or indices that the loader computed."""
    if node.layer.params:
        return RULES[Op.CONSTANT].forward(node)
    readers = node.context.graph.effective_consumers(node.layer.id)
    if readers and all(reader.op in (Op.EMBEDDING, Op.COMPARE) for reader in readers):
        return replace(SIDE, samples=1.0)
    return None


def _split_blocks(node: Node, state: State) -> State:
    """Keep a packed projection's parts only until a split with as many outputs takes them."""
    x = node.first
    if x is None or not x.blocks or node.layer.op is not Op.SPLIT:
        return state
    outputs = {edge.output for edge in node.context.graph.outputs(node.layer.id)}
    if len(outputs) == len(x.blocks):
        return replace(state, log_q=x.blocks[0], blocks=x.blocks)
    return replace(state, blocks=())


def forward_pass(context: Context) -> ForwardPass:
    """Follow the signal from the inputs through every layer whose operator has a rule.

    Where an operator has no rule the prediction ends, and starts again behind the next
    normaliser, which fixes the scale whatever comes in.
    """
    graph = context.graph
    states: dict[str, State | None] = {}
    nodes, ended = [], []
    for layer in graph.order:
        edges = graph.inputs(layer.id)
        arriving = tuple([_arriving(edge, states) for edge in edges])
        node = Node(layer, edges, arriving, context)
        state = _output(node)
        if state is not None and state.blocks:
            state = _split_blocks(node, state)
        elif state is None and all(item is not None for item in arriving):
            ended.append(layer.id)
        states[layer.id] = state
        nodes.append(node)
    return ForwardPass(tuple(nodes), states, tuple(ended))
