"""From findings to the smallest changes of tensors that cure them.

Weights that were drawn and have the wrong scale are rescaled: their draws, and everything trained
on other seeds' statistics of them, stay. Weights that hold no usable draw (zeros, constants,
copies, non-finite numbers, a mean that dominates) are drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from initlint.fix.changes import Change, Untouched, copies_of, stored_names, unwritable
from initlint.fix.network import Drawn, Network
from initlint.fix.schemes import UnknownSchemeError, find
from initlint.fix.textbook import input_std, keeps_all, recurrent, weight
from initlint.measure.measures import Measures
from initlint.measure.result import Family, Stage
from initlint.model import NORMALISERS, WEIGHTED, Layer, Model, Op, Param, Role

Record = Mapping[str, Any]

SAME_SCALE = 0.02
"""Relative change of scale that is not worth a change of weights: the sampling error of the std of
1,250 draws, below every drift that a rule speaks of."""

DROWNING = 4.0
"""Standard deviation of what enters a recurrent unit, for inputs of unit scale, from which the
state no longer counts: half of the units stand beyond ±2.7 there, where a tanh passes 2 % of its
gradient on and a gate a quarter, whatever the recurrent weights are."""

SAME_DRAW = 4.0
"""Standard errors of a sample's standard deviation, 1/sqrt(2n) of it, between draws of one law."""

OFF_CENTRE = 0.1
"""Share of the second moment that the mean may hold. Behind half-linear units the mean part grows
with the fan (n²μ²E[x]² beside nσ²E[x²]); a tenth is far outside the sampling error of any tensor
that is not tiny, and rescaling cannot cure it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a repair will change.

    Attributes:
        changes: new values by parameter.
        scaled: layers that are to be scaled by running the network (LSUV) afterwards.
        untouched: findings and parameters that stay as they are, with the reason.
    """

    changes: tuple[Change, ...] = ()
    scaled: tuple[str, ...] = ()
    untouched: tuple[Untouched, ...] = ()


@dataclass(slots=True)
class Planner:
    """Plans for one model.

    Attributes:
        model: what was linted.
        measures: its measurements.
        seed: of the draws.
        include_trained: also change trained weights.
        thorough: draw again where the first attempt rescaled, and finish by running the network.
        steps: length of the sequences that recurrent layers see, where known.
    """

    model: Model
    measures: Measures
    seed: int = 0
    include_trained: bool = False
    thorough: bool = False
    steps: int | None = None
    _changes: dict[str, Change] = field(default_factory=dict)
    _scaled: dict[str, None] = field(default_factory=dict)
    _untouched: dict[str, Untouched] = field(default_factory=dict)
    _network: Network | None = None
    _stored: frozenset[str] | None = None

    def _names(self) -> frozenset[str]:
        """Of the tensors that can be replaced."""
        if self._stored is None:
            self._stored = stored_names(self.model)
        return self._stored

    @property
    def network(self) -> Network:
        """The graph with what schemes ask of it."""
        if self._network is None:
            self._network = Network.of(self.model.graph, self.seed, self.steps)
        return self._network

    def plan(self, findings: Sequence[Record]) -> Plan:
        """The changes that cure these findings (objects of the JSON report), worst first."""
        for finding in findings:
            self._cure(finding)
        return Plan(
            tuple(self._changes.values()), tuple(self._scaled), tuple(self._untouched.values())
        )

    def impose(self, drawn: Sequence[Any], name: str) -> Plan:
        """The changes that put every parameter of the network under one scheme."""
        for item in drawn:
            if not self._holds(item) and self.may_change(item.param):
                self.add(item.layer, item.param, item.values, item.scheme, item.arguments, name)
        return Plan(tuple(self._changes.values()), (), tuple(self._untouched.values()))

    def _holds(self, drawn: Any) -> bool:
        """True where a parameter has these values already."""
        values = self.measures.read(drawn.param)
        return values is not None and bool(np.array_equal(values, drawn.values))

    def _cure(self, finding: Record) -> None:
        from initlint.fix.cures import CURES, drawn_as

        fix = finding.get("fix")
        rule = str(finding["name"])
        if not fix:
            self._leave(f"{rule} at {finding['layer']}", "the rule knows no cure")
            return
        scheme = str(fix["scheme"])
        cure = CURES.get(scheme)
        if cure is None:
            try:
                find(scheme)
            except UnknownSchemeError:
                advice = str(fix.get("code") or "it cannot be repaired by changing weights")
                self._leave(f"{rule} at {finding['layer']}", advice)
                return
            cure = drawn_as(scheme)
        before = len(self._changes) + len(self._scaled)
        known = len(self._untouched)
        cure(self, finding, dict(fix.get("arguments") or {}))
        if len(self._changes) + len(self._scaled) == before and len(self._untouched) == known:
            covered = any(rule in change.cures for change in self._changes.values())
            if not covered:
                self._leave(f"{rule} at {finding['layer']}", "no change of weights was found")

    def _leave(self, name: str, reason: str) -> None:
        self._untouched.setdefault(name, Untouched(name, reason))

    def may_change(self, param: Param) -> bool:
        """True for a parameter that can be and may be changed; else the reason is kept."""
        reason = unwritable(self.model, param, self._names)
        if reason is None and not self.include_trained:
            reason = self._trained(param)
        if reason is not None:
            self._leave(param.key, reason)
        return reason is None

    def _trained(self, param: Param) -> str | None:
        """Why a parameter may hold something learned; None for one that was just drawn."""
        if self.measures.model_stage is Stage.TRAINED:
            return "the model is trained (--include-trained changes it all the same)"
        stage = self.measures.stage(param)
        if stage is Stage.TRAINED and not self._drawn_with_others(param):
            return "it is trained (--include-trained changes it all the same)"
        if self.measures.model_stage is Stage.MIXED and stage is not Stage.FRESH:
            family = self.measures.identify(param).family
            if family not in (Family.ZEROS, Family.CONSTANT, Family.ONES):
                return "parts of the model are trained, and this may be one of them"
        return None

    def _drawn_with_others(self, param: Param) -> bool:
        """True for a tensor that looks trained by chance: a fresh one has its scale.

        One in a thousand draws fails a test of its family. Training would have changed its scale,
        or the other as well.
        """
        if self.measures.model_stage is not Stage.FRESH:
            return False
        return any(
            other.key != param.key
            and self.measures.stage(other) is Stage.FRESH
            and self._is_of_one_draw(param, other)
            for _, other in self.model.graph.params
        )

    def _is_of_one_draw(self, param: Param, other: Param) -> bool:
        own, std = self.measures.effective_std(param), self.measures.effective_std(other)
        if not own or not std or other.role is not param.role:
            return False
        return abs(own / std - 1) < SAME_DRAW / math.sqrt(2 * param.size)

    def overlooked(self, named: Sequence[tuple[Layer, Param]]) -> Iterator[tuple[Layer, Param]]:
        """Weights of the scale of named ones that no rule speaks of, for they look trained."""
        known = {param.key for _, param in named}
        for layer in self.model.graph.weighted:
            param = layer.weight
            if param is None or param.key in known or not param.trainable:
                continue
            if self.measures.stage(param) is not Stage.TRAINED:
                continue
            if any(self._is_of_one_draw(param, other) for _, other in named):
                known.add(param.key)
                yield from self._owner(layer, param)

    def add(
        self,
        layer: Layer,
        param: Param,
        values: Any,
        scheme: str,
        arguments: Mapping[str, Any],
        rule: str,
    ) -> None:
        """Keep new values of a parameter; the first that asked for it decides them."""
        held = self._changes.get(param.key)
        if held is None:
            copies = copies_of(self.model, param)
            change = Change(layer.id, param, values, scheme, arguments, (rule,), copies)
            self._changes[param.key] = change
        elif rule not in held.cures:  # the worst finding decides, and the change serves both
            self._changes[param.key] = replace(held, cures=(*held.cures, rule))

    def targets(self, finding: Record, *roles: Role) -> Iterator[tuple[Layer, Param]]:
        """The parameters a fix names, else those of the finding's layers or of what feeds them."""
        wanted = set((finding.get("fix") or {}).get("params") or ())
        graph = self.model.graph
        if wanted:
            for layer, param in graph.params:
                if {param.key, param.name} & wanted:
                    yield from self._owner(layer, param)
            return
        for key in finding["layers"]:
            for layer in self.weighted(key):
                for param in layer.with_role(*roles):
                    if param.trainable:
                        yield from self._owner(layer, param)

    def _owner(self, layer: Layer, param: Param) -> Iterator[tuple[Layer, Param]]:
        """Where a parameter is stored: a tied one is changed through the layer that owns it."""
        if param.tied_to is None:
            yield layer, param
            return
        for other, owner in self.model.graph.params:
            if owner.tied_to is None and param.tied_to in (owner.key, owner.name):
                yield other, owner
                return

    def weighted(self, key: str) -> tuple[Layer, ...]:
        """The weighted layer of a key, or those that feed it."""
        graph = self.model.graph
        if key not in graph:
            return ()
        if graph[key].op in WEIGHTED:
            return (graph[key],)
        return tuple(layer for layer in graph.effective_producers(key) if layer.op in WEIGHTED)

    def normalisers(self, key: str) -> tuple[Layer, ...]:
        """Normalisers that feed a layer directly, or the layer itself."""
        graph = self.model.graph
        if key not in graph:
            return ()
        near = (graph[key], *graph.effective_producers(key))
        return tuple(layer for layer in near if layer.op in NORMALISERS)

    def feeding(self, keys: Collection[str]) -> tuple[Layer, ...]:
        """Weighted layers outside a set whose outputs enter it through no other weighted layer."""
        graph = self.model.graph
        found: dict[str, Layer] = {}
        seen: set[str] = set()
        waiting = [key for key in keys if key in graph]
        while waiting:
            for edge in graph.inputs(waiting.pop()):
                source = graph[edge.source]
                if source.id in seen or source.id in keys:
                    continue
                seen.add(source.id)
                if source.op in WEIGHTED:
                    found[source.id] = source
                elif source.op not in NORMALISERS:
                    waiting.append(source.id)
        return tuple(found.values())

    def usable(self, param: Param) -> bool:
        """True for a draw worth keeping: finite, centred, spread, and without copied units."""
        moments = self.measures.moments(param)
        if moments is None or moments.non_finite or moments.std <= 0:
            return False
        centre_noise = 5 * moments.std / math.sqrt(moments.count)
        if abs(moments.mean) > centre_noise and (
            moments.mean**2 > OFF_CENTRE * moments.second_moment
        ):
            return False
        return not self.measures.duplicates(param)

    def scale_later(self, layer: Layer) -> None:
        """Have a layer scaled by running the network, after the changes."""
        self._scaled[layer.id] = None

    def rescale(
        self, finding: Record, layer: Layer, param: Param, factor: float, to: str = ""
    ) -> None:
        """Multiply a parameter, to bring it to the scale of the scheme ``to`` if one is named."""
        values = self.measures.read(param)
        if values is None or abs(math.log(factor)) < SAME_SCALE or not self.may_change(param):
            return
        arguments = {"factor": factor, **({"to": to} if to else {})}
        self.add(layer, param, values * factor, "rescale", arguments, str(finding["name"]))

    def draw(
        self, finding: Record, layer: Layer, param: Param, scheme: str, **arguments: Any
    ) -> None:
        """Draw a parameter again."""
        if not self.may_change(param):
            return
        if scheme == "orthogonal" and param.role is Role.RECURRENT_WEIGHT:
            drawn = recurrent(self.network, layer, param)
        else:
            drawn = self.network.draw(scheme, layer, param, **arguments)
        self.keep(finding, drawn)
        if param.role is Role.RECURRENT_WEIGHT:
            self.calm(finding, layer)
            if drawn.scheme == "identity":
                self._unbiased(finding, layer)

    def _unbiased(self, finding: Record, layer: Layer) -> None:
        """Biases beside an identity to zero: it sums them over all steps (Le et al. 2015)."""
        for param in layer.with_role(Role.BIAS, Role.RECURRENT_BIAS):
            moments = self.measures.moments(param) if param.trainable else None
            if moments is not None and moments.max_abs > 0:
                self.draw(finding, layer, param, "zeros")

    def calm(self, finding: Record, layer: Layer, most: float = DROWNING) -> None:
        """Input weights of a recurrent layer that drown its state, or fill it before the end."""
        for param in layer.with_role(Role.WEIGHT):
            std = self.measures.effective_std(param) if param.trainable else None
            wanted = input_std(self.network, layer, param)
            if std and std > (1.0 if keeps_all(layer) else most) * wanted:
                self.rescale(finding, layer, param, wanted / std)

    def keep(self, finding: Record, drawn: Drawn) -> None:
        """Take values that were drawn elsewhere."""
        if self.may_change(drawn.param):
            rule = str(finding["name"])
            self.add(drawn.layer, drawn.param, drawn.values, drawn.scheme, drawn.arguments, rule)

    def redraw(self, finding: Record, layer: Layer, param: Param) -> None:
        """Draw a weight again for the place where it stands."""
        deep = self.network.deep_gain(layer, param)
        if layer.op is Op.EMBEDDING:
            self.keep(finding, weight(self.network, layer, param))
        elif deep is None:
            self.draw(finding, layer, param, "scale_preserving")
        else:
            self.draw(finding, layer, param, "orthogonal", gain=deep)
