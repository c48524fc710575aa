"""One cause, one finding: consequences of a reported cause are not reported again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

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
    return merge_alike(kept)


def _likeness(finding: Finding) -> tuple[object, ...]:
    """Equal for findings of one rule on the same layers of different blocks, with the same cure."""
    names = (re.sub(r"\d+", "#", key) for key in finding.layers)
    param = re.sub(r"\d+", "#", finding.param or "")
    cure = (finding.fix.scheme, *sorted(finding.fix.arguments.items())) if finding.fix else None
    layers = tuple(dict.fromkeys(names))
    return finding.name, finding.severity, finding.confidence, param, layers, cure


def merge_alike(findings: Sequence[Finding]) -> list[Finding]:
    """One finding for a fault that repeats over blocks, in the place of its first occurrence.

    ``blocks.0.fc`` and ``blocks.7.fc`` are the same layer of different blocks: their names agree
    but for numbers. The first occurrence keeps its message, evidence and identity, and speaks for
    all layers and parameters.
    """
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        groups.setdefault(_likeness(finding), []).append(finding)
    return [_merged(group) for group in groups.values()]


def _merged(group: Sequence[Finding]) -> Finding:
    first, others = group[0], len(group) - 1
    if not others:
        return first
    fixes = [finding.fix for finding in group if finding.fix is not None]
    params = tuple(dict.fromkeys(key for fix in fixes for key in fix.params))
    return replace(
        first,
        message=f"{first.message}; the same in {others} more place{'s' if others > 1 else ''}",
        layers=tuple(dict.fromkeys(key for finding in group for key in finding.layers)),
        culprits=tuple(dict.fromkeys(key for finding in group for key in finding.culprits)),
        evidence={**first.evidence, "places": len(group)},
        fix=replace(fixes[0], params=params) if fixes else None,
    )
