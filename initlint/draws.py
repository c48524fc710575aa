"""Several builds of one module: what its weights owe to the seed, and which findings do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from initlint.engine import lint
from initlint.lint.finding import Severity
from initlint.model import Draws, Model
from initlint.rows import Record
from initlint.settings import Settings

ONE_DRAW = "--seeds: the target is built once and then shared, so there is only one draw to lint"


def lint_seeds(
    load: Callable[[int], Model],
    compare: Callable[[Sequence[int]], Draws | None],
    settings: Settings,
    emit: Callable[[Record], None] | None = None,
) -> Record:
    """Lint ``settings.seeds`` builds of a module as one target.

    The record is that of the first build. Every finding of any build is in it, with ``seeds`` and
    ``found_in`` in its evidence; one that not every build has says so in its message.

    Args:
        load: the model built with a seed.
        compare: what the builds of several seeds have in common; None where they are one object.
        settings: its ``seed`` is the first.
        emit: see `initlint.engine.lint`; for the first build.
    """
    seeds = tuple(range(settings.seed, settings.seed + settings.seeds))
    draws = compare(seeds)
    first = load(seeds[0])
    if draws is None:
        return lint(replace(first, notices=(*first.notices, ONE_DRAW)), settings, emit)
    records = []
    for number, seed in enumerate(seeds):
        model = load(seed) if number else first
        model = replace(model, metadata={**model.metadata, "draws": draws})
        own = settings if not number else replace(settings, seed=seed, layers=False, profile=False)
        records.append(lint(model, own, None if number else emit))
    return merged(records)


def merged(records: Sequence[Record]) -> Record:
    """One record from those of several builds of one target.

    A finding is the same in two builds when its fingerprint is; the worst of them stands for all.
    """
    found: dict[str, list[Record]] = {}
    for record in records:
        for finding in record["findings"]:
            found.setdefault(finding["fingerprint"], []).append(finding)
    findings = [_with_frequency(group, len(records)) for group in found.values()]
    counts = {"error": 0, "warning": 0, "info": 0}
    for finding in findings:
        counts[finding["severity"]] += 1
    failures = dict.fromkeys(line for record in records for line in record["failures"])
    return {**records[0], "findings": findings, "summary": counts, "failures": list(failures)}


def _with_frequency(group: Sequence[Record], builds: int) -> Record:
    worst = max(group, key=lambda finding: Severity(finding["severity"]).rank)
    evidence: dict[str, Any] = {**worst["evidence"], "seeds": builds, "found_in": len(group)}
    message = worst["message"]
    if len(group) < builds:
        message = f"{message} (in {len(group)} of {builds} draws)"
    return {**worst, "message": message, "evidence": evidence}
