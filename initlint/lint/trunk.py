"""Is what goes wrong on branches made up for by the trunk that they are added to?"""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite, log10

from initlint.lint.rule import Context
from initlint.model.bypass import is_bypassed
from initlint.model.residual import residual_branches

LEVEL = 1.0
"""Decades of gradient between the blocks of a trunk up to which it passes for level: growth of one
decade cost a fifth of the progress at most (benchmark of severity)."""


def is_spared(context: Context, layers: Collection[str]) -> bool:
    """True when a trunk leads around these layers and its measured gradient hardly changes.

    The gradient at a branch's last layer is that of the trunk it is added to.
    """
    graph = context.model.graph
    measured = context.probe.backward if context.probe is not None else {}
    seen = [
        rms
        for branch in residual_branches(graph)
        if branch.last is not None and (rms := measured.get(branch.last)) and isfinite(rms)
    ]
    if len(seen) < 2 or log10(max(seen) / min(seen)) >= LEVEL:
        return False
    return is_bypassed(graph, layers)
