"""Layers whose wrong scale others would make up for when they are scaled by running the network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from initlint.fix.branches import FAR, SIBLING
from initlint.fix.changes import Change
from initlint.fix.lsuv import SCALED
from initlint.fix.plan import Planner
from initlint.fix.schemes import preserving_std
from initlint.fix.slot import WEIGHT_ROLES
from initlint.model import Layer, Param


def to_blame(
    planner: Planner, changes: Mapping[str, Change], layers: Sequence[str]
) -> tuple[str, ...]:
    """Layers before those that were scaled far from the scale that keeps a signal.

    Such a layer makes up for what enters it: unit outputs behind weights a hundred times too small
    or too large, whose gradients are off as much. Before one that became too wide those that are
    far too narrow are to blame; before one that became too narrow those that are too wide, of which
    each may be so by little (a factor of 2.4 in four layers is one of 33).
    """
    found: dict[str, None] = {}
    for wide in (True, False):
        far = {
            layer.id
            for layer, excess in _excesses(planner, changes, layers)
            if (excess if wide else -excess) > math.log(FAR)
        }
        for layer in _before(planner, far):
            weight = layer.weight
            if layer.id in layers or weight is None or not _may_be_scaled(planner, layer, weight):
                continue
            own = _excess(planner, layer, weight, planner.measures.effective_std(weight))
            if own < -math.log(FAR) if wide else own > math.log(SIBLING):
                found[layer.id] = None
    return tuple(found)


def near_their_scale(
    planner: Planner, changes: Mapping[str, Change], layers: Sequence[str]
) -> bool:
    """True when no layer is far from the scale that keeps a signal, as the changes leave it."""
    return all(abs(found) <= math.log(FAR) for _, found in _excesses(planner, changes, layers))


def _may_be_scaled(planner: Planner, layer: Layer, weight: Param) -> bool:
    drawn = weight.trainable and weight.tied_to is None and planner.usable(weight)
    return layer.op in SCALED and drawn and planner.may_change(weight)


def _before(planner: Planner, keys: set[str]) -> Iterator[Layer]:
    """Weighted layers from which others are reached, up to the nearest normalisers."""
    known = set(keys)
    while found := [layer for layer in planner.feeding(known) if layer.id not in known]:
        known.update(layer.id for layer in found)
        yield from found


def _excesses(
    planner: Planner, changes: Mapping[str, Change], layers: Sequence[str]
) -> Iterator[tuple[Layer, float]]:
    for key in layers:
        layer = planner.model.graph[key]
        change = changes.get(layer.weight.key) if layer.weight is not None else None
        if change is not None and change.values.size:
            rms = float(np.sqrt(np.mean(np.square(change.values))))
            yield layer, _excess(planner, layer, change.param, rms)


def _excess(planner: Planner, layer: Layer, weight: Param, std: float | None) -> float:
    """Logarithm of a weight's scale over the one that keeps the signal; 0 where none is known."""
    if not std or not math.isfinite(std) or weight.role not in WEIGHT_ROLES:
        return 0.0
    return math.log(std / preserving_std(planner.network.slot(layer, weight)))
