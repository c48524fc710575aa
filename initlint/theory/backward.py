"""The backward pass of theory: the mean square of the gradient at every layer's output."""

from __future__ import annotations

import math
from collections.abc import Collection

from initlint.model.graph import Edge, LayerGraph, derived
from initlint.model.layer import Layer
from initlint.model.op import RECURRENT, Op
from initlint.theory.forward import ForwardPass
from initlint.theory.node import Node
from initlint.theory.operators import RULES
from initlint.theory.operators.recurrent import steps_of
from initlint.theory.state import ABSENT, Gradient, collect


def final_outputs(graph: LayerGraph) -> tuple[str, ...]:
    """The outputs that end the network, not states handed out on the way.

    An output whose producer is also read by other layers (a cache of keys and values, the last
    state of a recurrent layer whose sequence goes on) is no end. When all are such, all count.
    """
    outputs = [layer.id for layer in graph.order if layer.op is Op.OUTPUT]
    final = []
    for key in outputs:
        producers = graph.effective_producers(key)
        readers = {
            reader.op for producer in producers for reader in graph.effective_consumers(producer.id)
        }
        if readers <= {Op.OUTPUT}:
            final.append(key)
    return tuple(final or outputs)


def backward_pass(
    forward: ForwardPass, seeds: Collection[str], *, through_zero: Collection[str] = ()
) -> dict[str, Gradient | None]:
    """Carry a unit-variance gradient from the given outputs to the inputs.

    Args:
        forward: the forward pass.
        seeds: ids of `Op.OUTPUT` layers that receive a gradient of unit variance.
        through_zero: layers taken to pass the gradient on unchanged (a head of zeros, which
            passes nothing until it has moved).

    Returns:
        Gradient at each layer's output, None where unknown; layers that no gradient reaches are
        absent.
    """
    arriving: dict[str, list[Gradient | None]] = {}
    found: dict[str, Gradient | None] = {}
    ends = frozenset(seeds)
    for node in reversed(forward.nodes):
        key = node.layer.id
        gradients = arriving.pop(key, [])
        if key in ends:
            gradients = [*gradients, Gradient(0.0)]
        if not gradients:
            continue
        known = [gradient for gradient in gradients if gradient is not None]
        total = collect(known) if len(known) == len(gradients) else None
        found[key] = total
        graph = node.context.graph
        for edge, gradient in zip(
            node.edges, _inputs(node, total, key in through_zero), strict=True
        ):
            if gradient is not None:
                if gradient.log_g == -math.inf and not node.layer.params:
                    continue
                if edge.output or graph[edge.source].op is Op.SPLIT:
                    gradient = gradient.scaled(_share(node, edge))
            arriving.setdefault(edge.source, []).append(gradient)
    return found


def _share(node: Node, edge: Edge) -> float:
    """Ln of the part of a producer's elements that one of its several outputs is."""
    layer = node.context.graph[edge.source]
    if layer.op is Op.SPLIT:
        return -math.log(split_parts(node.context.graph, layer))
    if layer.op in RECURRENT and edge.output > 0:
        # the last state only, of as many as the sequence has steps
        return -math.log(max(steps_of(layer, node.context.sequence_length), 1))
    return 0.0


def split_parts(graph: LayerGraph, layer: Layer) -> int:
    """Number of outputs of a split, read or not."""
    parts = layer.attrs.get("parts")
    if isinstance(parts, int) and parts > 0:
        return parts
    return _read_outputs(graph).get(layer.id, 1)


@derived
def _read_outputs(graph: LayerGraph) -> dict[str, int]:
    """Outputs of each split up to the last that is read."""
    return {
        layer.id: 1 + max((edge.output for edge in graph.outputs(layer.id)), default=0)
        for layer in graph
        if layer.op is Op.SPLIT
    }


def _inputs(
    node: Node,
    gradient: Gradient | None,
    unchanged: bool,
) -> list[Gradient | None]:
    """Gradient at each input; an input without signal gets none."""
    rule = RULES.get(node.layer.op)
    if gradient is None or rule is None or not node.signals:
        passed: list[Gradient | None] = [None] * len(node.edges)
    elif unchanged:
        passed = [Gradient(gradient.log_g)] * len(node.edges)
    else:
        passed = list(rule.backward(node, gradient))
    for index, state in enumerate(node.states):
        if state is not None and state.side:
            passed[index] = ABSENT
    return passed
