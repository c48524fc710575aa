"""The gain of a deep stack of equal layers: neither signal nor gradient leaves its scale."""

from __future__ import annotations

from functools import lru_cache
from math import exp, log, sqrt

from initlint.model import SATURATING, LayerGraph, Op
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
