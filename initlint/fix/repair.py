"""Repair: plan, apply in memory, lint and run again, until the findings are gone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from initlint import engine
from initlint.engine import Settings
from initlint.fix.changes import Change, Untouched, applied, merged
from initlint.fix.lsuv import SCALED, Scaled, scale
from initlint.fix.plan import Plan, Planner
from initlint.fix.recipes import NEEDS_RUN, impose
from initlint.measure.result import Stage
from initlint.model import Kind, Model, Param
from initlint.probe.result import Activations, ProbeStatus

Record = dict[str, Any]

ROUNDS = (False, True, True)
"""Attempts, and whether each is thorough: the first changes as little as may be; the others draw
again what was only rescaled, and scale by running the network."""

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
class Repair:
    """A repair that was tried in memory.

    Attributes:
        before, after: the target objects of the JSON report.
        changes: new values by parameter, of the model as it was loaded.
        untouched: what stays as it is, and why.
        seen_before, seen_after: what running the network measured.
        notes: what happened on the way, one line each.
    """

    before: Record
    after: Record
    changes: tuple[Change, ...] = ()
    untouched: tuple[Untouched, ...] = ()
    seen_before: Activations | None = None
    seen_after: Activations | None = None
    notes: tuple[str, ...] = ()


def repair(model: Model, settings: Settings, options: FixOptions) -> Repair:
    """Changes that cure a model's findings, tried in memory; the model is left as it was.

    Raises:
        UnknownSchemeError: the scheme to impose does not exist.
        ValueError: it is no scheme for a network.
    """
    before = engine.lint(model, settings)
    seen = _run(model, settings)
    if options.scheme is None:
        changes, untouched, notes, after = _cure(model, settings, options, before)
    else:
        changes, untouched, notes = imposed(model, settings, options)
        with applied(model, merged(changes)) as now:
            after = engine.lint(now, settings)
    if not changes:
        return Repair(before, before, (), untouched, seen, seen, notes)
    with applied(model, merged(changes)) as now:
        seen_after = _run(now, settings)
    return Repair(before, after, changes, untouched, seen, seen_after, notes)


def wanted(record: Mapping[str, Any], only: Collection[str] | None) -> list[Record]:
    """The findings to cure, worst first."""
    found = [item for item in record["findings"] if only is None or item["fingerprint"] in only]
    return sorted(found, key=lambda item: -RANKS[item["severity"]])


def weight_of(record: Mapping[str, Any]) -> tuple[int, int, int]:
    """Errors, warnings and infos: smaller is better."""
    counts = record["summary"]
    return counts.get("error", 0), counts.get("warning", 0), counts.get("info", 0)


def _cure(
    model: Model, settings: Settings, options: FixOptions, before: Record
) -> tuple[tuple[Change, ...], tuple[Untouched, ...], tuple[str, ...], Record]:
    original = _originals(model)
    held: dict[str, Change] = {}
    best, record = before, before
    untouched: dict[str, Untouched] = {}
    notes: list[str] = []
    for attempt, thorough in enumerate(ROUNDS):
        only = options.only if attempt == 0 else _still(options.only, before, record)
        findings = wanted(record, only)
        if not findings:
            break
        with applied(model, merged(held.values())) as now:
            plan = _plan(now, settings, options, findings, thorough=thorough)
        untouched.update({item.name: item for item in plan.untouched})
        tried = {**held, **_on(original, plan.changes)}
        if plan.scaled:
            tried, ended = _scaled(model, settings, tried, plan.scaled)
            if ended.reason:
                notes.append(f"scaling by running the network: {ended.reason}")
        if not plan.changes and not plan.scaled:
            break
        with applied(model, merged(tried.values())) as now:
            record = engine.lint(now, settings)
        if weight_of(record) < weight_of(best):
            held, best = tried, record
        else:
            notes.append(_useless(plan, thorough=thorough))
            record = best
    changes = tuple(held.values())
    changed = {change.param.key for change in changes}
    kept = tuple(item for item in untouched.values() if item.name not in changed)
    return changes, kept, tuple(dict.fromkeys(notes)), best


def _useless(plan: Plan, *, thorough: bool) -> str:
    schemes = sorted({change.scheme for change in plan.changes}) or ["lsuv"]
    how = "drawing again and scaling" if thorough else "the smallest change"
    return f"{how} ({', '.join(schemes)}) was tried and did not lower the findings: not kept"


def _still(only: frozenset[str] | None, before: Record, record: Record) -> frozenset[str] | None:
    """Fingerprints to look at in later rounds: those chosen, and what the changes brought."""
    if only is None:
        return None
    known = {item["fingerprint"] for item in before["findings"]}
    new = {item["fingerprint"] for item in record["findings"]} - known
    return only | new


def _plan(
    model: Model,
    settings: Settings,
    options: FixOptions,
    findings: Sequence[Record],
    *,
    thorough: bool,
) -> Plan:
    planner = Planner(
        model,
        engine.measure(model, settings),
        options.seed,
        options.include_trained,
        thorough,
    )
    return planner.plan(findings)


def imposed(
    model: Model, settings: Settings, options: FixOptions
) -> tuple[tuple[Change, ...], tuple[Untouched, ...], tuple[str, ...]]:
    """The changes that put a network under ``options.scheme``, what is left, and notes.

    Raises:
        UnknownSchemeError: the scheme does not exist.
        ValueError: it is no scheme for a network.
    """
    name = (options.scheme or "").replace("-", "_")
    drawn = impose(model.graph, name, options.seed)
    measures = engine.measure(model, settings)
    planner = Planner(model, measures, options.seed, options.include_trained)
    plan = planner.impose(drawn, name)
    changes = {change.param.key: change for change in plan.changes}
    notes: tuple[str, ...] = ()
    if name in NEEDS_RUN:
        layers = tuple({change.layer: None for change in plan.changes})
        changes, ended = _scaled(model, settings, changes, layers)
        notes = (ended.reason,) if ended.reason else ()
    return tuple(changes.values()), plan.untouched, notes


def _originals(model: Model) -> dict[str, Param]:
    found: dict[str, Param] = {}
    for _, param in model.graph.params:
        found.setdefault(param.key, param)
    return found


def _on(original: Mapping[str, Param], changes: Sequence[Change]) -> dict[str, Change]:
    """The changes with the parameters of the model as it was loaded."""
    return {
        change.param.key: replace(change, param=original[change.param.key]) for change in changes
    }


def _scaled(
    model: Model, settings: Settings, changes: Mapping[str, Change], layers: Sequence[str]
) -> tuple[dict[str, Change], Scaled]:
    """The changes with layers scaled to unit output variance by running the network."""

    def with_factors(factors: Mapping[str, float]) -> dict[str, Change]:
        found = dict(changes)
        for key, factor in factors.items():
            weight = model.graph[key].weight
            if weight is None or weight.tensor is None or factor == 1:
                continue
            held = changes.get(weight.key)
            values = weight.tensor.read() if held is None else held.values
            arguments = {**(held.arguments if held else {}), "factor": factor}
            found[weight.key] = Change(
                key,
                weight,
                values * factor,
                held.scheme if held and held.scheme != "rescale" else "lsuv",
                arguments,
                held.cures if held else ("variance-profile",),
            )
        return found

    def run(factors: Mapping[str, float]) -> Activations:
        with applied(model, merged(with_factors(factors).values())) as now:
            return _run(now, settings)

    chosen = tuple(key for key in layers if model.graph[key].op in SCALED)
    ended = scale(model.graph, chosen, run)
    return with_factors(ended.factors), ended


def _run(model: Model, settings: Settings) -> Activations:
    if not settings.probe:
        return Activations(ProbeStatus.SKIPPED, "not asked for")
    return engine.run_probe(model, settings, Stage.FRESH)


def doubts(result: Repair, model: Model) -> list[str]:
    """Why a repair cannot be called good; empty when it was verified.

    Verified means: a fresh lint of the changed model shows none of the cured findings, nothing
    worse than before, no rule crashed, and the changed network ran with finite values.
    """
    found: list[str] = []
    before = {item["fingerprint"]: RANKS[item["severity"]] for item in result.before["findings"]}
    for item in result.after["findings"]:
        rank = RANKS[item["severity"]]
        if rank > before.get(item["fingerprint"], 0):
            found.append(f"{item['name']} at {item['layer']} is new or worse ({item['severity']})")
    found.extend(str(failure) for failure in result.after["failures"])
    if not model.connected:
        found.append("there are weights only: give the network with --model to run it")
    elif model.kind not in (Kind.ONNX, Kind.TORCH):
        found.append("the network was not run: its prediction alone was checked")
    else:
        found.extend(_run_doubts(result))
    return found


def _run_doubts(result: Repair) -> list[str]:
    seen = result.seen_after
    if seen is None or seen.status is not ProbeStatus.OK:
        return [f"the changed network was not run: {seen.detail if seen else 'no probe'}"]
    broken = [key for key, stats in seen.outputs.items() if stats.non_finite]
    earlier = result.seen_before.outputs if result.seen_before else {}
    new = [key for key in broken if key not in earlier or not earlier[key].non_finite]
    return [f"{new[0]} gives values that are not finite"] if new else []
