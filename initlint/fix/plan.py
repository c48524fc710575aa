"""From findings to the smallest changes of tensors that cure them.

Weights that were drawn and have the wrong scale are rescaled: their draws, and everything trained
on other seeds' statistics of them, stay. Weights that hold no usable draw (zeros, constants,
copies, non-finite numbers, a mean that dominates) are drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from initlint.fix.changes import Change, Untouched, unwritable
from initlint.fix.lsuv import SCALED
from initlint.fix.network import Network
from initlint.fix.schemes import SCHEMES, UnknownSchemeError, default_value, find, preserving_std
from initlint.fix.slot import WEIGHT_ROLES, Slot
from initlint.fix.textbook import SHORT, recurrent, sine_frequencies
from initlint.measure.measures import Measures
from initlint.measure.result import Family, Stage
from initlint.model import NORMALISERS, WEIGHTED, Layer, Model, Op, Param, Role

Record = Mapping[str, Any]

SAME_SCALE = 0.02
"""Relative change of scale that is not worth a change of weights: the sampling error of the std of
1,250 draws, below every drift that a rule speaks of."""

SINE_BAND = 1.5
"""Factor by which the first layer of a network of sines may differ from U(±1/fan_in) (Sitzmann et
al. 2020). Over two coordinates a framework's ±1/√fan_in is 1.4 times as wide and trained like the
paper's; 1.7 times too narrow and 6 times too wide did not (benchmarks/outcome: siren)."""

HUGE_TABLE = 3.0
"""Standard deviation of an embedding's elements that no framework or paper starts from: N(0, 1) is
the largest (torch.nn.Embedding). What such a table would have to keep up with is at fault."""

DROWNING = 4.0
"""Standard deviation of what enters a recurrent unit, for inputs of unit scale, from which the
state no longer counts: half of the units stand beyond ±2.7 there, where a tanh passes 2 % of its
gradient on and a gate a quarter, whatever the recurrent weights are."""

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
    """

    model: Model
    measures: Measures
    seed: int = 0
    include_trained: bool = False
    thorough: bool = False
    _changes: dict[str, Change] = field(default_factory=dict)
    _scaled: dict[str, None] = field(default_factory=dict)
    _untouched: dict[str, Untouched] = field(default_factory=dict)
    _network: Network | None = None

    @property
    def network(self) -> Network:
        """The graph with what schemes ask of it."""
        if self._network is None:
            self._network = Network.of(self.model.graph, self.seed)
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
            if self._may_change(item.param):
                self._add(item.layer, item.param, item.values, item.scheme, item.arguments, name)
        return Plan(tuple(self._changes.values()), (), tuple(self._untouched.values()))

    def _cure(self, finding: Record) -> None:
        fix = finding.get("fix")
        rule = str(finding["name"])
        if not fix:
            self._leave(f"{rule} at {finding['layer']}", "the rule knows no cure")
            return
        scheme = str(fix["scheme"])
        cure = _CURES.get(scheme)
        if cure is None:
            try:
                find(scheme)
            except UnknownSchemeError:
                advice = str(fix.get("code") or "it cannot be repaired by changing weights")
                self._leave(f"{rule} at {finding['layer']}", advice)
                return
            cure = _drawn_as(scheme)
        before = len(self._changes) + len(self._scaled)
        known = len(self._untouched)
        cure(self, finding, dict(fix.get("arguments") or {}))
        if len(self._changes) + len(self._scaled) == before and len(self._untouched) == known:
            covered = any(rule in change.cures for change in self._changes.values())
            if not covered:
                self._leave(f"{rule} at {finding['layer']}", "no change of weights was found")

    def _leave(self, name: str, reason: str) -> None:
        self._untouched.setdefault(name, Untouched(name, reason))

    def _may_change(self, param: Param) -> bool:
        reason = unwritable(self.model, param)
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
        if stage is Stage.TRAINED:
            return "it is trained (--include-trained changes it all the same)"
        if self.measures.model_stage is Stage.MIXED and stage is not Stage.FRESH:
            family = self.measures.identify(param).family
            if family not in (Family.ZEROS, Family.CONSTANT, Family.ONES):
                return "parts of the model are trained, and this may be one of them"
        return None

    def _add(
        self,
        layer: Layer,
        param: Param,
        values: Any,
        scheme: str,
        arguments: Mapping[str, Any],
        rule: str,
    ) -> None:
        held = self._changes.get(param.key)
        if held is not None:  # the worst finding decides, and the change serves both
            cures = (*held.cures, rule) if rule not in held.cures else held.cures
            values, scheme, arguments = held.values, held.scheme, held.arguments
        else:
            cures = (rule,)
        self._changes[param.key] = Change(layer.id, param, values, scheme, arguments, cures)

    def _targets(self, finding: Record, *roles: Role) -> Iterator[tuple[Layer, Param]]:
        """The parameters a fix names, else those of the finding's layers or of what feeds them."""
        wanted = set((finding.get("fix") or {}).get("params") or ())
        graph = self.model.graph
        if wanted:
            for layer, param in graph.params:
                if {param.key, param.name} & wanted:
                    yield from self._owner(layer, param)
            return
        for key in finding["layers"]:
            for layer in self._weighted(key):
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

    def _weighted(self, key: str) -> tuple[Layer, ...]:
        graph = self.model.graph
        if key not in graph:
            return ()
        if graph[key].op in WEIGHTED:
            return (graph[key],)
        return tuple(layer for layer in graph.effective_producers(key) if layer.op in WEIGHTED)

    def _normalisers(self, key: str) -> tuple[Layer, ...]:
        """Normalisers that feed a layer directly, or the layer itself."""
        graph = self.model.graph
        if key not in graph:
            return ()
        near = (graph[key], *graph.effective_producers(key))
        return tuple(layer for layer in near if layer.op in NORMALISERS)

    def _feeding(self, keys: Collection[str]) -> tuple[Layer, ...]:
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

    def rescale(
        self, finding: Record, layer: Layer, param: Param, factor: float, to: str = ""
    ) -> None:
        """Multiply a parameter, to bring it to the scale of the scheme ``to`` if one is named."""
        values = self.measures.read(param)
        if values is None or abs(math.log(factor)) < SAME_SCALE or not self._may_change(param):
            return
        arguments = {"factor": factor, **({"to": to} if to else {})}
        self._add(layer, param, values * factor, "rescale", arguments, str(finding["name"]))

    def draw(
        self, finding: Record, layer: Layer, param: Param, scheme: str, **arguments: Any
    ) -> None:
        """Draw a parameter again."""
        if not self._may_change(param):
            return
        if scheme == "orthogonal" and param.role is Role.RECURRENT_WEIGHT:
            drawn = recurrent(self.network, layer, param)
        else:
            drawn = self.network.draw(scheme, layer, param, **arguments)
        arguments, rule = dict(drawn.arguments), str(finding["name"])
        self._add(layer, param, drawn.values, drawn.scheme, arguments, rule)
        if param.role is Role.RECURRENT_WEIGHT:
            self._calm(finding, layer)

    def _calm(self, finding: Record, layer: Layer) -> None:
        """Input weights of a recurrent layer that drown its state, to unit pre-activations."""
        for param in layer.with_role(Role.WEIGHT):
            std = self.measures.effective_std(param) if param.trainable else None
            wanted = 1 / math.sqrt(self.network.slot(layer, param).fan_in)
            if std and std > DROWNING * wanted:
                self.rescale(finding, layer, param, wanted / std)

    def redraw(self, finding: Record, layer: Layer, param: Param) -> None:
        """Draw a weight again for the place where it stands."""
        deep = self.network.deep_gain(layer, param)
        if deep is None:
            self.draw(finding, layer, param, "scale_preserving")
        else:
            self.draw(finding, layer, param, "orthogonal", gain=deep)


Cure = Callable[[Planner, Record, dict[str, Any]], None]


def _to_std(
    planner: Planner, finding: Record, layer: Layer, param: Param, scheme: str, **more: Any
) -> None:
    """Bring a weight to the standard deviation of a scheme: rescaled if drawn, else drawn.

    In a deep plain stack it becomes orthogonal: rescaled draws would scatter as before.
    """
    deep = planner.network.deep_gain(layer, param)
    if deep is not None:
        planner.draw(finding, layer, param, "orthogonal", gain=deep)
        for bias in layer.with_role(Role.BIAS):
            if bias.trainable and (planner.measures.effective_std(bias) or 0.0) > 0:
                planner.draw(finding, layer, bias, "zeros")
        return
    slot = planner.network.slot(layer, param)
    if planner.usable(param) and not planner.thorough:
        rms = planner.measures.effective_std(param)
        assert rms
        std = _std(slot, scheme, more)
        planner.rescale(finding, layer, param, std / rms, _family(slot, scheme, std))
    else:
        planner.draw(finding, layer, param, scheme, **more)


def _std(slot: Slot, scheme: str, arguments: Mapping[str, Any]) -> float:
    gain = arguments.get("gain", SCHEMES[scheme].arguments.get("gain"))
    if scheme == "scale_preserving":
        return preserving_std(slot, gain)
    fan = str(arguments.get("fan", SCHEMES[scheme].arguments["fan"]))
    return float(gain) / math.sqrt(slot.fan(fan))


def _family(slot: Slot, scheme: str, std: float) -> str:
    """What the scale is known as; the shape of the draws stays, so the law is not named."""
    if scheme.startswith(("he_", "xavier_", "lecun_")):
        return scheme.partition("_")[0]
    if scheme == "scale_preserving" and slot.fan_in:
        for name, power in (("he", 2.0), ("lecun", 1.0)):
            if math.isclose(std * std * slot.fan_in, power, rel_tol=1e-6):
                return name
    return scheme


def _preserving(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Scale-preserving weights; orthogonal in a deep stack of saturating units.

    There the Gaussian law's singular values, between 0 and 2, spread the gradient over decades
    within thirty layers, at whatever gain (Pennington, Schoenholz, Ganguli 2017): see `_to_std`.
    """
    for layer, param in planner._targets(finding, *WEIGHT_ROLES):
        if param.role not in WEIGHT_ROLES:
            planner.draw(finding, layer, param, "constant", value=default_value(param.role))
        elif param.role is Role.RECURRENT_WEIGHT:
            planner.draw(finding, layer, param, "orthogonal", gain=1.0)
        else:
            _to_std(planner, finding, layer, param, "scale_preserving")
    _finish_by_running(planner, finding)


def _finish_by_running(planner: Planner, finding: Record) -> None:
    if planner.thorough:
        for layer, param in planner._targets(finding, *WEIGHT_ROLES):
            if planner._may_change(param):
                planner._scaled[layer.id] = None


def _drawn_as(scheme: str) -> Cure:
    """The cure of a fix that names a tensor scheme."""
    name = find(scheme).name
    scalable = name.startswith(("he_", "xavier_", "lecun_"))

    def cure(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
        known = {key: arguments[key] for key in arguments if key in SCHEMES[name].arguments}
        for layer, param in planner._targets(finding, *WEIGHT_ROLES):
            if scalable:
                _to_std(planner, finding, layer, param, name, **known)
            else:
                planner.draw(finding, layer, param, name, **known)
        if scalable:
            _finish_by_running(planner, finding)

    return cure


def _residual_scaling(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    factor = float(arguments.get("factor") or 1 / math.sqrt(max(len(finding["layers"]), 1)))
    for layer, param in planner._targets(finding, Role.WEIGHT):
        planner.rescale(finding, layer, param, factor**2 if planner.thorough else factor)


def _copies(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Draw all but the first of each group of equal units, at the scale of the others."""
    for layer, param in planner._targets(finding, *WEIGHT_ROLES):
        values = planner.measures.read(param)
        if values is None or param.role not in WEIGHT_ROLES or not planner._may_change(param):
            continue
        rows = values.reshape(values.shape[0], -1)
        _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        copied = np.flatnonzero(first[group.reshape(-1)] != np.arange(len(rows)))
        if not copied.size or 2 * copied.size >= len(rows):  # little is left that was drawn
            planner.redraw(finding, layer, param)
            continue
        drawn = planner.network.draw("scale_preserving", layer, param).values
        scale = _spread(rows[np.sort(first)])
        wanted = preserving_std(planner.network.slot(layer, param))
        changed = np.array(values, dtype=np.float64)
        changed[copied] = drawn[copied] * ((scale or wanted) / wanted)
        arguments = {"rows": int(copied.size)}
        planner._add(layer, param, changed, "redraw_duplicates", arguments, str(finding["name"]))


def _spread(rows: np.ndarray[Any, Any]) -> float:
    """Standard deviation within the rows that stay; 0 for constants, which tell no scale."""
    return float(np.sqrt(np.mean(np.var(rows, axis=1)))) if rows.shape[1] > 1 else 0.0


def _zeros(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Biases to zero; where they are, weights whose mean holds the units down are drawn again."""
    for layer, param in planner._targets(finding, Role.BIAS, Role.RECURRENT_BIAS):
        moments = planner.measures.moments(param)
        if moments is not None and moments.max_abs > 0:
            planner.draw(finding, layer, param, "zeros")
    for key in finding["layers"]:
        for norm in planner._normalisers(key):
            for param in norm.with_role(Role.SHIFT):
                moments = planner.measures.moments(param)
                if param.trainable and moments is not None and moments.max_abs > 0:
                    planner.draw(finding, norm, param, "zeros")
        for layer in planner._weighted(key):
            weight = layer.weight
            if weight is not None and (planner.thorough or not planner.usable(weight)):
                planner.redraw(finding, layer, weight)


def _rescale(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """By the factor given, else to the scale that the activation behind wants."""
    factor = arguments.get("factor")
    if factor is None and planner.thorough:
        _preserving(planner, finding, arguments)
        return
    for layer, param in planner._targets(finding, *WEIGHT_ROLES):
        if factor is not None and layer.op is Op.EMBEDDING:
            _table(planner, finding, layer, param, float(factor))
        elif factor is not None:
            planner.rescale(finding, layer, param, float(factor))
        elif param.role in WEIGHT_ROLES:
            _to_std(planner, finding, layer, param, "scale_preserving")
    if factor is not None:
        _first_of_sines(planner, finding)


def _table(planner: Planner, finding: Record, layer: Layer, param: Param, factor: float) -> None:
    """A table rescaled; where its scale is a usual one, the residual branches that drown it."""
    std = planner.measures.effective_std(param) or 0.0
    if factor < 1 or std * factor < HUGE_TABLE:
        planner.rescale(finding, layer, param, factor)
        return
    network = planner.network
    count = max(len(network.residuals), 1)
    for key in dict.fromkeys(key for branch in network.residuals for key in branch.writers):
        writer = network.graph[key]
        weight = writer.weight
        if weight is None or weight.role not in WEIGHT_ROLES or writer.op is Op.EMBEDDING:
            continue
        wanted = preserving_std(network.slot(writer, weight)) / math.sqrt(count)
        if (planner.measures.effective_std(weight) or 0.0) > HUGE_TABLE * wanted:
            _to_std(planner, finding, writer, weight, "scale_preserving")


def _first_of_sines(planner: Planner, finding: Record) -> None:
    """The layer before the first sine, where the sines behind it were off as well.

    Its scale is the band of frequencies that the network starts with, and a choice; beside hidden
    layers that were rescaled it is part of the same mistake.
    """
    sines = sine_frequencies(planner.network)
    if not any(key in sines and not sines[key][1] for key in finding["layers"]):
        return
    for key, (_, first) in sines.items():
        layer = planner.model.graph[key]
        weight = layer.weight
        std = planner.measures.effective_std(weight) if weight is not None and first else None
        if weight is None or not std:
            continue
        factor = 1 / (math.sqrt(3) * planner.network.slot(layer, weight).fan_in * std)
        if abs(math.log(factor)) > math.log(SINE_BAND):
            planner.rescale(finding, layer, weight, factor, "siren_first")


def _lsuv(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Layers scaled by running the network, with those that feed them.

    A profile is told relative to the layer that it starts from. Left as it is, that layer would
    keep a scale that the next one then makes up for with weights far too small, or too large.
    """
    named = list(planner._targets(finding, Role.WEIGHT))
    known = {layer.id for layer, _ in named}
    before = [layer for layer in planner._feeding(known) if layer.op in SCALED]
    first = [(layer, layer.weight) for layer in before if layer.weight is not None]
    for layer, param in (*first, *named):
        if not param.trainable or param.tied_to is not None or not planner._may_change(param):
            continue
        if planner.thorough or not planner.usable(param):
            planner.redraw(finding, layer, param)
        planner._scaled[layer.id] = None


def _reinitialise(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Weights drawn, everything else at the value it starts from."""
    for layer, param in planner._targets(finding, *WEIGHT_ROLES):
        if param.role is Role.RECURRENT_WEIGHT:
            planner.draw(finding, layer, param, "orthogonal", gain=1.0)
        elif param.role in WEIGHT_ROLES:
            planner.redraw(finding, layer, param)
        else:
            value = default_value(param.role)
            planner.draw(finding, layer, param, "constant", value=value)


def _memory(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """The biases of gated cells: spread over the time scales of a sequence of known length.

    One value for every unit, where the length is only assumed.
    """
    evidence = finding.get("evidence") or {}
    steps = int(evidence.get("steps") or 0) if evidence.get("steps_known") else 0
    value = float(arguments.get("value", 1.0))
    for key in finding["layers"]:
        for layer in planner._weighted(key):
            for param in layer.with_role(Role.BIAS, Role.RECURRENT_BIAS):
                if not param.trainable:
                    continue
                if steps > SHORT:
                    planner.draw(finding, layer, param, "chrono", steps=steps)
                    continue
                keeps = param.gate in ("forget", "update") and param.role is Role.BIAS
                planner.draw(finding, layer, param, "constant", value=value if keeps else 0.0)


_CURES: dict[str, Cure] = {
    "scale_preserving": _preserving,
    "residual_scaling": _residual_scaling,
    "redraw_duplicates": _copies,
    "zeros": _zeros,
    "rescale": _rescale,
    "lsuv": _lsuv,
    "reinitialise": _reinitialise,
    "redraw": _reinitialise,
    "ones": _reinitialise,
    "forget_bias": _memory,
    "forget_gate_bias": _memory,
}
"""How each kind of fix that rules name is planned; other names are tensor schemes."""
