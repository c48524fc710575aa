"""SARIF 2.1.0, validated by the types that pydantic-sarif generated from the OASIS schema."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from urllib.parse import unquote

import pytest
from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Schema

from initlint.records import RuleText, Target
from initlint.report.formats import render
from initlint.report.run import Run
from initlint.report.style import View
from initlint.report.text import Untrusted
from tests.report_sample import CAUSE, DEEP, HOSTILE, hostile_run, sample_run

HELP = "What it does\n------------\nFinds [it](evil).\n\n    code()\n"
RULES = {"relu-after-xavier": RuleText("SCL208", Untrusted("Xavier before ReLU."), Untrusted(HELP))}


def document(run, **view):
    log = json.loads(render("sarif", run, View(**view)))
    Schema.model_validate(log)
    return log["runs"][0]


def results(run, **view):
    return document(run, **view)["results"]


@pytest.mark.parametrize(
    "run",
    [sample_run(), sample_run(rules=RULES), hostile_run(), Run("0.1.0")],
    ids=["sample", "rules", "hostile", "empty"],
)
def test_valid_and_unique_where_the_standard_says_so(run):
    log = document(run)
    rules = [rule["id"] for rule in log["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    for result in log["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        for location in result["locations"]:
            logical = [json.dumps(entry) for entry in location["logicalLocations"]]
            assert len(set(logical)) == len(logical)


def test_every_result_has_a_place_that_a_code_host_can_show():
    first, second, third = results(sample_run())
    assert first["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "net.py"},
        "region": {"startLine": 12},
    }
    assert second["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "deep.onnx"
    names = [entry["fullyQualifiedName"] for entry in first["locations"][0]["logicalLocations"]]
    assert names[:2] == ["fc1.weight", "fc1"]
    assert len(names) == 30
    assert third["level"] == "note"


def test_uris_are_relative_and_encoded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = str(tmp_path / "a b" / "100%ü#?.onnx")
    run = Run(
        "0", (Target.parse({**DEEP, "target": name, "findings": [CAUSE | {"location": None}]}),)
    )
    uri = results(run)[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert unquote(uri) == "a b/100%ü#?.onnx"
    assert re.fullmatch(r"[A-Za-z0-9%./_~-]+", uri)
    for result in results(hostile_run()):
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9%./_~-]+", uri)


def test_accepted_findings_stay():
    suppressed = [result["suppressions"] for result in results(sample_run())]
    assert suppressed == [
        [],
        [{"kind": "external", "justification": "measured, fine (p.toml:3)"}],
        [],
    ]


def test_fingerprints_hold_over_changed_numbers_and_order_but_not_over_models():
    def prints(*findings, target="deep.onnx"):
        run = Run("0", (Target.parse({**DEEP, "target": target, "findings": list(findings)}),))
        return {r["ruleId"]: r["partialFingerprints"] for r in results(run)}

    other = {**DEEP["findings"][0], "fingerprint": "e" * 16}
    worse = {**CAUSE, "message": "by now 30000-fold", "evidence": {"decades": -5.0}}
    assert prints(CAUSE, other) == prints(other, worse)
    assert prints(CAUSE) != prints(CAUSE, target="other.onnx")
    assert prints(CAUSE, target="./deep.onnx") == prints(CAUSE)


def test_baseline_states_are_on_all_results_or_none():
    assert all("baselineState" not in result for result in results(sample_run()))
    states = ["new", "unchanged", "updated"]
    target = Target.parse(DEEP)
    found = [replace(f, baseline=s) for f, s in zip(target.findings, states, strict=True)]
    run = Run("0", (target.with_findings(found),))
    assert [result["baselineState"] for result in results(run)] == states


def test_rules_carry_their_documentation():
    rules = document(sample_run(rules=RULES))["tool"]["driver"]["rules"]
    rule = next(rule for rule in rules if rule["id"] == "SCL208")
    assert rule["name"] == "ReluAfterXavier"
    assert rule["shortDescription"]["text"] == "Xavier before ReLU."
    assert rule["help"]["markdown"] == HELP
    assert "](" not in rule["help"]["text"]


def test_what_was_not_checked_is_told():
    invocation = document(sample_run())["invocations"][0]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 2
    error, notice = invocation["toolExecutionNotifications"]
    assert error["level"] == "error"
    assert "no such file" in error["message"]["text"]
    assert notice["level"] == "warning"


def test_names_stay_names():
    text = render("sarif", hostile_run(), View())
    text.encode("ascii")
    assert "##[" not in text
    assert "::error" not in text
    for result in results(hostile_run()):
        assert result["message"]["text"].replace("\n", "").isprintable()
        assert HOSTILE[:4] not in result["message"]["text"]
