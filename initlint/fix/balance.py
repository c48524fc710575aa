"""The gain of a deep stack of equal layers: neither signal nor gradient leaves its scale."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import exp, log, sqrt

from initlint.model import NORMALISERS, SATURATING, Layer, LayerGraph, Op
from initlint.model.structure import heads
from initlint.theory.activations import activation, moments

DEEP = 12
"""Saturating layers in a row from which Gaussian weights are replaced by orthogonal ones. At the
gain that keeps q = 1 a tanh multiplies the squared gradient by χ = 1.18 a layer: one decade of
gradient rms needs 28 layers, and the singular values of a product of n Gaussian matrices spread as
exp(√n): a decade of condition needs about 5 layers, two decades 21. Half-way in decades is 12."""


def saturating_depth(graph: LayerGraph) -> int:
    """The longest run of saturating activations without a normaliser between them."""
    depth: dict[str, int] = {}
    best = 0
    for layer in graph.order:
        before = max((depth.get(edge.source, 0) for edge in graph.inputs(layer.id)), default=0)
        if layer.op.value.endswith("_norm"):
            before = 0
        depth[layer.id] = before + (layer.op in SATURATING)
        best = max(best, depth[layer.id])
    return best


CROWDED = 0.1
"""Sum of 1/width over the layers of a plain stack from which Gaussian draws scatter too much: the
variance of the squared signal and gradient from draw to draw grows as exp(c Σ 1/n), c between 1 and
5 (Hanin 2018, Hanin & Nica 2019). At 0.1 that is up to 65 %; thirty layers of 64 units have 0.47
and differ by a factor of ten from seed to seed. Orthogonal weights do not scatter."""

_PLAIN = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE})


def deep_plain_layers(graph: LayerGraph) -> frozenset[str]:
    """Layers of stacks at least `DEEP` layers long, without normalisers or sums, and `CROWDED`."""
    ends = frozenset(layer.id for layer in heads(graph))
    before = _runs(graph, graph.order, ends, backwards=False)
    behind = _runs(graph, graph.order[::-1], ends, backwards=True)
    found = set()
    for layer in graph:
        weight = layer.weight
        if layer.op not in _PLAIN or weight is None or layer.id in ends:
            continue
        depth = before[layer.id][0] + behind[layer.id][0] - 1
        crowding = before[layer.id][1] + behind[layer.id][1] - 1 / max(weight.shape[0], 1)
        if depth >= DEEP and crowding >= CROWDED:
            found.add(layer.id)
    return frozenset(found)


def _runs(
    graph: LayerGraph, order: Sequence[Layer], ends: frozenset[str], *, backwards: bool
) -> dict[str, tuple[int, float]]:
    """For each layer, the hidden plain layers up to and with it, and the sum of their 1/width."""
    found: dict[str, tuple[int, float]] = {}
    for layer in order:
        edges = graph.outputs(layer.id) if backwards else graph.inputs(layer.id)
        near = (edge.target if backwards else edge.source for edge in edges)
        count, crowding = max((found.get(key, (0, 0.0)) for key in near), default=(0, 0.0))
        weight = layer.weight
        if layer.op in NORMALISERS or (layer.op is Op.ADD and len(graph.inputs(layer.id)) > 1):
            count, crowding = 0, 0.0
        elif layer.op in _PLAIN and weight is not None and layer.id not in ends:
            count, crowding = count + 1, crowding + 1 / max(weight.shape[0], 1)
        found[layer.id] = count, crowding
    return found


@lru_cache(maxsize=64)
def balanced_gain(op: Op, depth: int) -> float:
    """The gain of ``depth`` layers with this activation that costs least in decades.

    Iterates q ← g² E[φ(√q z)²] and χ = g² E[φ'²] from q = g² and takes the g whose larger drift,
    forward or backward, is smallest. For a tanh that is 1.44 at 10 layers and 1.31
    at 30, falling towards the edge of chaos at 1.
    """
    function = activation(op)
    if function is None:
        return 1.0
    gains = [exp(index / 60) for index in range(-6, 43)]
    return min(gains, key=lambda gain: _drift(op, gain, depth))


def _drift(op: Op, gain: float, depth: int) -> float:
    function = activation(op)
    assert function is not None
    log_q = 2 * log(gain)
    backward = 0.0
    for _ in range(depth):
        found = moments(function, log_q)
        if found is None:
            return float("inf")
        log_q = 2 * log(gain) + found.log_second
        backward += 2 * log(gain) + found.log_derivative
    return max(abs(log_q), abs(backward)) / sqrt(depth)
