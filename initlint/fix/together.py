"""Weights that are all off by one factor, or of one width: a mistake made once, cured at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from initlint.fix.branches import FAR
from initlint.fix.changes import Change
from initlint.fix.cures import SAME
from initlint.fix.lsuv import SCALED
from initlint.fix.network import Network
from initlint.fix.plan import Planner
from initlint.fix.schemes import preserving_std
from initlint.fix.slot import WEIGHT_ROLES
from initlint.fix.textbook import input_std
from initlint.model import RECURRENT, Layer, Param, Role

MOST = 0.75
"""Share of a network's weights that must be off by one factor: the rest are heads, tables, and
layers that start small on purpose."""

ONE_DRAW = 1.25
"""Factor by which standard deviations of one law differ: three times the 7 % of a hundred draws."""


def put_right(planner: Planner, changes: Mapping[str, Change]) -> dict[str, Change]:
    """What findings left of weights that are off by one mistake, to the scale they would have.

    All are off by one factor, or of one standard deviation, N(0, s), whatever their fans.

    A finding names the layers where the harm shows. A normaliser hides it in the others, which are
    then learnt slower, by the square of the factor (their gradient falls with their size, and
    counts relative to it). Of two weights in a product one was changed for both. A ViT ten times
    too wide made 0.76 of its twin's progress after its findings were cured, 1.08 so; a post-norm
    encoder five times too wide 0.89 and 1.00.

    Args:
        planner: of the network as it was loaded.
        changes: what cured the findings.
    """
    found = _off(planner)
    if not any(param.key in changes for _, param, _ in found):
        return {}
    rules = tuple(dict.fromkeys(rule for change in changes.values() for rule in change.cures))
    further = {}
    for layer, param, excess in found:
        factor = math.exp(excess)
        held = changes.get(param.key)
        if held is not None and (held.scheme != "rescale" or _is_near(held, factor)):
            continue
        values = planner.measures.read(param)
        if values is None or not planner.may_change(param):
            continue
        arguments = {"factor": 1 / factor}
        copies = held.copies if held is not None else ()
        further[param.key] = Change(
            layer.id, param, values / factor, "rescale", arguments, rules, copies
        )
    return further


def _is_near(held: Change, factor: float) -> bool:
    """True where a change takes the common factor away, as far as scales are a choice."""
    return abs(math.log(float(held.arguments.get("factor", 1.0)) * factor)) < math.log(FAR)


def _off(planner: Planner) -> list[tuple[Layer, Param, float]]:
    """The weights of one mistake that most of a network has: the logarithm of what is too much."""
    held = [
        (layer, param, std, math.log(std / _wanted(planner.network, layer, param)))
        for layer, param in planner.network.params()
        if layer.op in SCALED | RECURRENT and param.role in WEIGHT_ROLES
        if (std := planner.measures.effective_std(param))
    ]
    if len(held) < 2:
        return []
    common = median(excess for *_, excess in held)
    off = [item for item in held if abs(item[3] - common) < math.log(SAME)]
    if abs(common) >= math.log(FAR) and len(off) >= MOST * len(held):
        return [(layer, param, common) for layer, param, _, _ in off]
    width = median(std for _, _, std, _ in held)
    alike = [item for item in held if abs(math.log(item[2] / width)) < math.log(ONE_DRAW)]
    if len(alike) < MOST * len(held):
        return []
    return [(layer, param, own) for layer, param, _, own in alike if abs(own) >= math.log(FAR)]


def _wanted(network: Network, layer: Layer, param: Param) -> float:
    if layer.op in RECURRENT and param.role is Role.WEIGHT:
        return input_std(network, layer, param)
    return preserving_std(network.slot(layer, param))
