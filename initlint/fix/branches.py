"""Cures of residual branches: too wide, too many, too faint."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from initlint.fix.lsuv import SCALED
from initlint.fix.plan import Planner, Record
from initlint.fix.schemes import preserving_std
from initlint.fix.slot import WEIGHT_ROLES
from initlint.model import Layer, Param, Role

SIBLING = 1.5
"""Factor by which the scale of equal layers of different blocks may differ: sampling makes it a few
hundredths at any width, a choice that sets a block apart (a zero, 1/sqrt(L)) far more. In a branch
that holds one mistake, what is wider than sampling makes it is part of it."""

FAR = 3.0
"""Factor from the scale that keeps the signal beyond which a scale is a mistake and no choice: the
schemes in use differ by less (He and PyTorch's default by 2.4)."""


def residual_scaling(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """The last layer of each branch, and of equal branches that one batch showed as quiet.

    Branches with a layer that is far too wide by itself are brought to their scale first, with what
    else is too wide in them: no depth makes up for those, and a writer that made up for its readers
    would leave them with its share of the gradient.
    """
    factor = float(arguments.get("factor") or 1 / math.sqrt(max(len(finding["layers"]), 1)))
    named = list(planner.targets(finding, Role.WEIGHT))
    _narrow_branches(planner, finding, {layer.id for layer, _ in named}, factor)
    for layer, param in (*named, *_siblings(planner, named)):
        planner.rescale(finding, layer, param, factor**2 if planner.thorough else factor)


def _narrow_branches(
    planner: Planner, finding: Record, writers: Collection[str], factor: float
) -> None:
    network = planner.network
    for branch in network.residuals:
        if not {*branch.writers} & {*writers}:
            continue
        wide = list(_widths(planner, branch.layers, writers, factor))
        far = any(excess > FAR for _, _, excess in wide)
        for layer, weight, excess in wide if far else ():
            if excess > SIBLING:
                planner.rescale(finding, layer, weight, 1 / excess)


def _widths(
    planner: Planner, keys: Sequence[str], writers: Collection[str], factor: float
) -> Iterator[tuple[Layer, Param, float]]:
    """Weights of a branch, and how many times too wide they are."""
    for key in keys:
        layer = planner.network.graph[key]
        weight = layer.weight
        std = planner.measures.effective_std(weight) if weight is not None else None
        if weight is None or not std or weight.role not in WEIGHT_ROLES or not weight.trainable:
            continue
        if layer.op in SCALED:
            wanted = preserving_std(planner.network.slot(layer, weight))
            yield layer, weight, std / (wanted * (factor if key in writers else 1.0))


def open_branches(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Layers of faint branches to their scale, the last one of each of L to 1/sqrt(L) of it."""
    for layer, param in planner.targets(finding, Role.WEIGHT):
        missing = _missing(planner, layer, param)
        if missing is not None:
            planner.rescale(finding, layer, param, missing)


def open_faint(planner: Planner, finding: Record) -> bool:
    """The same for every layer on a branch that is far below its scale; False without one."""
    network = planner.network
    opened = False
    for key in dict.fromkeys(key for branch in network.residuals for key in branch.layers):
        layer = network.graph[key]
        for param in layer.with_role(Role.WEIGHT):
            missing = _missing(planner, layer, param) if param.tied_to is None else None
            if param.trainable and missing is not None and missing > FAR:
                planner.rescale(finding, layer, param, missing)
                opened = True
    return opened


def _missing(planner: Planner, layer: Layer, param: Param) -> float | None:
    """Factor to the scale of a weight on a branch; None where it has none to be brought to."""
    network = planner.network
    std = planner.measures.effective_std(param)
    if not std or param.role not in WEIGHT_ROLES or layer.op not in SCALED:
        return None
    opening = 1 / math.sqrt(max(len(network.residuals), 1))
    last = any(layer.id in branch.writers for branch in network.residuals)
    return preserving_std(network.slot(layer, param)) * (opening if last else 1.0) / std


def _siblings(
    planner: Planner, named: Sequence[tuple[Layer, Param]]
) -> Iterator[tuple[Layer, Param]]:
    """Last layers of other branches, of the same shape and scale as some of those named."""
    network, known = planner.network, {param.key for _, param in named}
    scales = {param.shape: planner.measures.effective_std(param) for _, param in named}
    for key in dict.fromkeys(key for branch in network.residuals for key in branch.writers):
        param = network.graph[key].weight
        if param is None or param.key in known or not param.trainable or param.tied_to is not None:
            continue
        own, other = planner.measures.effective_std(param), scales.get(param.shape)
        if own and other and abs(math.log(own / other)) < math.log(SIBLING):
            yield network.graph[key], param
