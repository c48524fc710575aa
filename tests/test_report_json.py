"""The JSON report: strict, valid against its schema, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

import initlint.report
from initlint.records import RecordError, Target
from initlint.report.formats import render
from initlint.report.json import strict
from initlint.report.run import Run
from initlint.report.style import View
from tests.report_sample import DEEP, HOSTILE, LAYERS, hostile_run, sample_run

SCHEMA = json.loads((Path(initlint.report.__file__).parent / "schema.json").read_text())
VIEW = View()


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def document(run):
    text = render("json", run, VIEW)
    text.encode("ascii")
    return json.loads(text, parse_constant=refuse_constant)


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "run", [sample_run(), hostile_run(), Run("0")], ids=["sample", "hostile", "empty"]
)
def test_every_report_is_valid(run):
    jsonschema.validate(document(run), SCHEMA)


def test_layers_are_valid():
    run = Run("0", (Target.parse({**DEEP, "layers": LAYERS}),))
    value = document(run)
    jsonschema.validate(value, SCHEMA)
    assert value["targets"][0]["layers"][0]["params"][0]["scheme"] == "xavier_normal | lecun_normal"


def test_contents():
    value = document(sample_run())
    deep = value["targets"][0]
    assert [finding["code"] for finding in deep["findings"]] == ["SCL208", "PRB103", "REC402"]
    assert deep["summary"] == {"error": 1, "warning": 0, "info": 1}
    assert value["summary"] == {"error": 1, "warning": 0, "info": 1}
    assert deep["findings"][1]["suppressed"] == {
        "kind": "config",
        "reason": "measured, fine",
        "place": "p.toml:3",
    }
    assert len(deep["findings"][0]["layers"]) == 29
    assert deep["findings"][0]["evidence"]["limit"] == "inf"
    assert deep["probe"]["seconds"] == 1
    assert value["errors"] == [
        {"target": "gone.onnx", "message": "there is no such file or folder"}
    ]
    assert {"documentation", "rules", "sources", "seconds"}.isdisjoint(deep)


def test_names_survive_but_log_commands_do_not():
    text = render("json", hostile_run(), VIEW)
    assert "##[" not in text
    assert "##vso[" not in text
    assert "::error" not in text
    name = json.loads(text)["targets"][0]["findings"][0]["layer"]
    assert name.startswith("\x1b[2J\n::error::x")
    assert "\udc80" not in name
    shown = HOSTILE.replace("\udc80", "").encode().decode()
    assert len(name) >= len(shown)


def test_min_severity_filters_findings_but_not_counts():
    value = document(sample_run(min_severity="error"))
    assert [finding["code"] for finding in value["targets"][0]["findings"]] == ["SCL208"]
    assert value["targets"][0]["summary"]["info"] == 1


def test_non_finite_numbers():
    nan = float("nan")
    value = {"std": nan, "evidence": {"a": nan, "b": [-float("inf"), 1.5], "c": {"d": nan}}}
    assert strict(value) == {
        "std": None,
        "evidence": {"a": "nan", "b": ["-inf", 1.5], "c": {"d": "nan"}},
    }


def test_same_bytes_whatever_the_order_of_keys():
    run = Run("0", (Target.parse(DEEP),))
    other = Run("0", (Target.parse(dict(reversed(DEEP.items()))),))
    assert render("json", run, VIEW) == render("json", other, VIEW)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "old"},
        {"findings": [3]},
        {"findings": [{"severity": "fatal"}]},
        {"findings": {}},
        {"probe": {"status": "great"}},
        {"notices": [1]},
        {"risk": "high"},
        {"skipped": {"x": "y"}},
        {"target": ["a"]},
        {"sources": {"a": ["b"]}},
        {"rules": {"a": 1}},
    ],
)
def test_a_wrong_record_is_refused(change):
    with pytest.raises(RecordError):
        Target.parse({**DEEP, **change})
