"""One cause, one finding: consequences of a reported cause are not reported again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from initlint.lint.finding import Finding
from initlint.lint.rule import Rule
from initlint.model.graph import LayerGraph
from initlint.model.op import WEIGHTED

MOSTLY = 0.7
"""Share of an effect that its causes must answer for to be all there is to say of it; the rest is
scatter of the draws. Below it something else is wrong as well, and both are said."""

SCATTER = 0.2
"""Part of the largest share below which others are not counted: draws scatter, and many layers'
scatter would add up to something."""

CALL = re.compile(r"#\d+$")
"""What the name of a layer ends in that is a further call of a module, or of a function."""

LISTED = 5
"""Consequences that a finding's evidence lists."""


class _Fold:
    """The findings of one model, and which of them explain which."""

    def __init__(
        self, findings: Iterable[Finding], rules: Iterable[type[Rule]], graph: LayerGraph
    ) -> None:
        rules = tuple(rules)
        self._folds = {rule.name: frozenset(rule.folds) for rule in rules}
        self._local = frozenset(rule.name for rule in rules if rule.local)
        self._graph = graph
        self._reach: dict[tuple[str, ...], frozenset[str]] = {}
        self.kept = sorted(findings, key=_order)

    def run(self) -> list[Finding]:
        """The causes, each with the severity of what it leads to."""
        while self._drop_milder() or self._drop_worse():
            self.kept.sort(key=_order)
        return self.kept

    def _causes(self, effect: Finding) -> list[Finding]:
        return [
            cause
            for cause in self.kept
            if cause is not effect
            and effect.name in self._folds.get(cause.name, frozenset())
            and not self._is_behind(effect, cause)
        ]

    def _is_behind(self, finding: Finding, other: Finding) -> bool:
        """True when weights that one finding is about answer for all of the other."""
        return (
            finding.name in self._local
            and other.name in self._folds.get(finding.name, frozenset())
            and self._share(other, (finding,)) >= MOSTLY
        )

    def _drop_milder(self) -> bool:
        """Fold effects into causes that are at least as bad, the mildest first."""
        before = len(self.kept)
        for number in reversed(range(before)):
            effect = self.kept[number]
            causes = [item for item in self._causes(effect) if item.severity >= effect.severity]
            cause = self._explaining(effect, causes)
            if cause is not None:
                self._replace(cause, self._with_consequence(cause, effect))
                del self.kept[number]
        return len(self.kept) < before

    def _drop_worse(self) -> bool:
        """Fold the worst effect that milder causes answer for: they become as bad as it is.

        Of several causes those of one rule share it: a fault that repeats over blocks.
        """
        for number, effect in enumerate(self.kept):
            causes = self._causes(effect)
            shares = [(self._share(effect, (cause,)), cause) for cause in causes]
            if not shares or self._share(effect, causes) < MOSTLY:
                continue
            most, cause = max(shares, key=lambda item: item[0])
            for share, other in shares:
                if other is not cause and other.name == cause.name and share >= MOSTLY * most:
                    severity = max(effect.severity, other.severity)
                    self._replace(other, replace(other, severity=severity))
            raised = replace(
                self._with_consequence(cause, effect),
                severity=max(effect.severity, cause.severity),
                message=f"{cause.message}; {effect.message}",
            )
            self._replace(cause, raised)
            del self.kept[number]
            return True
        return False

    def _explaining(self, effect: Finding, causes: Sequence[Finding]) -> Finding | None:
        """The cause that an effect is folded into, if they explain it."""
        if not causes:
            return None
        if self._share(effect, causes) >= MOSTLY:
            return max(causes, key=lambda cause: self._share(effect, (cause,)))
        if effect.name in self._local:
            return None
        if effect.shares:  # it is known which weights make it up, so others are no cause of it
            known = {key for keys in effect.shares for key in keys}
            causes = [
                cause
                for cause in causes
                if cause.name not in self._local and not known & set(cause.culprits)
            ]
        return next((cause for cause in causes if self._reaches(cause, effect)), None)

    def _share(self, effect: Finding, causes: Sequence[Finding]) -> float:
        """The part of an effect that the culprits of causes answer for, from 0 to 1."""
        shares = effect.shares or {(key,): 1.0 for key in self._sources(effect)}
        culprits = {key for cause in causes for key in cause.culprits}
        least = SCATTER * max(shares.values(), default=0.0)
        counted = {keys: value for keys, value in shares.items() if value > least >= 0.0}
        part = sum(value for keys, value in counted.items() if culprits & set(keys))
        return part / sum(counted.values()) if counted else 0.0

    def _sources(self, effect: Finding) -> tuple[str, ...]:
        """The layers at which an effect can have been made: those with weights, if any."""
        weighted = [
            k for k in effect.culprits if k in self._graph and self._graph[k].op in WEIGHTED
        ]
        return tuple(weighted) or effect.culprits

    def _reaches(self, cause: Finding, effect: Finding) -> bool:
        """True when the effect's layers hold, follow or precede a culprit of the cause.

        A fault of scale spoils the signal of later layers and the gradient of earlier ones, so any
        layer connected to a culprit by a directed path can show its consequence.
        """
        culprits = tuple(key for key in cause.culprits if key in self._graph)
        affected = {key for key in effect.layers if key in self._graph}
        if not affected:
            return True
        if culprits not in self._reach:
            connected = self._graph.downstream(culprits) | self._graph.upstream(culprits)
            self._reach[culprits] = connected | set(culprits)
        return bool(self._reach[culprits] & affected)

    def _with_consequence(self, cause: Finding, effect: Finding) -> Finding:
        """The cause, with what was measured of the effect among its evidence.

        Culprits at which the weights themselves are seen to be odd are named among its layers.
        """
        listed = [*cause.evidence.get("consequences", ())]
        listed += [f"{effect.name}: {effect.measured or effect.message}"]
        listed += effect.evidence.get("consequences", ())
        shown = [
            key
            for key in effect.layers
            if effect.name in self._local and key in cause.culprits and key not in cause.layers
        ]
        return replace(
            cause,
            evidence={**cause.evidence, "consequences": list(dict.fromkeys(listed))[:LISTED]},
            layers=(*cause.layers, *shown),
        )

    def _replace(self, old: Finding, new: Finding) -> None:
        self.kept[next(n for n, item in enumerate(self.kept) if item is old)] = new


def _order(finding: Finding) -> tuple[object, ...]:
    """Total and independent of the order of rules: severity, code, layer, parameter."""
    return (
        -finding.severity.rank,
        finding.code,
        finding.layer,
        finding.param or "",
        finding.message,
    )


def fold(
    findings: Sequence[Finding], rules: Iterable[type[Rule]], graph: LayerGraph
) -> list[Finding]:
    """Drop findings that others explain; worst first.

    A cause takes over what its rule `folds`, where the effect is no worse and lies on a path with
    the cause. A milder cause takes over a worse effect only where its layers answer for most of
    it, and then has the effect's severity and numbers. Of two findings that explain each other the
    first stays in the order of severity, code, layer and parameter.
    """
    return merge_alike(_Fold(findings, rules, graph).run())


def _likeness(finding: Finding) -> tuple[object, ...]:
    """Equal for findings of one rule on the same layers of different blocks, with the same cure."""
    names = (re.sub(r"\d+", "#", CALL.sub("", key)) for key in finding.layers)
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


def _one_per_parameter(group: Sequence[Finding]) -> Sequence[Finding]:
    """Without those about further calls of one module, which its parameter tells."""
    kept: dict[str, Finding] = {}
    for number, finding in enumerate(group):
        first = kept.setdefault(finding.param or f"{number}", finding)
        if first is not finding:
            both = tuple(dict.fromkeys((*first.culprits, *finding.culprits)))
            kept[finding.param or f"{number}"] = replace(first, culprits=both)
    return list(kept.values())


def _merged(group: Sequence[Finding]) -> Finding:
    group = _one_per_parameter(group)
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
