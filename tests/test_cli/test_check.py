"""``initlint check`` from end to end."""

from __future__ import annotations

import json
import os
import sys

import jsonschema
import pytest

from tests.test_report_json import SCHEMA


def test_finding_is_reported_with_its_evidence(call):
    result = call("broken.safetensors")
    assert result.code == 1
    assert result.out.startswith("error[non-finite] NUM951: ")
    assert "--> broken.safetensors :: fc1.weight  float32[64, 64]" in result.out
    assert "broken.safetensors: stage fresh · 1 error" in result.out
    assert result.err == ""
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_healthy_model_is_clean(call):
    result = call("check", "healthy.safetensors")
    assert result.code == 0
    assert "no findings from" in result.out
    assert "did not run: the target has no graph" in result.out


def test_every_target_is_linted_and_2_wins(call):
    result = call("gone.onnx", "broken.safetensors", "healthy.safetensors", "--format", "concise")
    assert result.code == 2
    assert result.err == "initlint: gone.onnx: there is no such file or folder\n"
    assert "broken.safetensors: fc1: error[non-finite] NUM951" in result.out
    assert result.out.endswith("2 targets checked: 1 error · 1 not checked\n")


def test_exit_zero_hides_1_but_never_2(call):
    assert call("broken.safetensors", "--exit-zero").code == 0
    assert call("broken.safetensors", "gone.onnx", "--exit-zero").code == 2


@pytest.mark.parametrize(("limit", "code"), [("never", 0), ("info", 1), ("error", 1)])
def test_fail_on(call, limit, code):
    assert call("broken.safetensors", "--fail-on", limit).code == code


def test_json_is_valid_and_the_same_every_time(shell):
    first = shell("broken.safetensors", "gone.onnx", "--format", "json", PYTHONHASHSEED="1")
    again = shell("broken.safetensors", "gone.onnx", "--format", "json", PYTHONHASHSEED="2")
    assert first.code == again.code == 2
    assert first.out == again.out
    value = json.loads(first.out)
    jsonschema.validate(value, SCHEMA)
    assert value["errors"][0]["target"] == "gone.onnx"


def test_the_format_never_changes_the_code(call):
    codes = {call("broken.safetensors", "--format", name).code for name in ("full", "concise")}
    assert codes == {1}


def test_ignore_and_select(call):
    assert call("broken.safetensors", "--ignore", "non-finite").code == 0
    assert call("broken.safetensors", "--select", "NUM").code == 1
    assert "from 1 rule" in call("healthy.safetensors", "--select", "NUM951").out


def test_unknown_rule_is_said_once(call):
    result = call("broken.safetensors", "healthy.safetensors", "--select", "non-finit")
    assert result.code == 2
    assert result.err == "initlint: unknown rule 'non-finit': did you mean 'non-finite'?\n"


def test_report_files(call, here):
    result = call("broken.safetensors", "--report", "json=r.json", "--report", "concise=r.txt")
    assert result.code == 1
    jsonschema.validate(json.loads((here / "r.json").read_text()), SCHEMA)
    assert "error[non-finite]" in (here / "r.txt").read_text()
    assert sorted(path.suffix for path in here.iterdir()) == [
        ".json",
        ".safetensors",
        ".safetensors",
        ".txt",
    ]


def test_report_never_overwrites_a_target(call, here):
    before = (here / "healthy.safetensors").read_bytes()
    result = call("healthy.safetensors", "--report", "json=healthy.safetensors")
    assert result.code == 2
    assert "not overwritten" in result.err
    assert (here / "healthy.safetensors").read_bytes() == before


def test_report_that_cannot_be_written(call):
    result = call("healthy.safetensors", "--report", "json=no/such/folder/r.json")
    assert result.code == 2
    assert "cannot be written" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--report", "nope=r"],
        ["--report", "json"],
        ["--report", "json=-"],
        ["--format", "nope"],
        ["--fail-on", "fatal"],
        ["--selct", "x"],
        ["--input-shape", "1,a"],
        ["--arg", "novalue"],
        ["--jobs", "0"],
        ["--config", "gone.toml"],
    ],
)
def test_bad_calls_are_2(call, arguments):
    result = call("healthy.safetensors", *arguments)
    assert result.code == 2
    assert result.err
    assert result.out == ""


def test_mistyped_option_and_command_get_a_suggestion(call):
    assert "--select" in call("healthy.safetensors", "--selct", "x").err
    assert "`initlint explain`" in call("explian").err


def test_configuration(call, here):
    (here / "pyproject.toml").write_text('[tool.initlint]\nignore = ["NUM"]\n')
    assert call("broken.safetensors").code == 0
    assert call("broken.safetensors", "--ignore", "SCL").code == 1, "the command line wins"
    (here / "pyproject.toml").write_text("[tool.initlint]\nignor = []\n")
    result = call("broken.safetensors")
    assert result.code == 2
    assert result.err == (
        "initlint: pyproject.toml:2: unknown option 'ignor'; did you mean 'ignore'?\n"
    )


def test_allow_keeps_the_finding_in_json_and_reports_what_is_not_needed(call, here):
    (here / "initlint.toml").write_text(
        '[[allow]]\nrule = "non-finite"\nlayer = "fc1"\nreason = "on purpose"\n'
        '[[allow]]\nrule = "non-finite"\nlayer = "fc9"\nreason = "never was"\n'
    )
    result = call("broken.safetensors", "--format", "json")
    assert result.code == 0
    (finding,) = json.loads(result.out)["targets"][0]["findings"]
    assert finding["suppressed"] == {
        "kind": "config",
        "reason": "on purpose",
        "place": "initlint.toml:1",
    }
    assert "initlint.toml:5: the allow of non-finite is not needed" in result.err


def test_allow_of_an_unknown_rule_is_an_error(call, here):
    (here / "initlint.toml").write_text('[[allow]]\nrule = "nonfinite"\nreason = "r"\n')
    result = call("broken.safetensors")
    assert result.code == 2
    assert "initlint.toml:1: unknown rule 'nonfinite' in allow" in result.err


def test_configuration_never_comes_from_the_models_folder(call, here, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("model")
    (here / "broken.safetensors").rename(elsewhere / "broken.safetensors")
    (elsewhere / "initlint.toml").write_text('ignore = ["ALL"]\n')
    assert call(str(elsewhere / "broken.safetensors")).code == 1


def test_folder_pattern_and_duplicates(call):
    assert "2 targets checked: 1 error" in call(".").out
    assert "2 targets checked: 1 error" in call("*.safetensors", "broken.safetensors").out


def test_verbose_adds_the_layers(call):
    value = json.loads(call("healthy.safetensors", "--format", "json", "-v").out)
    jsonschema.validate(value, SCHEMA)
    assert [layer["id"] for layer in value["targets"][0]["layers"]] == ["fc1", "fc2"]
    assert "layers" not in json.loads(call("healthy.safetensors", "--format", "json").out)


def test_statistics_and_quiet(call):
    result = call("broken.safetensors", "--statistics", "--quiet")
    assert "count  code    worst    rule\n    1  NUM951  error    non-finite" in result.out
    assert "stage fresh" not in result.out


def test_colour_only_on_request_when_piped(shell):
    assert "\x1b[" not in shell("broken.safetensors").out
    assert "\x1b[1;31merror[non-finite]" in shell("broken.safetensors", FORCE_COLOR="1").out


def test_ascii_output(shell):
    out = shell("healthy.safetensors", PYTHONIOENCODING="ascii").out
    assert out.isascii()
    assert "stage fresh - no findings" in out


def test_a_folder_full_of_modules_shadows_nothing(shell, here):
    for name in ("numpy", "json", "initlint", "typer", "onnx"):
        (here / f"{name}.py").write_text("raise SystemExit('code from the model folder ran')\n")
    (here / "sitecustomize.py").write_text("print('code from the model folder ran')\n")
    result = shell("healthy.safetensors", PYTHONSAFEPATH="1")
    assert result.code == 0
    assert "code from" not in result.out + result.err


def test_nothing_is_written(shell, here, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    before = sorted(os.listdir(here))
    environment = {"HOME": str(home), "TMPDIR": str(home), "CI": ""}
    assert shell("healthy.safetensors", **environment).code == 0
    assert sorted(os.listdir(here)) == before
    assert not list(home.rglob("*"))


def test_the_parent_imports_neither_framework_nor_numpy(here):
    import subprocess

    script = (
        "import sys; from initlint.__main__ import main; main(['healthy.safetensors']); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'numpy', 'onnx', 'onnxruntime', 'torch', 'networkx', 'rich'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")


def test_names_from_the_file_are_escaped(call, here):
    import numpy as np

    from tests.test_cli.files import safetensors

    name = "\x1b[2Jx\n::error::##[group].weight"
    safetensors(here / "evil.safetensors", **{name: np.full((8, 8), np.nan)})
    for form in ("full", "concise", "json"):
        result = call("evil.safetensors", "--format", form)
        assert result.code in (1, 2)
        for line in (result.out + result.err).splitlines():
            assert line.isprintable()
            assert "::error" not in line
            assert "##[" not in line


def test_baseline_from_the_command_line(call, here):
    assert call("broken.safetensors", "--write-baseline", "b.jsonl").code == 0
    result = call("broken.safetensors", "--baseline", "b.jsonl")
    assert result.code == 0
    assert "1 suppressed" in result.out
    stale = call(
        "healthy.safetensors", "broken.safetensors", "--ignore", "NUM", "--baseline", "b.jsonl"
    )
    assert stale.err == "", "a rule that did not run says nothing about its lines"


def test_baseline_is_not_written_when_something_was_not_checked(call, here):
    (here / "b.jsonl").write_text("")
    result = call("broken.safetensors", "gone.onnx", "--write-baseline", "b.jsonl")
    assert result.code == 2
    assert "not written" in result.err
    assert (here / "b.jsonl").read_text() == ""
