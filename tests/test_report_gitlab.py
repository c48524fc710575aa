"""GitLab's Code Quality report: the fields it documents, distinct and stable fingerprints."""

from __future__ import annotations

import json

import jsonschema
import pytest

from initlint.records import Target
from initlint.report.formats import render
from initlint.report.run import Run
from initlint.report.style import View
from tests.report_sample import CAUSE, DEEP, hostile_run, sample_run

SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "check_name", "fingerprint", "severity", "location"],
        "additionalProperties": False,
        "properties": {
            "description": {"type": "string", "minLength": 1},
            "check_name": {"type": "string", "minLength": 1},
            "fingerprint": {"type": "string", "minLength": 1},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "not": {"pattern": r"^\./"}, "minLength": 1},
                    "lines": {
                        "type": "object",
                        "required": ["begin"],
                        "properties": {"begin": {"type": "integer", "minimum": 1}},
                    },
                },
            },
        },
    },
}
"""https://docs.gitlab.com/ci/testing/code_quality: the fields of a report, all of them required."""


def entries(run):
    return json.loads(render("gitlab", run, View()))


@pytest.mark.parametrize(
    "run", [sample_run(), hostile_run(), Run("0")], ids=["sample", "hostile", "empty"]
)
def test_valid(run):
    found = entries(run)
    jsonschema.validate(found, SCHEMA)
    prints = [entry["fingerprint"] for entry in found]
    assert len(set(prints)) == len(prints)


def test_contents():
    found = entries(sample_run())
    assert [(e["check_name"], e["severity"]) for e in found] == [
        ("not-checked", "blocker"),
        ("relu-after-xavier", "critical"),
        ("recurrent-not-orthogonal", "info"),
    ]
    assert found[1]["location"] == {"path": "net.py", "lines": {"begin": 12}}
    assert found[2]["location"] == {"path": "deep.onnx", "lines": {"begin": 1}}
    assert "fc1 and 28 more layers" in found[1]["description"]


def test_the_same_fault_of_two_models_is_two_findings():
    targets = [Target.parse({**DEEP, "target": name, "findings": [CAUSE]}) for name in "ab"]
    prints = [entry["fingerprint"] for entry in entries(Run("0", tuple(targets)))]
    again = [entry["fingerprint"] for entry in entries(Run("0", tuple(reversed(targets))))]
    assert len(set(prints)) == 2
    assert sorted(prints) == sorted(again)
    assert all("-" not in value for value in prints)
