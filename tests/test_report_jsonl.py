"""JSON Lines: every line an object with a type, findings as in the JSON report."""

from __future__ import annotations

import json

from initlint.report.formats import render
from initlint.report.style import View
from tests.report_sample import hostile_run, sample_run


def lines(run):
    text = render("jsonl", run, View())
    text.encode("ascii")
    return [json.loads(line) for line in text.splitlines()]


def test_one_line_per_thing():
    kinds = [line["type"] for line in lines(sample_run())]
    assert kinds == ["finding"] * 3 + ["target"] * 2 + ["error", "notice", "summary"]


def test_findings_are_those_of_the_json_report():
    whole = json.loads(render("json", sample_run(), View()))
    found = [line for line in lines(sample_run()) if line["type"] == "finding"]
    for line, finding in zip(found, whole["targets"][0]["findings"], strict=True):
        assert line.pop("type") == "finding"
        assert line.pop("target") == "deep.onnx"
        assert line == finding


def test_the_last_line_counts():
    last = lines(sample_run())[-1]
    assert last["summary"] == {"error": 1, "warning": 0, "info": 1}
    assert (last["targets"], last["errors"]) == (2, 1)


def test_a_line_stays_a_line():
    text = render("jsonl", hostile_run(), View())
    assert len(text.splitlines()) == len(text.split("\n")) - 1
    assert "##[" not in text
    assert "::error" not in text
