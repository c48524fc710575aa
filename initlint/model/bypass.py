"""Is there a way around some layers: beside a branch, or beside a gate?"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from initlint.model.graph import LayerGraph
from initlint.model.op import WEIGHTED, Op
from initlint.model.residual import residual_branches

GATE_LAYERS = 32
"""Layers that a gate is made of at most: squeeze-excite has six, an attention map about ten. What
is deeper is a network of its own, and so many per product keep the search linear."""


def is_bypassed(graph: LayerGraph, layers: Collection[str]) -> bool:
    """True when a trunk that trains leads every input around these layers.

    All of them lie on residual branches; without these branches each input still reaches an output,
    through weights that are trained before the first branch and behind the last. What such layers
    fail to do costs their capacity, not the training of the rest: an identity is added to nothing.
    False for adapters in a frozen network, whose branches are all that trains, and for latents that
    read the input through a branch alone.
    """
    affected = [
        branch
        for branch in residual_branches(graph)
        if not branch.projection and any(key in layers for key in branch.branch)
    ]
    removed = {key for branch in affected for key in branch.branch}
    for layer in reversed(graph.order):  # what is made for these branches alone
        readers = graph.outputs(layer.id)
        if layer.op is not Op.INPUT and readers and all(e.target in removed for e in readers):
            removed.add(layer.id)
    if not affected or not removed.issuperset(layers):
        return False
    inputs = [layer.id for layer in graph if layer.op is Op.INPUT]
    around = {key: _reached(graph, [key], removed) for key in inputs}
    if not inputs or not all(_has_output(graph, found) for found in around.values()):
        return False
    trunk = set().union(*around.values())
    trained = {key for key in trunk if _trains(graph, key)}
    before = {affected[0].trunk, *graph.upstream([affected[0].trunk])}
    after = graph.downstream([affected[-1].add])
    return bool(trained & before) and bool(trained & after)


def gate_layers(graph: LayerGraph) -> frozenset[str]:
    """Layers whose only use is to make a gate for what they read (squeeze-excite, attention maps).

    The gated signal goes around them as it is; their own gradient passes an average and the slope
    of a squashing function, and says nothing of the signal's.
    """
    found: set[str] = set()
    for layer in graph:
        if layer.op is Op.MUL and len(edges := graph.inputs(layer.id)) == 2:
            for plain, gate in (edges, edges[::-1]):
                found |= _between(graph, plain.source, gate.source)
    return frozenset(found)


def _between(graph: LayerGraph, start: str, end: str) -> set[str]:
    """What lies between two layers, the last included; empty unless all stems from the first."""
    found: set[str] = set()
    waiting = [end]
    while waiting:
        key = waiting.pop()
        if key == start or key in found:
            continue
        inside = graph.position[key] >= graph.position[start] and graph.inputs(key)
        if not inside or len(found) == GATE_LAYERS:
            return set()
        found.add(key)
        waiting.extend(edge.source for edge in graph.inputs(key))
    return found


def _reached(graph: LayerGraph, starts: Iterable[str], removed: Collection[str]) -> set[str]:
    found = set(starts)
    waiting = list(found)
    while waiting:
        for edge in graph.outputs(waiting.pop()):
            if edge.target not in found and edge.target not in removed:
                found.add(edge.target)
                waiting.append(edge.target)
    return found


def _has_output(graph: LayerGraph, keys: Iterable[str]) -> bool:
    return any(graph[key].op is Op.OUTPUT for key in keys)


def _trains(graph: LayerGraph, key: str) -> bool:
    layer = graph[key]
    return layer.op in WEIGHTED and any(param.trainable for param in layer.params)
