"""Is what goes wrong on branches made up for by the trunk that they are added to?"""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite, log10, prod, sqrt

from initlint.lint.finding import Severity
from initlint.lint.rule import Context
from initlint.model.bypass import is_bypassed
from initlint.model.residual import residual_branches
from initlint.theory.harm import VANISHING

LEVEL = 1.0
"""Decades of gradient between the blocks of a trunk up to which it passes for level: growth of one
decade cost a fifth of the progress at most (benchmark of severity)."""


def on_branches(
    context: Context, layers: Collection[str], decades: float, severity: Severity
) -> Severity:
    """The severity of a signal that changes by ``decades`` over these layers.

    A branch that starts small leaves the rest to train, and grows with it: an info, down to where
    a plain chain would not train at all.
    """
    if VANISHING[-1] < decades < 0 and severity > Severity.INFO and is_spared(context, layers):
        return Severity.INFO
    return severity


def is_spared(context: Context, layers: Collection[str]) -> bool:
    """True when a trunk leads around these layers and its measured gradient hardly changes.

    It is compared at the sums that lie on no other branch, and as a norm: a stage of fewer
    positions has larger elements.
    """
    graph = context.model.graph
    measured = context.probe.backward if context.probe is not None else {}
    if not measured:
        return False
    branches = residual_branches(graph)
    inner = {key for branch in branches for key in branch.branch}
    seen = [
        rms * sqrt(units)
        for branch in branches
        if branch.add not in inner
        and (rms := measured.get(branch.add))
        and isfinite(rms)
        and (units := prod(side or 1 for side in (graph[branch.add].output_shape or ())[1:]))
    ]
    if len(seen) < 2 or log10(max(seen) / min(seen)) >= LEVEL:
        return False
    return is_bypassed(graph, layers)
