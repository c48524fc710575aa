"""One cause, one finding: consequences of a reported cause are not reported again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from initlint.lint.finding import Finding
from initlint.lint.rule import Rule
from initlint.model.graph import LayerGraph


def _explains(cause: Finding, effect: Finding, graph: LayerGraph) -> bool:
    """True when the effect's layers hold, follow or precede a culprit of the cause.

    A fault of scale spoils the signal of later layers and the gradient of earlier ones, so any
    layer connected to a culprit by a directed path can show its consequence.
    """
    culprits = {key for key in cause.culprits if key in graph}
    affected = {key for key in effect.layers if key in graph}
    if culprits & affected or not affected:
        return True
    return bool(graph.downstream(culprits) & affected or graph.upstream(culprits) & affected)


def fold(
    findings: Sequence[Finding], rules: Iterable[type[Rule]], graph: LayerGraph
) -> list[Finding]:
    """Drop findings that a cause of equal or higher severity explains; worst first.

    The order is total and independent of the order of rules: severity, code, layer, parameter.
    Of two findings that explain each other the first in this order stays.
    """
    folds = {rule.name: frozenset(rule.folds) for rule in rules}
    kept = sorted(
        findings,
        key=lambda finding: (
            -finding.severity.rank,
            finding.code,
            finding.layer,
            finding.param or "",
            finding.message,
        ),
    )
    for effect in reversed(tuple(kept)):
        if any(
            effect.name in folds.get(cause.name, frozenset())
            and cause.severity >= effect.severity
            and _explains(cause, effect, graph)
            for cause in kept
            if cause is not effect
        ):
            kept.remove(effect)
    return kept
