"""The search for a cure: the smallest changes first, the textbook for the whole network last."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from initlint import engine
from initlint.fix.changes import Change, Untouched, applied, copies_of, merged
from initlint.fix.lsuv import SCALED, Scaled, scale
from initlint.fix.plan import Plan, Planner
from initlint.fix.recipes import impose
from initlint.fix.slot import gain_of, written_gain
from initlint.fix.together import put_right
from initlint.fix.upstream import near_their_scale, to_blame
from initlint.measure.result import Stage
from initlint.model import RELU_FAMILY, Layer, LayerGraph, Model, Param, Role
from initlint.probe.result import Activations, ProbeStatus
from initlint.risk import without_findings
from initlint.settings import Settings

Record = dict[str, Any]

SMALL_ROUNDS = 3
"""Rounds that change as little as may be: a scale that is cured lets the next fault show itself
(a head too wide behind a trunk that overflowed), and chains of three have been seen."""

THOROUGH_ROUNDS = 2
"""Rounds that draw again what was rescaled and scale layers by running the network."""

RISKY = 0.5
"""Predicted probability of harm from which a network is treated although no finding names its
fault, and above which a repair is not called good: harm is likelier than not."""

RISE = 0.1
"""Predicted probability of harm by which a network without warnings or errors may get worse while
infos are treated: healthy draws of one network differ by less."""

RANKS = {"info": 0, "warning": 1, "error": 2}


@dataclass(frozen=True, slots=True)
class FixOptions:
    """What a repair is told.

    Attributes:
        scheme: scheme to impose on the whole network; None: cure the findings.
        seed: of the draws.
        include_trained: also change trained weights.
        only: fingerprints of the findings to cure; None: all of them.
    """

    scheme: str | None = None
    seed: int = 0
    include_trained: bool = False
    only: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Changes that were tried, and what linter and run say of the network with them.

    Attributes:
        changes: by parameter key.
        record: the target object of the JSON report.
        seen: what running the network measured.
    """

    changes: Mapping[str, Change]
    record: Record
    seen: Activations

    @property
    def risk(self) -> float:
        """The predicted probability of harm beside what findings name; 0 where there is none."""
        return unnamed_risk(self.record)

    @property
    def weight(self) -> tuple[int, int, float, int]:
        """Errors, warnings, risk where it is high, and infos: smaller is better.

        A high risk counts as an error: both say that training will not work.
        """
        counts, risk = self.record["summary"], self.risk
        return (
            counts.get("error", 0) + (risk >= RISKY),
            counts.get("warning", 0),
            round(risk, 2) if risk >= RISKY else 0.0,
            counts.get("info", 0),
        )

    @property
    def sound(self) -> bool:
        """True without warnings, errors, or a high risk."""
        return not any(self.weight[:3])


def unnamed_risk(record: Mapping[str, Any]) -> float:
    """The risk of a lint that none of its findings explains, 0 where there is none.

    What is to be cured is named; only a risk beside that asks for more.
    """
    risk, counts = record.get("risk"), record["summary"]
    if risk is None:
        return 0.0
    return without_findings(float(risk), counts.get("error", 0), counts.get("warning", 0))


def wanted(record: Mapping[str, Any], only: Collection[str] | None) -> list[Record]:
    """The findings to cure, worst first."""
    found = [item for item in record["findings"] if only is None or item["fingerprint"] in only]
    return sorted(found, key=lambda item: -RANKS[item["severity"]])


@dataclass(slots=True)
class Search:
    """The search for changes that cure one model's findings.

    Attributes:
        model: as it was loaded; it is left as it was.
        settings: of the linter.
        options: of the repair.
        best: the best state so far.
        untouched, notes: what stays as it is and why; what happened on the way.
    """

    model: Model
    settings: Settings
    options: FixOptions
    best: State
    untouched: dict[str, Untouched] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _start: State | None = None

    def run(self) -> State:
        """Smallest changes, thorough ones, then the whole network, until the linter is content."""
        self._start = self.best
        self._rounds(SMALL_ROUNDS, thorough=False)
        if not self.best.sound:
            self._level()
        if not self.best.sound and self._findings(self.best, serious=True):
            self._rounds(THOROUGH_ROUNDS, thorough=True)
        if not self.best.sound and self._whole_is_meant():
            self._whole()
        if self.best.sound:
            self._level()
        if self.best.sound and not self._start.sound:
            self._follow()
        risen = self._start.sound and self.best.risk > self._start.risk + RISE
        if risen and not self._only_remembers():
            self.notes.append(
                f"treating infos alone raised the risk to {self.best.risk:.2f}: not kept"
            )
            self.best = self._start
        changed = {change.param.key for change in self.best.changes.values()}
        left = {f"{item['name']} at {item['layer']}" for item in self.best.record["findings"]}
        for name in tuple(self.untouched):
            if name in changed or (" at " in name and name not in left):
                del self.untouched[name]
        return self.best

    def _only_remembers(self) -> bool:
        """True where nothing was treated but memories, and harm is not likelier than not.

        A cell that keeps its state is moved by small changes of its weights over all steps, which
        the risk counts. Of cells that have to recall a symbol of 40 steps, those with forget biases
        of 1 made 0.4 of what those with biases of 3 make, at a predicted risk of 0.15 and 0.21.
        """
        treated = self._findings(self._start, serious=False) if self._start else []
        return bool(treated) and all(map(_is_memory, treated)) and self.best.risk < RISKY

    def _rounds(self, count: int, *, thorough: bool) -> None:
        """Rounds of planning and trying; goes on from what cured its findings and showed others.

        Infos that come into view behind warnings are not followed, those behind infos are.
        """
        state = self.best
        grave = bool(self._findings(state, serious=True))
        for attempt in range(count):
            findings = self._findings(state, serious=thorough or (grave and attempt > 0))
            if not findings:
                return
            found = self._attempt(state, findings, thorough=thorough)
            if found is None:
                return
            findings, plan, tried = found
            if tried.weight < self.best.weight:
                self.best = state = tried
            elif _cures(findings, tried):
                state = tried
            else:
                self.notes.append(_useless(plan, thorough=thorough))
                return

    def _level(self) -> None:
        """The rest of weights that are all off by one factor, where that does no harm.

        What that shows anew (logits that were narrowed for their weights' sake, behind inputs too
        wide) is cured where it stands.
        """
        if not self.best.changes or self._start is None:
            return
        further = put_right(self._planner(self.model, thorough=False), self.best.changes)
        if not further:
            return
        tried = self._try({**self.best.changes, **further}, ())
        if not tried.sound and (findings := self._findings(tried, serious=True)):
            found = self._attempt(tried, findings, thorough=False)
            tried = tried if found is None else found[2]
        before = min(self.best.risk, self._start.risk) if self._start.sound else self.best.risk
        if not self.best.sound:
            self.best = min(self.best, tried, key=lambda state: state.weight)
        elif tried.sound and tried.risk < before + RISE:
            self.best = tried

    def _follow(self) -> None:
        """The infos that what was cured leaves behind, where treating them lowers the risk.

        Memories are opened in any case: a cell that was drawn anew has no time scale of its own.
        """
        findings = self._findings(self.best, serious=False)
        forgets = [item for item in findings if _is_memory(item)]
        if not findings or (self.best.risk < RISE and not forgets):
            return
        found = self._attempt(self.best, forgets or findings, thorough=False)
        if found is None or not found[2].sound:
            return
        if found[2].risk < (RISKY if forgets else self.best.risk - RISE):
            self.best = found[2]

    def _attempt(
        self, state: State, findings: list[Record], *, thorough: bool
    ) -> tuple[list[Record], Plan, State] | None:
        """What was to be cured, the plan, and what came of it; None where nothing can be changed.

        Infos beside worse findings may be their consequences, and treating them as well may do
        harm: where all together leaves something, the worse ones alone are tried, too.
        """
        plan = self._plan(state, findings, thorough=thorough)
        if not plan.changes and not plan.scaled:
            return None
        tried = self._planned(state, plan)
        grave = [item for item in findings if item["severity"] != "info"]
        if not tried.sound and 0 < len(grave) < len(findings):
            alone = self._plan(state, grave, thorough=thorough)
            other = self._planned(state, alone)
            if other.weight < tried.weight:
                return grave, alone, other
        return findings, plan, tried

    def _planned(self, state: State, plan: Plan) -> State:
        return self._try({**state.changes, **self._on_original(plan.changes)}, plan.scaled)

    def _whole(self) -> None:
        """The textbook's weights for every layer, then scaled by running the network."""
        drawn = impose(self.model.graph, "textbook", self.options.seed, self._steps())
        spared = self._spared()
        planner = self._planner(self.model, thorough=True)
        plan = planner.impose([item for item in drawn if item.layer.id not in spared], "textbook")
        if not plan.changes:
            return
        changes = self._on_original(plan.changes)
        layers = tuple({change.layer: None for change in changes.values() if change.values.any()})
        for scaled in ((), layers):
            tried = self._try(changes, scaled)
            if tried.weight < self.best.weight:
                self.best = tried
                self.untouched.update({item.name: item for item in plan.untouched})
            if self.best.sound:
                return
        if self.best.changes is not changes:
            self.notes.append("the textbook's weights for the whole network: no better, not kept")

    def _whole_is_meant(self) -> bool:
        """True when something to be cured is left, or the risk is high for no named reason."""
        left = self._findings(self.best, serious=True)
        return bool(left) or self.best.weight[2] > 0

    def _steps(self) -> int | None:
        length = self.settings.sequence_length or self.model.metadata.get("sequence_length")
        return int(length) if length else None

    def _spared(self) -> frozenset[str]:
        """Layers of findings that are not to be cured: the user allows them."""
        if self.options.only is None or self._start is None:
            return frozenset()
        allowed = [
            item
            for item in self._start.record["findings"]
            if item["fingerprint"] not in self.options.only
        ]
        return frozenset(key for item in allowed for key in item["layers"])

    def _findings(self, state: State, *, serious: bool) -> list[Record]:
        found = wanted(state.record, self._only(state))
        if self._start is not None and self._start.sound:
            found = [item for item in found if not self._is_left_alone(item)]
        return [item for item in found if item["severity"] != "info"] if serious else found

    def _is_left_alone(self, finding: Record) -> bool:
        """True for an info whose cure is to scale all layers, where no harm is predicted."""
        if finding["severity"] != "info" or (finding["fix"] or {}).get("scheme") != "lsuv":
            return False
        name = f"{finding['name']} at {finding['layer']}"
        reason = "no harm is predicted, and its cure scales all layers (--scheme lsuv)"
        self.untouched.setdefault(name, Untouched(name, reason))
        return True

    def _only(self, state: State) -> frozenset[str] | None:
        """Fingerprints to look at: those chosen, and what the changes brought."""
        if self.options.only is None or self._start is None or state is self._start:
            return self.options.only
        known = {item["fingerprint"] for item in self._start.record["findings"]}
        new = {item["fingerprint"] for item in state.record["findings"]} - known
        return self.options.only | new

    def _plan(self, state: State, findings: Sequence[Record], *, thorough: bool) -> Plan:
        with applied(self.model, merged(state.changes.values())) as now:
            plan = self._planner(now, thorough=thorough).plan(findings)
        self.untouched.update({item.name: item for item in plan.untouched})
        return plan

    def _planner(self, model: Model, *, thorough: bool) -> Planner:
        return Planner(
            model,
            engine.measure(model, self.settings),
            self.options.seed,
            self.options.include_trained,
            thorough,
            self._steps(),
        )

    def _on_original(self, changes: Sequence[Change]) -> dict[str, Change]:
        """The changes with the parameters of the model as it was loaded."""
        original = {
            (layer.id, param.key, param.shape): param for layer, param in self.model.graph.params
        }  # a weight that several layers read has a view in each
        return {
            change.param.key: replace(
                change,
                param=original.get(
                    (change.layer, change.param.key, change.param.shape), change.param
                ),
            )
            for change in changes
        }

    def _try(self, changes: Mapping[str, Change], layers: Sequence[str]) -> State:
        if not layers:
            return judged(self.model, self.settings, changes)
        tried = self._scaled(changes, layers)
        planner = self._planner(self.model, thorough=False)
        before = to_blame(planner, tried.changes, layers)
        if not before:
            return tried
        every = (*before, *layers)
        other = self._scaled(changes, every)
        better = other.weight <= tried.weight and near_their_scale(planner, other.changes, every)
        return other if better else tried

    def _scaled(self, changes: Mapping[str, Change], layers: Sequence[str]) -> State:
        goals = rectified(self.model.graph, layers)
        changes, ended = scaled_by_running(self.model, self.settings, changes, layers, goals)
        if ended.reason:
            self.notes.append(f"scaling by running the network: {ended.reason}")
        return judged(self.model, self.settings, changes)


def _is_memory(finding: Record) -> bool:
    return (finding["fix"] or {}).get("scheme") == "forget_bias"


def _cures(findings: Sequence[Record], tried: State) -> bool:
    """True when the worst of the findings are gone, whatever came into view behind them."""
    left = {item["fingerprint"] for item in tried.record["findings"]}
    serious = [item for item in findings if item["severity"] != "info"] or findings
    return not any(item["fingerprint"] in left for item in serious)


def _useless(plan: Plan, *, thorough: bool) -> str:
    schemes = sorted({change.scheme for change in plan.changes}) or ["lsuv"]
    how = "drawing again and scaling" if thorough else "the smallest change"
    return f"{how} ({', '.join(schemes)}) was tried and did not lower the findings: not kept"


def rectified(graph: LayerGraph, layers: Sequence[str]) -> dict[str, float]:
    """Output variances with which ReLUs and their kin hand on a second moment of 1.

    At the unit variance of LSUV the first layer would come out at half of He's variance, and the
    linter would say so. What stands where weights would gets the variance of weights.
    """
    found = {}
    for key in layers:
        bend = graph.activation(key)
        if bend is not None and bend.op in RELU_FAMILY:
            found[key] = gain_of(bend) ** 2
        elif bend is None and (gain := written_gain(graph, key)) != 1.0:
            found[key] = gain**2
    return found


def scaled_by_running(
    model: Model,
    settings: Settings,
    changes: Mapping[str, Change],
    layers: Sequence[str],
    variances_wanted: Mapping[str, float] | None = None,
) -> tuple[dict[str, Change], Scaled]:
    """The changes with layers scaled by running the network, to unit output variance or another."""

    def with_factors(factors: Mapping[str, float]) -> dict[str, Change]:
        found = dict(changes)
        for key, factor in factors.items():
            for weight in _blocks(model.graph[key]) if factor != 1 else ():
                held = changes.get(weight.key)
                copies = held.copies if held is not None else copies_of(model, weight)
                found[weight.key] = _times(key, weight, factor, held, copies)
        return found

    def run(factors: Mapping[str, float]) -> Activations:
        with applied(model, merged(with_factors(factors).values())) as now:
            return run_fresh(now, settings)

    chosen = _first_readers(model.graph, layers)
    ended = scale(model.graph, chosen, run, variances_wanted=variances_wanted)
    return with_factors(ended.factors), ended


def _first_readers(graph: LayerGraph, layers: Sequence[str]) -> tuple[str, ...]:
    """Layers that can be scaled, without those whose weight one of them reads before.

    One weight has one scale: where several layers share it, the first decides.
    """
    owners: dict[str, str] = {}
    for layer in graph.order:
        if layer.op in SCALED and layer.id in layers:
            for block in _blocks(layer):
                owners.setdefault(block.key, layer.id)
    mine = set(owners.values())
    return tuple(key for key in layers if key in mine)


def _blocks(layer: Layer) -> tuple[Param, ...]:
    """A layer's weight: every block of it where several are packed, for its output has them all."""
    first = layer.weight
    if first is None:
        return ()
    blocks = layer.with_role(Role.WEIGHT)
    return tuple(param for param in blocks if param.name == first.name and param.tensor is not None)


def _times(
    key: str, weight: Param, factor: float, held: Change | None, copies: tuple[Param, ...]
) -> Change:
    """A weight, or what it was to be changed to, multiplied."""
    if held is not None:  # seen as the layer sees it that the change was made for
        key, weight, values = held.layer, held.param, held.values
    else:
        assert weight.tensor is not None
        values = weight.tensor.read()
    arguments = dict(held.arguments) if held else {}
    arguments["factor"] = factor * arguments.get("factor", 1.0)
    scheme = held.scheme if held and held.scheme != "rescale" else "lsuv"
    if scheme == "lsuv":
        arguments.pop("to", None)
    cures = held.cures if held else ("variance-profile",)
    return Change(key, weight, values * factor, scheme, arguments, cures, copies)


def judged(model: Model, settings: Settings, changes: Mapping[str, Change]) -> State:
    """The model with changes, linted and run once."""
    with applied(model, merged(changes.values())) as now:
        record, seen = engine.lint_observed(now, settings)
        if settings.probe and seen.status is ProbeStatus.SKIPPED and now.runnable is not None:
            seen = run_fresh(now, settings)  # no selected rule needed the run, but the report does
    return State(changes, record, seen)


def run_fresh(model: Model, settings: Settings) -> Activations:
    """One run of the network as at the start of training."""
    if not settings.probe:
        return Activations(ProbeStatus.SKIPPED, "not asked for")
    return engine.run_probe(model, settings, Stage.FRESH)
