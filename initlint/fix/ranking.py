"""Initialisation schemes ranked for one network by theory and measurement, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log10
from statistics import mean, pstdev
from typing import Any

from initlint import engine
from initlint.fix.changes import applied, merged
from initlint.fix.confirm import confirm
from initlint.fix.repair import FixOptions, imposed
from initlint.lint.rule import Need
from initlint.measure.result import Stage
from initlint.model import RECURRENT, WEIGHTED, Layer, LayerGraph, Model, Op
from initlint.model.residual import residual_branches
from initlint.model.structure import dominators, heads
from initlint.probe.result import Activations, ProbeStatus
from initlint.risk import with_findings
from initlint.settings import Settings
from initlint.theory.harm import (
    VANISHING,
    Harm,
    backward_harm,
    correlation_harm,
    drift_harm,
    saturation_harm,
)

Record = dict[str, Any]

AS_GIVEN = "as given"
"""The weights that the target holds, in the table beside the schemes."""

DECADES_PER_SATURATION = 1.0
"""A unit that does not pass its gradient on counts like a decade lost to that share of units."""

DECADES_PER_RISK = 5.0
"""Certain harm counts like the drift at which gradient descent stops learning (about four decades)
and more; between healthy draws, whose risks are equal, the decades decide."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one draw of one scheme gave.

    Attributes:
        forward: decades by which the signal's rms leaves that of the first hidden layer.
        backward: decades by which the gradient's rms leaves that of the last layer; None where
            neither a backward pass nor theory tells it.
        dead: share of units of activations that are zero on every input.
        saturated: largest share of saturated units in one layer.
        distance: 1 - cosine between different inputs at the head; None with one input.
        profile: log10 rms along the trunk (see `_points`).
        errors, warnings: findings of the rules that look at weights and theory.
        risk: predicted probability of harm, where the engine gives one.
        reason: why there is no measurement; empty when there is.
    """

    forward: float = 0.0
    backward: float | None = None
    dead: float = 0.0
    saturated: float = 0.0
    distance: float | None = None
    profile: tuple[float, ...] = ()
    errors: int = 0
    warnings: int = 0
    risk: float | None = None
    reason: str = ""

    @property
    def harms(self) -> tuple[Harm, ...]:
        """The harms that the numbers predict, by the limits that rules use."""
        found = [drift_harm(self.forward), saturation_harm(self.saturated)]
        if self.backward is not None:
            found.append(backward_harm(self.backward))
        if self.distance is not None:
            found.append(correlation_harm(self.distance))
        return tuple(harm for harm in found if harm is not None)

    @property
    def score(self) -> float:
        """Smaller is better: harms first (an error outweighs any drift), then risk and decades.

        Healthy draws have the same risk, so that alone would not rank them.
        """
        if self.reason:
            return float("inf")
        levels = {Harm.ERROR: 100.0, Harm.WARNING: 10.0, Harm.INFO: 1.0}
        drift = abs(self.forward) + abs(self.backward or 0.0)
        idle = DECADES_PER_SATURATION * (self.dead + self.saturated)
        harmed = DECADES_PER_RISK * (self.risk or 0.0)
        return sum(levels[harm] for harm in self.harms) + harmed + drift + idle


def default_schemes(model: Model) -> tuple[str, ...]:
    """Schemes worth trying on an architecture."""
    ops = {layer.op for layer in model.graph}
    names = ["torch_default", "xavier_uniform", "he_normal", "lecun_normal"]
    names += ["scale_preserving", "orthogonal", "lsuv", "textbook"]
    if residual_branches(model.graph):
        names += ["fixup", "depth_scaled"]
    if Op.ATTENTION in ops or Op.SOFTMAX in ops:
        names.append("deepnorm")
    if Op.SIN in ops:
        names.append("siren")
    if ops & RECURRENT:
        names.append("irnn")
    return tuple(names)


def compare(
    model: Model,
    settings: Settings,
    schemes: Sequence[str],
    seeds: int,
    train_steps: int = 0,
    data: str = "",
) -> Record:
    """Rank schemes by what theory and a run of the network say of their draws.

    Args:
        model: the network; its own weights are the row "as given".
        settings: of the linter.
        schemes: names; empty for those that suit the architecture.
        seeds: draws of each scheme.
        train_steps: optimiser steps of a real run from the first draw of each; 0 for none.
        data: what to train on (see `initlint.fix.confirm.confirm`).

    Raises:
        UnknownSchemeError: a scheme does not exist.
        ValueError: it is no scheme for a network.
        LoadError: there is nothing to train.
    """
    first: dict[str, Sequence[Any]] = {AS_GIVEN: ()}
    rows = [_row(AS_GIVEN, [_trial(model, settings)])]
    for name in dict.fromkeys(schemes or default_schemes(model)):
        trials = []
        for seed in range(settings.seed, settings.seed + seeds):
            options = FixOptions(scheme=name, seed=seed, include_trained=True)
            changes, _, notes = imposed(model, settings, options)
            first.setdefault(name, changes)
            with applied(model, merged(changes)) as now:
                trial = _trial(now, settings)
            trials.append(replace(trial, reason=trial.reason or "; ".join(notes)))
        rows.append(_row(name, trials))
    rows.sort(key=lambda row: (row["score"] is None, row["score"] or 0.0, row["scheme"]))
    ranked = [row for row in rows if row["score"] is not None]
    best = ranked[0]["scheme"] if ranked else None
    training = None
    if train_steps:
        order = {row["scheme"]: first[row["scheme"]] for row in ranked}
        training = confirm(model, settings, order, train_steps, data)
    return {
        "schema": 1,
        "target": model.target,
        "seeds": seeds,
        "best": best,
        "as_good": [row["scheme"] for row in ranked[1:] if _costs_nothing(row, ranked[0])],
        "training": training,
        "layers": [layer.id for layer in model.graph.weighted],
        "schemes": rows,
    }


def _costs_nothing(row: Record, best: Record) -> bool:
    """True where the difference to the best is below the least drift that is worth a word."""
    return float(row["score"] - best["score"]) < -VANISHING[0]


def _trial(model: Model, settings: Settings) -> Trial:
    static = replace(settings, probe=False, stage=Stage.FRESH.value)
    record = engine.lint(model, static)
    counts = record["summary"]
    trial = Trial(errors=counts.get("error", 0), warnings=counts.get("warning", 0))
    seen = engine.run_probe(model, settings, Stage.FRESH)
    if seen.status is not ProbeStatus.OK:
        return replace(trial, reason=f"the network was not run: {seen.detail}")
    gathered = engine.gather(model, static, frozenset({Need.THEORY}))
    predicted = engine.predicted_risk(model, static, replace(gathered, probe=seen))
    if predicted is not None:
        predicted = with_findings(predicted, trial.errors, trial.warnings)
        trial = replace(trial, risk=predicted.value)
    return _measured(model, static, seen, trial)


def _measured(model: Model, settings: Settings, seen: Activations, trial: Trial) -> Trial:
    last = {layer.id for layer in heads(model.graph)}
    hidden = [key for key in _points(model, last) if key in seen.outputs]
    broken = [key for key, stats in seen.outputs.items() if stats.non_finite]
    if broken:
        return replace(trial, reason=f"{broken[0]} gives values that are not finite")
    logs = [_log(seen.outputs[key].rms) for key in hidden]
    drift = max((value - logs[0] for value in logs), key=abs, default=0.0)
    active = [
        stats
        for key, stats in seen.outputs.items()
        if model.graph[key].op not in WEIGHTED and stats.units
    ]
    units = sum(stats.units for stats in active)
    entering = {layer.id for key in last for layer in _unpooled(model, key)}
    cosines = [seen.outputs[key].correlation for key in sorted(entering & seen.outputs.keys())]
    distances = [1 - value for value in cosines if isfinite(value)]
    return replace(
        trial,
        forward=drift,
        backward=_backward(model, settings, seen, hidden),
        dead=sum(stats.dead_units for stats in active) / units if units else 0.0,
        saturated=max((stats.saturated_share for stats in active), default=0.0),
        distance=min(distances) if distances else None,
        profile=tuple(round(value, 3) for value in logs),
    )


def _unpooled(model: Model, key: str) -> list[Layer]:
    """What a head reads, before positions are averaged.

    The mean over positions brings synthetic inputs together, whose positions are independent,
    whatever the weights are.
    """
    found: list[Layer] = []
    queue = list(model.graph.effective_producers(key))
    seen: set[str] = set()
    while queue:
        layer = queue.pop()
        if layer.id in seen:
            continue
        seen.add(layer.id)
        if layer.op in (Op.POOL, Op.REDUCE):
            queue.extend(model.graph.effective_producers(layer.id))
        else:
            found.append(layer)
    return found


def _points(model: Model, last: set[str]) -> list[str]:
    """Where the signal is looked at: what all of it crosses, weighted layers and residual sums.

    A residual branch may be small, or silent, by design; its sum may not.
    """
    graph = model.graph
    sums = {branch.add for branch in residual_branches(graph)}
    trunk = [
        key
        for key in dominators(graph)
        if key in sums or (graph[key].op in WEIGHTED and graph[key].op is not Op.EMBEDDING)
    ]
    found = [key for key in trunk if key not in last]
    if len(found) > 1:
        return found
    hidden = (layer for layer in graph.weighted if layer.op is not Op.EMBEDDING)
    return [layer.id for layer in hidden if layer.id not in last]


def _backward(
    model: Model, settings: Settings, seen: Activations, hidden: Sequence[str]
) -> float | None:
    """Decades from the last hidden layer's gradient to the one that is furthest from it."""
    gradients: Mapping[str, float] = {
        key: _log(value) for key, value in _reached(model.graph, seen.backward, hidden).items()
    }
    if not gradients:
        evidence = engine.gather(model, settings, frozenset({Need.THEORY}))
        found = evidence.theory.backward if evidence.theory else {}
        gradients = {key: found[key] / 2 / 2.302585 for key in hidden if key in found}
    order = [gradients[key] for key in hidden if key in gradients]
    return max((value - order[-1] for value in order), key=abs) if len(order) > 1 else None


def _reached(
    graph: LayerGraph, backward: Mapping[str, float], hidden: Sequence[str]
) -> Mapping[str, float]:
    """Gradients by layer, without zeros behind a layer that has one or of a weight that has one.

    What vanishes on its way is zero from there to the first layer; elsewhere a zero is a side
    branch at rest, such as a gate on the empty state of a first step.
    """
    found = {key: backward[key] for key in hidden if key in backward}
    weights = {key: weight.key for key in found if (weight := graph[key].weight) is not None}
    moving = {weights[key] for key, size in found.items() if size > 0.0 and key in weights}
    heard = False
    for key in tuple(found):
        heard = heard or found[key] > 0.0
        if not found[key] > 0.0 and (heard or weights.get(key) in moving):
            del found[key]
    return found


def _log(value: float) -> float:
    """log10 with a floor at the smallest float32, so that silence is far but finite."""
    return log10(max(value, 1e-38))


def _row(name: str, trials: Sequence[Trial]) -> Record:
    done = [trial for trial in trials if not trial.reason]
    reasons = list(dict.fromkeys(trial.reason for trial in trials if trial.reason))
    if not done:
        return {"scheme": name, "score": None, "reason": "; ".join(reasons), "seeds": len(trials)}

    def middle(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return mean(known) if known else None

    scores = [trial.score for trial in done]
    return {
        "scheme": name,
        "seeds": len(trials),
        "score": mean(scores),
        "spread": pstdev([trial.forward for trial in done]),
        "risk": middle([trial.risk for trial in done]),
        "forward_decades": mean(trial.forward for trial in done),
        "backward_decades": middle([trial.backward for trial in done]),
        "dead_share": mean(trial.dead for trial in done),
        "saturated_share": mean(trial.saturated for trial in done),
        "distance": middle([trial.distance for trial in done]),
        "errors": max(trial.errors for trial in done),
        "warnings": max(trial.warnings for trial in done),
        "failed": len(trials) - len(done),
        "reason": "; ".join(reasons),
        "profile": list(done[0].profile),
    }
