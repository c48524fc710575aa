"""Two records of ``initlint describe`` compared, choice by choice. Standard library alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from math import isclose
from typing import Any

Record = dict[str, Any]

SAME_GAIN = 0.05
"""Relative difference of gains that two draws of one law may show: twice the sampling error of the
standard deviation of 1,000 values."""

CHOICES = ("shape", "dtype", "scheme", "stage", "seed", "trainable", "tied_to")
"""What a record tells of a parameter that somebody chose."""

MOST_BYTES = 1 << 30
"""Largest record that is read: about two million parameters."""


class RecordError(ValueError):
    """A file that is no record of ``initlint describe``: one line."""


def are_records(*paths: str) -> bool:
    """True when every path names an existing ``.json`` file that is no index of shards."""
    return all(
        path.endswith(".json") and not path.endswith(".index.json") and os.path.isfile(path)
        for path in paths
    )


def read(path: str) -> Record:
    """The one target of a record.

    Raises:
        RecordError: it is none, or holds several.
    """
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise RecordError(f"{path}: too large for a record")
        with open(path, encoding="utf-8") as file:
            held = json.load(file)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: {error}") from error
    targets = held.get("targets") if isinstance(held, dict) else None
    if not isinstance(targets, list) or not all(isinstance(item, dict) for item in targets):
        raise RecordError(f"{path}: no record of initlint describe --format json")
    if len(targets) != 1 or not isinstance(targets[0].get("layers"), list):
        raise RecordError(f"{path}: a record of one model is needed, this holds {len(targets)}")
    found: Record = targets[0]
    return found


def compare(before: str, after: str) -> Record:
    """Two records as ``initlint diff`` tells them: findings, and how many parameters were compared.

    A warning where a choice changed or a parameter came or went, an info where the values alone
    did (another seed).

    Raises:
        RecordError: one of the files is no record.
    """
    old, new = _params(read(before)), _params(read(after))
    findings = list(_differences(old, new))
    findings.sort(key=lambda item: (item["severity"] != "warning", item["code"], item["layer"]))
    counts = {name: sum(item["severity"] == name for item in findings) for name in _SEVERITIES}
    return {
        "schema": 1,
        "before": before,
        "after": after,
        "steps": None,
        "compared": len(old.keys() & new.keys()),
        "summary": counts,
        "findings": findings,
        "params": [],
        "notices": [],
    }


_SEVERITIES = ("error", "warning", "info")


def _params(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for layer in record["layers"]:
        for param in layer.get("params") or ():
            gate = param.get("gate")
            found[f"{param.get('name')} [{gate}]" if gate else str(param.get("name"))] = param
    return found


def _differences(
    old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]
) -> Iterator[Record]:
    for key in [key for key in old if key not in new]:
        yield _finding("DIF101", "parameter-lost", "warning", key, f"{key} is gone")
    for key, now in new.items():
        if key not in old:
            yield _finding("DIF103", "parameter-added", "warning", key, f"{key} is new")
            continue
        was = old[key]
        changed = [name for name in CHOICES if was.get(name) != now.get(name)]
        if not _alike(was.get("gain"), now.get("gain")):
            changed.append("gain")
        elif "scheme" in changed and _overlap(was.get("scheme"), now.get("scheme")):
            changed.remove("scheme")  # another draw of the same law
        for name in changed:
            message = f"{name} of {key}: {_show(was.get(name))} -> {_show(now.get(name))}"
            evidence = {"field": name, "before": was.get(name), "after": now.get(name)}
            yield _finding("DIF501", "choice-changed", "warning", key, message, **evidence)
        if not changed and was.get("hash") != now.get("hash"):
            message = f"values of {key} differ (another draw of the same law)"
            yield _finding("DIF502", "values-changed", "info", key, message)


def _alike(first: Any, second: Any) -> bool:
    if not isinstance(first, (int, float)) or not isinstance(second, (int, float)):
        return first is None and second is None
    return isclose(first, second, rel_tol=SAME_GAIN, abs_tol=1e-12)


def _overlap(first: Any, second: Any) -> bool:
    """True when two lists of schemes that fit have one in common."""
    sides = [{part.strip() for part in str(text).split("|")} for text in (first, second)]
    return bool(sides[0] & sides[1])


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:80]


def _finding(
    code: str, name: str, severity: str, param: str, message: str, **evidence: Any
) -> Record:
    return {
        "code": code,
        "name": name,
        "severity": severity,
        "layer": param,
        "param": param,
        "message": message,
        "evidence": evidence,
        "location": None,
        "params": [param],
    }
