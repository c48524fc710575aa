"""One cause, one finding: consequences of a reported cause are not reported again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from operator import attrgetter

from initlint.lint.finding import Finding, Severity
from initlint.lint.rule import Rule
from initlint.model.graph import Edge, LayerGraph
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


class _Item:
    """A finding on its way through the fold: what never changes about it is worked out once."""

    def __init__(self, finding: Finding, number: int, graph: LayerGraph) -> None:
        self.finding = finding
        self.layers = dict.fromkeys(finding.layers)
        self.shown: list[str] = []
        self.culprits = frozenset(finding.culprits)
        self.alive = True
        self._number = number
        shares = finding.shares or {(key,): 1.0 for key in _sources(finding, graph)}
        least = SCATTER * max(shares.values(), default=0.0)
        counted = {keys: value for keys, value in shares.items() if value > least >= 0.0}
        self._values = tuple(counted.values())
        self._whole = sum(self._values)
        self.entries: dict[str, list[int]] = {}
        for place, keys in enumerate(counted):
            for key in keys:
                self.entries.setdefault(key, []).append(place)

    @property
    def name(self) -> str:
        """Of the rule that found it."""
        return self.finding.name

    @property
    def severity(self) -> Severity:
        """How bad it is by now."""
        return self.finding.severity

    @property
    def place(self) -> tuple[object, ...]:
        """Where it stands among all findings."""
        return (*_order(self.finding), self._number)

    def answered_for(self, causes: Iterable[_Item]) -> float:
        """The part of it that the culprits of causes answer for, from 0 to 1."""
        found: set[int] = set()
        for cause in causes:
            if len(cause.culprits) < len(self.entries):
                shared = [key for key in cause.culprits if key in self.entries]
            else:
                shared = [key for key in self.entries if key in cause.culprits]
            found.update(place for key in shared for place in self.entries[key])
        return sum(self._values[place] for place in sorted(found)) / self._whole if found else 0.0

    def finished(self) -> Finding:
        """The finding, with the layers that its consequences have added."""
        layers = (*self.finding.layers, *self.shown)
        return replace(self.finding, layers=layers) if self.shown else self.finding


class _Fold:
    """The findings of one model, and which of them explain which.

    There may be as many findings as layers, on as many branches of a graph, so each is compared
    only with those that share a layer with it, and what reaches what is asked for all at once.
    """

    def __init__(
        self, findings: Iterable[Finding], rules: Iterable[type[Rule]], graph: LayerGraph
    ) -> None:
        rules = tuple(rules)
        self._folds = {rule.name: frozenset(rule.folds) for rule in rules}
        self._local = frozenset(rule.name for rule in rules if rule.local)
        self._graph = graph
        self._reach: dict[int, frozenset[str]] = {}
        self._eligible: dict[str, dict[Severity, list[_Item]]] = {}
        self._nearest: dict[str, dict[Severity, dict[str, _Item]]] = {}
        ordered = sorted(findings, key=_order)
        self._items = [_Item(finding, number, graph) for number, finding in enumerate(ordered)]
        self._named: dict[str, list[_Item]] = {}
        self._by_culprit: dict[str, list[_Item]] = {}
        self._by_source: dict[str, list[_Item]] = {}
        for item in self._items:
            self._named.setdefault(item.name, []).append(item)
            for key in item.culprits:
                self._by_culprit.setdefault(key, []).append(item)
            for key in item.entries:
                self._by_source.setdefault(key, []).append(item)

    def run(self) -> list[Finding]:
        """The causes, each with the severity of what it leads to."""
        self._drop_milder(self._items)
        waiting = [(item.place, item) for item in self._items]
        heapify(waiting)
        while waiting:
            place, item = heappop(waiting)
            if not item.alive or place != item.place:
                continue
            raised = self._drop_worse(item)  # who is not dropped now never is: causes only go
            for cause in raised:
                heappush(waiting, (cause.place, cause))
            if raised:
                self._drop_milder(self._may_follow(raised))
        kept = sorted((item for item in self._items if item.alive), key=lambda item: item.place)
        return [item.finished() for item in kept]

    def _may_follow(self, raised: Sequence[_Item]) -> list[_Item]:
        """Findings that causes which are worse by now may explain."""
        found = {id(item): item for item in raised}  # named at more layers, so reached by more
        for cause in raised:
            folds = self._folds.get(cause.name, frozenset())
            near = (item for key in cause.culprits for item in self._by_source.get(key, ()))
            found |= {id(item): item for item in near if item.name in folds}
        names = {name for cause in raised for name in self._folds.get(cause.name, frozenset())}
        for name in names - self._local:
            found |= {id(item): item for item in self._named.get(name, ())}
        return sorted((item for item in found.values() if item.alive), key=lambda item: item.place)

    def _may_fold(self, cause: _Item, effect: _Item) -> bool:
        return (
            cause.alive
            and cause is not effect
            and effect.name in self._folds.get(cause.name, frozenset())
        )

    def _touching(self, effect: _Item) -> list[_Item]:
        """What has a culprit at which an effect was made, in order."""
        near = {
            id(cause): cause
            for key in effect.entries
            for cause in self._by_culprit.get(key, ())
            if self._may_fold(cause, effect)
        }
        found = [cause for cause in near.values() if not self._is_behind(effect, cause)]
        return sorted(found, key=lambda item: item.place) if len(found) > 1 else found

    def _is_behind(self, finding: _Item, other: _Item) -> bool:
        """True when weights that one finding is about answer for all of the other."""
        return (
            finding.name in self._local
            and other.name in self._folds.get(finding.name, frozenset())
            and other.answered_for((finding,)) >= MOSTLY
        )

    def _drop_milder(self, items: Sequence[_Item]) -> None:
        """Fold effects into causes that are at least as bad, the mildest first."""
        while items:
            grown: dict[int, _Item] = {}
            for effect in reversed(items):
                cause = self._explaining(effect)
                if cause is not None and self._take_over(cause, effect):
                    grown[id(cause)] = cause  # it may be reached at the layers that are new
            items = sorted((it for it in grown.values() if it.alive), key=lambda item: item.place)

    def _drop_worse(self, effect: _Item) -> list[_Item]:
        """Fold an effect that milder causes answer for: they become as bad as it is.

        Of several causes those of one rule share it: a fault that repeats over blocks.
        """
        causes = self._touching(effect)
        if not causes or effect.answered_for(causes) < MOSTLY:
            return []
        shares = [(effect.answered_for((cause,)), cause) for cause in causes]
        most, cause = max(shares, key=lambda item: item[0])
        raised = [cause]
        for share, other in shares:
            if other is not cause and other.name == cause.name and share >= MOSTLY * most:
                severity = max(effect.severity, other.severity)
                other.finding = replace(other.finding, severity=severity)
                raised.append(other)
        said = cause.finding.message
        self._take_over(cause, effect)
        cause.finding = replace(
            cause.finding,
            severity=max(effect.severity, cause.severity),
            message=f"{said}; {effect.finding.message}",
        )
        self._eligible.clear()
        self._nearest.clear()
        return raised

    def _explaining(self, effect: _Item) -> _Item | None:
        """The cause that an effect is folded into, if they explain it."""
        touching = [item for item in self._touching(effect) if item.severity >= effect.severity]
        if touching and effect.answered_for(touching) >= MOSTLY:
            return max(touching, key=lambda cause: effect.answered_for((cause,)))
        if effect.name in self._local:
            return None
        layers = [key for key in effect.layers if key in self._graph]
        causes = self._at_least_as_bad(effect.name, effect.severity)
        own = effect.name in self._folds.get(effect.name, frozenset())
        if layers and not effect.finding.shares and not own:
            nearest = self._first_to_reach(effect.name, effect.severity)
            found = [nearest[key] for key in layers if key in nearest]
            return min(found, key=lambda item: item.place) if found else None
        known = {key for keys in effect.finding.shares for key in keys}
        for cause in causes:
            if cause is effect or (known and not self._is_free_of(cause, known)):
                continue
            if not layers or self._reaches(cause, layers):
                return cause
        return None

    def _is_free_of(self, cause: _Item, known: set[str]) -> bool:
        """True when a cause is about other layers than those known to make an effect up."""
        return cause.name not in self._local and known.isdisjoint(cause.culprits)

    def _at_least_as_bad(self, name: str, severity: Severity) -> list[_Item]:
        """What may explain a finding of some name and severity, in order."""
        kept = self._eligible.setdefault(name, {})
        if severity not in kept:
            causes = [
                item
                for rule, folds in self._folds.items()
                if name in folds
                for item in self._named.get(rule, ())
                if item.alive and item.severity >= severity
            ]
            kept[severity] = sorted(causes, key=lambda item: item.place)
        return kept[severity]

    def _reaches(self, cause: _Item, layers: Sequence[str]) -> bool:
        """True when one of these layers holds, follows or precedes a culprit of the cause.

        A fault of scale spoils the signal of later layers and the gradient of earlier ones, so any
        layer connected to a culprit by a directed path can show its consequence.
        """
        if id(cause) not in self._reach:
            culprits = [key for key in cause.culprits if key in self._graph]
            connected = self._graph.downstream(culprits) | self._graph.upstream(culprits)
            self._reach[id(cause)] = connected.union(culprits)
        return not self._reach[id(cause)].isdisjoint(layers)

    def _first_to_reach(self, name: str, severity: Severity) -> dict[str, _Item]:
        """For each layer the first finding that may explain one of some name and severity there.

        As `_reaches` says it for one: a walk from each in turn stops where one before it has been.
        """
        kept = self._nearest.setdefault(name, {})
        if severity in kept:
            return kept[severity]
        found: dict[str, _Item] = {}
        graph = self._graph
        after: set[str] = set()
        before: set[str] = set()
        for cause in self._at_least_as_bad(name, severity):
            culprits = [key for key in cause.culprits if key in graph]
            following = _walked(culprits, after, graph.outputs, attrgetter("target"))
            preceding = _walked(culprits, before, graph.inputs, attrgetter("source"))
            for key in (*following, *preceding):
                found.setdefault(key, cause)
        kept[severity] = found
        return found

    def _take_over(self, cause: _Item, effect: _Item) -> bool:
        """Put what was measured of the effect among the cause's evidence, and drop the effect.

        Culprits at which the weights themselves are seen to be odd are named among its layers; true
        when there were any.
        """
        before, said = cause.finding.evidence, effect.finding
        listed = [*before.get("consequences", ())]
        listed += [f"{effect.name}: {said.measured or said.message}"]
        listed += said.evidence.get("consequences", ())
        evidence = {**before, "consequences": list(dict.fromkeys(listed))[:LISTED]}
        cause.finding = replace(cause.finding, evidence=evidence)
        shown = [
            key
            for key in ((*said.layers, *effect.shown) if effect.name in self._local else ())
            if key in cause.culprits and key not in cause.layers
        ]
        cause.shown += shown
        cause.layers.update(dict.fromkeys(shown))
        effect.alive = False
        for name in self._folds.get(effect.name, ()):
            self._eligible.pop(name, None)
            self._nearest.pop(name, None)
        return bool(shown)


def _walked(
    starts: Iterable[str],
    seen: set[str],
    edges: Callable[[str], Iterable[Edge]],
    end: Callable[[Edge], str],
) -> list[str]:
    """What is reached from some layers, themselves included, and was not seen before."""
    found: list[str] = []
    waiting = list(starts)
    while waiting:
        key = waiting.pop()
        if key not in seen:
            seen.add(key)
            found.append(key)
            waiting += map(end, edges(key))
    return found


def _sources(effect: Finding, graph: LayerGraph) -> tuple[str, ...]:
    """The layers at which an effect can have been made: those with weights, if any."""
    weighted = [key for key in effect.culprits if key in graph and graph[key].op in WEIGHTED]
    return tuple(weighted) or effect.culprits


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
    calls: dict[str, list[Finding]] = {}
    for number, finding in enumerate(group):
        calls.setdefault(finding.param or f"{number}", []).append(finding)
    return [_one_of_all(found) for found in calls.values()]


def _one_of_all(calls: Sequence[Finding]) -> Finding:
    """The first of several findings about one parameter, with the culprits of all."""
    if len(calls) == 1:
        return calls[0]
    culprits = tuple(dict.fromkeys(key for finding in calls for key in finding.culprits))
    return replace(calls[0], culprits=culprits)


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
