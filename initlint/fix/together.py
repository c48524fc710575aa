"""Weights that are all off by one factor: a mistake made once, and cured at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from initlint.fix.branches import FAR
from initlint.fix.changes import Change
from initlint.fix.cures import SAME
from initlint.fix.lsuv import SCALED
from initlint.fix.plan import Planner
from initlint.fix.schemes import preserving_std
from initlint.fix.slot import WEIGHT_ROLES
from initlint.model import RECURRENT, Layer, Param

MOST = 0.75
"""Share of a network's weights that must be off by one factor: the rest are heads, tables, and
layers that start small on purpose."""


def put_right(planner: Planner, changes: Mapping[str, Change]) -> dict[str, Change]:
    """What findings left of weights that are all off by one factor, to the scale they would have.

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
    factor = math.exp(median(excess for _, _, excess in found))
    rules = tuple(dict.fromkeys(rule for change in changes.values() for rule in change.cures))
    further = {}
    for layer, param, _ in found:
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
    """The weights that most of a network has, where they are off by one factor: its logarithm."""
    held = [
        (layer, param, math.log(std / preserving_std(planner.network.slot(layer, param))))
        for layer, param in planner.network.params()
        if layer.op in SCALED | RECURRENT and param.role in WEIGHT_ROLES
        if (std := planner.measures.effective_std(param))
    ]
    if not held:
        return []
    common = median(excess for _, _, excess in held)
    off = [item for item in held if abs(item[2] - common) < math.log(SAME)]
    far = abs(common) >= math.log(FAR)
    return off if far and len(off) >= MOST * len(held) and len(off) > 1 else []
