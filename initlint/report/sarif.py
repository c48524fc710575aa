"""SARIF 2.1.0 for code hosts, editors and archives of findings.

What consumers need beyond the standard: GitHub shows only results with a physical location, tells
them apart by ``partialFingerprints.primaryLocationLineHash`` and shows ``help.markdown``. Accepted
findings stay, with their suppression; beside a baseline every result has its ``baselineState``.
"""

from __future__ import annotations

import re
from typing import Any

from initlint.records import Failure, Finding, Fix, RuleText, Target
from initlint.report.json import dump
from initlint.report.places import Place, file_of, identity, place_of
from initlint.report.run import Run
from initlint.report.style import View
from initlint.report.text import Untrusted, lines

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "info": "note"}
RANKS = {"high": 90.0, "medium": 60.0, "low": 30.0}
"""SARIF's ``rank`` (0 to 100) for our confidence: thirds, their order is all that counts."""

LISTED = 200
"""Layers of one finding that become logical locations."""

EDIT_LINE = 1000
"""Characters of a line of code that a fix inserts: one call."""

HELP_LIMIT = 20_000
"""Characters of a rule's documentation: three times the longest one."""


def render(run: Run, view: View) -> str:
    """The run as a SARIF log with one run."""
    order = sorted({found.name: found for _, found in _all(run)}.items())
    index = {name: number for number, (name, _) in enumerate(order)}
    results = [_result(target, found, index, view.root) for target, found in _all(run)]
    driver = {
        "name": "initlint",
        "semanticVersion": run.version,
        "rules": [_rule(found, run.rules.get(name)) for name, found in order],
    }
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "artifacts": _artifacts(run, view.root),
                "invocations": [_invocation(run, view.root)],
                "results": results,
            }
        ],
    }
    return dump(log) + "\n"


def _all(run: Run) -> list[tuple[Target, Finding]]:
    pairs = [(target, found) for target in run.targets for found in run.shown(target.findings)]
    return sorted(pairs, key=lambda pair: pair[1].rank)


def _text(text: str) -> str:
    """Plain text in which nothing is a link to a consumer: SARIF reads ``[text](url)`` as one."""
    return re.sub(r"\]\s*\(", "] (", text)


def _rule(finding: Finding, text: RuleText | None) -> dict[str, Any]:
    """A rule as its documentation tells it; the finding's words where there is none."""
    summary = text.summary.show(1000) if text else finding.name.replace("-", " ")
    rule: dict[str, Any] = {
        "id": finding.code,
        "name": _pascal(finding.name),
        "shortDescription": {"text": _text(summary)},
        "fullDescription": {"text": _text(summary)},
        "help": {"text": _text(f"Run: initlint explain {finding.name}")},
        "defaultConfiguration": {"level": LEVELS[finding.severity]},
        "properties": {"tags": ["weight-initialisation"], "rule": finding.name},
    }
    if text and text.help:
        page = lines(text.help.raw, HELP_LIMIT)
        rule["help"] = {"text": _text(page), "markdown": page}
    return rule


def _pascal(name: str) -> str:
    """``relu-after-xavier`` as ``ReluAfterXavier``, which the standard wants for a rule's name."""
    return "".join(part.capitalize() for part in name.split("-")) or "Rule"


def _result(target: Target, finding: Finding, index: dict[str, int], root: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index[finding.name],
        "level": LEVELS[finding.severity],
        "kind": "fail",
        "rank": RANKS[finding.confidence],
        "message": {"text": _text(_message(target, finding))},
        "locations": [_location(target, finding, root)],
        "partialFingerprints": {
            "primaryLocationLineHash": f"{identity(target, finding, root)}:1",
            "initlint/v1": identity(target, finding, root),
        },
        "suppressions": _suppressions(finding),
        "properties": _properties(target, finding),
    }
    if finding.baseline is not None:
        result["baselineState"] = finding.baseline
    if finding.fix is not None and finding.fix.edit is not None:
        result["fixes"] = [_fix(finding.fix, place_of(target, finding, root))]
    return result


def _fix(fix: Fix, place: Place) -> dict[str, Any]:
    """The fix as an insertion into the source, for editors that offer to carry it out."""
    assert fix.edit is not None
    line, column, text = fix.edit
    at = {"startLine": line, "startColumn": column, "endLine": line, "endColumn": column}
    inserted = "\n".join(Untrusted(part).show(EDIT_LINE) for part in text.raw.split("\n"))
    return {
        "description": {
            "text": "Draw the weights again (unsafe: changes what training starts from)."
        },
        "artifactChanges": [
            {
                "artifactLocation": {"uri": place.uri},
                "replacements": [{"deletedRegion": at, "insertedContent": {"text": inserted}}],
            }
        ],
    }


def _message(target: Target, finding: Finding) -> str:
    more = f" and {len(finding.layers) - 1} more" if len(finding.layers) > 1 else ""
    parts = [
        finding.message.show(600),
        f"Layer: {finding.layer}{more} of {target.target}.",
        f"Measured: {finding.measured.show(300)}." if finding.measured else "",
        f"Expected: {finding.expected.show(300)}." if finding.expected else "",
        f"Fix: {finding.fix.code.show(300)}" if finding.fix and finding.fix.code else "",
    ]
    return "\n".join(part for part in parts if part)


def _location(target: Target, finding: Finding, root: str) -> dict[str, Any]:
    logical = [
        {"name": layer.show(), "fullyQualifiedName": layer.raw, "kind": "module"}
        for layer in dict.fromkeys(finding.layers[:LISTED])
    ]
    if finding.param is not None:
        parameter = {"name": finding.param.show(), "kind": "variable"}
        logical.insert(0, {**parameter, "fullyQualifiedName": finding.param.raw})
    return {
        "physicalLocation": _physical(place_of(target, finding, root)),
        "logicalLocations": logical,
    }


def _physical(place: Place) -> dict[str, Any]:
    return {
        "artifactLocation": {"uri": place.uri},
        "region": {"startLine": max(place.line or 1, 1)},
    }


def _suppressions(finding: Finding) -> list[dict[str, Any]]:
    """An empty list says that nobody suppressed it; one without ``status`` is accepted."""
    found = finding.suppression
    if found is None:
        return []
    reason = Untrusted(f"{found.reason} ({found.place})").show(1000)
    kind = "inSource" if found.kind == "inline" else "external"
    return [{"kind": kind, "justification": reason}]


def _properties(target: Target, finding: Finding) -> dict[str, Any]:
    record = finding.record
    properties: dict[str, Any] = {
        "target": target.target.raw,
        "rule": finding.name,
        "confidence": finding.confidence,
        "evidence": record.get("evidence") or {},
        "layers": [layer.raw for layer in finding.layers],
    }
    if isinstance(record.get("fix"), dict):
        properties["fix"] = record["fix"]
    return properties


def _artifacts(run: Run, root: str) -> list[dict[str, Any]]:
    names = [(target.target.raw, target.kind) for target in run.targets]
    names += [(failure.target.raw, "") for failure in run.errors if failure.target]
    uris = dict.fromkeys(file_of(name, kind, root).uri for name, kind in names)
    return [{"location": {"uri": uri}, "roles": ["analysisTarget"]} for uri in uris]


def _invocation(run: Run, root: str) -> dict[str, Any]:
    notes = [_notification(failure, root) for failure in run.unchecked]
    notes += [
        {"level": "warning", "message": {"text": _text(notice.show(1000))}}
        for notice in run.notices
    ]
    return {
        "executionSuccessful": not run.unchecked,
        "exitCode": run.exit_code(),
        "toolExecutionNotifications": notes,
    }


def _notification(failure: Failure, root: str) -> dict[str, Any]:
    note: dict[str, Any] = {
        "level": "error",
        "message": {"text": _text(f"not checked: {failure.message.show(300)}")},
    }
    if failure.target:
        place = file_of(failure.target.raw, "", root)
        note["locations"] = [{"physicalLocation": {"artifactLocation": {"uri": place.uri}}}]
    return note
