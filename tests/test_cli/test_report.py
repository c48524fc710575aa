"""``initlint report``: every format again, byte for byte, without linting."""

from __future__ import annotations

import json

import pytest

from initlint.report.formats import FORMATS


@pytest.fixture
def recorded(call, here):
    reports = [f"--report={name}={here}/first.{name}" for name in FORMATS]
    result = call("broken.safetensors", "healthy.safetensors", "gone.onnx", "--verbose", *reports)
    assert result.code == 2
    return here


@pytest.mark.parametrize("name", FORMATS)
def test_renders_what_the_run_rendered(name, call, recorded):
    result = call("report", "first.json", f"--report={name}=again.{name}", "--quiet")
    assert result.code == 2
    options = ("--report", f"{name}=plain.{name}")
    assert call("report", "first.json", *options).code == 2
    assert (recorded / f"plain.{name}").read_bytes() == (recorded / f"first.{name}").read_bytes()


def test_the_exit_code_is_that_of_the_run(call):
    code = call("broken.safetensors", "--report", "json=run.json").code
    assert code == 1
    assert call("report", "run.json").code == 1
    assert call("report", "run.json", "--exit-zero").code == 0
    assert call("report", "run.json", "--fail-on", "never").code == 0
    call("healthy.safetensors", "--report", "json=run.json")
    assert call("report", "run.json").code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no JSON report"),
        ('{"schema": 2}', "is no JSON report"),
        ('{"schema": 1, "targets": 7}', "targets is not a list"),
        ('{"schema": 1, "targets": [{"stage": "x"}]}', "is no JSON report"),
        ("[" * 100_000, "is not JSON"),
        ('{"schema": 1, "targets": [{"findings": [[]]}]}', "a finding is not an object"),
    ],
)
def test_anything_else_is_one_clear_line(call, here, text, words):
    (here / "run.json").write_text(text)
    result = call("report", "run.json")
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert len(result.err.splitlines()) == 1


def test_a_missing_file(call):
    result = call("report", "gone.json")
    assert result.code == 2
    assert "no such file" in result.err


def test_accepted_findings_stay_accepted(call):
    call("broken.safetensors", "--write-baseline", "b.jsonl", "--report", "json=run.json")
    result = call("report", "run.json", "--format", "json")
    assert result.code == 0
    findings = json.loads(result.out)["targets"][0]["findings"]
    assert {finding["suppressed"]["kind"] for finding in findings} == {"baseline"}
    assert {finding["baseline"] for finding in findings} == {"unchanged"}
