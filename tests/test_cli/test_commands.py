"""Help, version, and the commands that talk about rules and layers."""

from __future__ import annotations

import json

import jsonschema
import pytest
import typer

from initlint import __version__
from initlint.cli import COMMANDS
from initlint.cli.app import app, help_page, with_default_command
from tests.test_report_json import SCHEMA


def test_version(call):
    assert call("--version").out == f"initlint {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_of_the_whole(call, arguments):
    result = call(*arguments)
    assert result.code == (0 if arguments else 2)
    for word in ("check", "describe", "explain", "rules", "initlint model.onnx", "Exit codes"):
        assert word in result.out


@pytest.mark.parametrize("command", ["check", "describe", "explain", "rules"])
def test_help_of_a_command(call, command):
    result = call(command, "--help")
    assert result.code == 0
    assert f"Usage: initlint {command}" in result.out
    assert all(len(line) <= 88 for line in result.out.splitlines())


def test_help_after_a_target_is_that_of_check(call):
    assert call("model.onnx", "--help").out == call("check", "--help").out


def test_default_command():
    assert with_default_command(["m.onnx"]) == ["check", "m.onnx"]
    assert with_default_command(["--no-probe", "m.onnx"]) == ["check", "--no-probe", "m.onnx"]
    assert with_default_command(["rules"]) == ["rules"]


def test_rules_in_three_formats(call):
    text = call("rules").out
    assert "NUM951  non-finite" in text
    value = json.loads(call("rules", "--format", "json").out)
    rule = next(rule for rule in value["rules"] if rule["name"] == "non-finite")
    assert rule["code"] == "NUM951"
    assert "`non-finite`" in call("rules", "--format", "markdown").out


@pytest.mark.parametrize("name", ["non-finite", "NUM951", "num951"])
def test_explain(call, name):
    result = call("explain", name)
    assert result.code == 0
    assert result.out.startswith("non-finite (NUM951)")
    assert "What it does" in result.out


def test_explain_unknown(call):
    result = call("explain", "non-finit")
    assert result.code == 2
    assert result.err == "initlint: unknown rule 'non-finit': did you mean 'non-finite'?\n"


def test_describe(call):
    result = call("describe", "healthy.safetensors")
    assert result.code == 0
    assert "normal(0.02)" in result.out
    assert "64x64" in result.out
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_describe_json_and_markdown(call):
    value = json.loads(call("describe", "healthy.safetensors", "--format", "json").out)
    jsonschema.validate(value, SCHEMA)
    assert len(value["targets"][0]["layers"]) == 2
    assert "| `fc1` |" in call("describe", "healthy.safetensors", "--format", "markdown").out


def test_describe_missing(call):
    assert call("describe", "gone.onnx").code == 2


def test_completion(shell):
    result = shell(_INITLINT_COMPLETE="complete_bash", COMP_WORDS="initlint de", COMP_CWORD="1")
    assert "describe" in result.out


def test_defect_is_one_line(call, monkeypatch):
    from initlint.cli import app

    def fail(arguments):
        raise KeyError("odd\nthing")

    monkeypatch.setattr(app, "run", fail)
    result = call("rules")
    assert result.code == 2
    assert result.err.startswith("initlint: a defect of initlint at test_commands.py:")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), ["baseline", "prune"]])
def test_help_pages_are_those_of_all_commands_together(words):
    whole = typer.main.get_command(app)
    context = whole.context_class(whole, info_name="initlint", help_option_names=["-h", "--help"])
    command = whole
    for word in words:
        command = command.get_command(context, word)
        context = command.context_class(command, context, info_name=word)
    assert help_page([*words, "--help"]) == command.get_help(context)
