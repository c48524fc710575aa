"""Repair: plan, apply in memory, lint and run again, until the findings are gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from initlint import engine
from initlint.fix.changes import Change, Untouched
from initlint.fix.plan import Planner
from initlint.fix.recipes import NEEDS_RUN, impose, specified
from initlint.fix.search import (
    RANKS,
    RISKY,
    FixOptions,
    Search,
    judged,
    scaled_by_running,
    unnamed_risk,
    wanted,
)
from initlint.model import Model
from initlint.probe.result import Activations, ProbeStatus
from initlint.settings import Settings

__all__ = ["FixOptions", "Repair", "doubts", "imposed", "repair", "wanted", "weight_of"]

Record = dict[str, Any]


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
    before = judged(model, settings, {})
    if options.scheme is None:
        search = Search(model, settings, options, before)
        after = search.run()
        untouched = tuple(search.untouched.values())
        notes = tuple(dict.fromkeys(search.notes))
    else:
        changes, untouched, notes = imposed(model, settings, options)
        by_key = {change.param.key: change for change in changes}
        after = judged(model, settings, by_key) if changes else before
    return Repair(
        before.record,
        after.record,
        tuple(after.changes.values()),
        untouched,
        before.seen,
        after.seen,
        notes,
    )


def weight_of(record: Record) -> tuple[int, int, int]:
    """Errors, warnings and infos: smaller is better."""
    counts = record["summary"]
    return counts.get("error", 0), counts.get("warning", 0), counts.get("info", 0)


def imposed(
    model: Model, settings: Settings, options: FixOptions
) -> tuple[tuple[Change, ...], tuple[Untouched, ...], tuple[str, ...]]:
    """The changes that put a network under ``options.scheme``, what is left, and notes.

    Raises:
        UnknownSchemeError: the scheme does not exist.
        ValueError: it is no scheme for a network.
    """
    name, _ = specified(options.scheme or "")
    steps = settings.sequence_length or model.metadata.get("sequence_length")
    drawn = impose(model.graph, options.scheme or "", options.seed, int(steps) if steps else None)
    measures = engine.measure(model, settings)
    planner = Planner(model, measures, options.seed, options.include_trained)
    plan = planner.impose(drawn, name)
    changes = {change.param.key: change for change in plan.changes}
    notes: tuple[str, ...] = ()
    if name in NEEDS_RUN:
        layers = tuple({change.layer: None for change in plan.changes})
        changes, ended = scaled_by_running(model, settings, changes, layers)
        notes = (ended.reason,) if ended.reason else ()
    return tuple(changes.values()), plan.untouched, notes


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
    risk = unnamed_risk(result.after)
    if risk >= RISKY:
        found.append(f"the predicted risk of harm is still {risk:.2f}")
    if not model.connected:
        found.append("there are weights only: give the network with --model to run it")
    elif model.runnable is None:
        found.append("the network was not run: its prediction alone was checked")
    else:
        found.extend(_run_doubts(result))
    return found


def _run_doubts(result: Repair) -> list[str]:
    seen = result.seen_after
    if seen is not None and seen.status is ProbeStatus.SKIPPED:
        return ["the changed network was not run (--no-probe): its prediction alone was checked"]
    if seen is None or seen.status is not ProbeStatus.OK:
        return [f"the changed network was not run: {seen.detail if seen else 'no probe'}"]
    broken = [key for key, stats in seen.outputs.items() if stats.non_finite]
    earlier = result.seen_before.outputs if result.seen_before else {}
    new = [key for key in broken if key not in earlier or not earlier[key].non_finite]
    return [f"{new[0]} gives values that are not finite"] if new else []
