"""GitLab's Code Quality report: a JSON array that merge requests show beside the diff."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import Any

from initlint.records import Failure, Finding, Target
from initlint.report.json import dump
from initlint.report.places import file_of, identity, place_of
from initlint.report.run import Run
from initlint.report.style import View

SEVERITIES = {"error": "critical", "warning": "major", "info": "info"}
NOT_CHECKED = "blocker"


def render(run: Run, view: View) -> str:
    """One object per finding that counts and per target that was not checked, worst first."""
    entries = [_failure(failure, view.root) for failure in run.unchecked]
    entries += [_finding(target, finding, view.root) for target, finding in run.worst_first]
    return dump(_distinct(entries)) + "\n"


def _finding(target: Target, finding: Finding, root: str) -> dict[str, Any]:
    place = place_of(target, finding, root)
    more = f" and {len(finding.layers) - 1} more layers" if len(finding.layers) > 1 else ""
    return {
        "description": f"{finding.message.show(600)} ({finding.layer}{more}; {finding.code})",
        "check_name": finding.name,
        "fingerprint": identity(target, finding, root),
        "severity": SEVERITIES[finding.severity],
        "location": {"path": place.path, "lines": {"begin": place.line or 1}},
    }


def _failure(failure: Failure, root: str) -> dict[str, Any]:
    key = f"{failure.target.raw}\n{failure.message.raw}"
    path = file_of(failure.target.raw, "", root).path if failure.target else "."
    return {
        "description": f"not checked: {failure.message.show(300)}",
        "check_name": "not-checked",
        "fingerprint": sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:32],
        "severity": NOT_CHECKED,
        "location": {"path": path, "lines": {"begin": 1}},
    }


def _distinct(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries with repeated fingerprints told apart: GitLab shows only one of equal ones."""
    seen: Counter[str] = Counter()
    for entry in entries:
        own = entry["fingerprint"]
        seen[own] += 1
        if seen[own] > 1:
            entry["fingerprint"] = f"{own}-{seen[own]}"
    return entries
