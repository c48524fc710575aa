"""Masks: numbers that stand for entries left out, and what is computed with them."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from initlint.model.graph import Edge, LayerGraph
from initlint.model.layer import Layer
from initlint.model.op import TRANSPARENT, Op

FORBIDDEN = 1e3
"""Size from which a fixed number in place of an element leaves it out: exp(-1000) is zero in
float64, and no activation is meant to be so large."""

SWALLOWS = 2.0**24
"""Size from which a fixed addend leaves nothing of a float32 of unit size: it has 24 digits. So
start the largest logits so far of an attention that runs along its keys."""

_CHOOSING = frozenset({Op.WHERE, Op.ADD, Op.SUB, Op.CONCAT}) | TRANSPARENT
"""What stands between a mask of large negative numbers and the softmax that it closes keys of: a
key for what attends to nothing is joined, the largest logit is subtracted."""

_LIMITS = {Op.WHERE: FORBIDDEN, Op.ADD: SWALLOWS, Op.SUB: SWALLOWS}

_EXPONENT = _CHOOSING | {Op.MUL, Op.DIV, Op.OTHER}
"""What an exponent is computed by; a product of activations is a logit, and judged as one."""

_EXPONENTIAL = frozenset({Op.SOFTMAX, Op.LOG_SOFTMAX, Op.EXP})
"""What makes zeros of large negative numbers. An exponential is a softmax written in parts."""

_MASK = 3
"""Position of the mask among the operands of attention, behind queries, keys and values."""


def masked(graph: LayerGraph) -> frozenset[str]:
    """Masks, and sums with them: what they mask has been judged before, what they do is after.

    Two things show a mask: a fixed number far beyond any activation in place of entries, and a
    softmax or exponential that reads the sum, or the choice, next.
    """
    return _filled(graph) | _closing(graph) | _exponents(graph)


def _filled(graph: LayerGraph) -> frozenset[str]:
    found: set[str] = set()
    for layer in graph.order:
        passed = layer.op in _CHOOSING and any(e.source in found for e in graph.inputs(layer.id))
        if passed or _fills(layer):
            found.add(layer.id)
    return frozenset(found)


def _fills(layer: Layer) -> bool:
    limit = _LIMITS.get(layer.op)
    fixed = layer.attrs.get("constant")
    if limit is None or fixed is None:
        return False
    return bool(np.max(np.abs(np.asarray(fixed, dtype=np.float64)), initial=0.0) >= limit)


def _exponents(graph: LayerGraph) -> frozenset[str]:
    """What nothing but exponentials read, sums along time among it (the decays of Mamba-2)."""
    found: set[str] = set()
    for layer in reversed(graph.order):
        readers = graph.consumers(layer.id)
        within = all(item.op is Op.EXP or item.id in found for item in readers)
        if layer.op in _EXPONENT and readers and within:
            found.add(layer.id)
    return frozenset(found)


def _closing(graph: LayerGraph) -> frozenset[str]:
    found: set[str] = set()
    for layer in reversed(graph.order):
        after = graph.outputs(layer.id)
        if layer.op in _CHOOSING and after and all(_closes(graph, edge, found) for edge in after):
            found.add(layer.id)
    return frozenset(found)


def _closes(graph: LayerGraph, edge: Edge, masked: Container[str]) -> bool:
    reader = graph[edge.target].op
    if reader is Op.REDUCE:  # the largest logit, which is subtracted
        return all(item.op is Op.SUB for item in graph.consumers(edge.target))
    mask = reader is Op.ATTENTION and edge.position >= _MASK
    return mask or reader in _EXPONENTIAL or edge.target in masked
