"""The GitHub Action and the recipes of docs/ci.md: valid, and their scripts run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from junitparser import JUnitXml

from fixtures.onnx_models import main as write_model

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
RECIPES = dict(
    re.findall(
        r"^## ([^\n]+)\n.*?```(?:yaml|sh)\n(.*?)```", (ROOT / "docs/ci.md").read_text(), re.S | re.M
    )
)

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def shell(tmp_path):
    """Run a script as a CI runner does, with models in ``checkpoints/``."""
    (tmp_path / "checkpoints").mkdir()
    write_model(["bad_mlp_duplicated_units", str(tmp_path / "checkpoints" / "bad.onnx")])
    write_model(["good_mlp_he", str(tmp_path / "checkpoints" / "good one.onnx")])
    (tmp_path / "summary").write_text("")

    def run(script, **environment):
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'rules'}",
                "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    run.folder = tmp_path
    return run


def validate(schema, path):
    tool = BIN / "check-jsonschema"
    if not tool.exists():
        pytest.skip("check-jsonschema is not installed")
    done = subprocess.run(
        [tool, "--builtin-schema", schema, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_action_is_valid():
    validate("vendor.github-actions", ROOT / "action.yml")


@pytest.mark.parametrize(
    ("title", "schema"),
    [("GitHub Actions", "vendor.github-workflows"), ("GitLab CI", "vendor.gitlab-ci")],
)
def test_recipes_are_valid(title, schema, tmp_path):
    path = tmp_path / "recipe.yml"
    path.write_text(RECIPES[title])
    validate(schema, path)


def test_the_pre_commit_recipe_names_hooks_that_exist():
    (repository,) = yaml.safe_load(RECIPES["Before every commit"])["repos"]
    known = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    assert {hook["id"] for hook in repository["hooks"]} == known


def test_no_input_is_written_into_a_script():
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


def lint(shell, **inputs):
    (step,) = (step for step in ACTION["runs"]["steps"] if step["name"] == "Lint")
    values = {name: entry.get("default", "") for name, entry in ACTION["inputs"].items()}
    values.update(inputs)
    environment = {
        name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda match: values[match[1]], text)
        for name, text in step["env"].items()
    }
    return shell(step["run"], **environment)


@needs_bash
def test_the_action_annotates_summarises_and_writes_sarif(shell):
    done = lint(shell, targets="checkpoints/bad.onnx\n\n  checkpoints/good one.onnx\n")
    assert done.returncode == 1, done.stderr
    assert re.search(r"^::error file=checkpoints/bad\.onnx,title=", done.stdout, re.M)
    assert "good one.onnx: stage fresh" in done.stdout
    assert (shell.folder / "summary").read_text().startswith("### initlint: 1 error")
    log = json.loads((shell.folder / "initlint.sarif").read_text())
    assert log["runs"][0]["results"][0]["level"] == "error"
    assert log["runs"][0]["tool"]["driver"]["rules"][0]["help"]["markdown"]


@needs_bash
def test_the_action_passes_options_and_takes_targets_for_nothing_else(shell):
    done = lint(shell, targets="checkpoints/", options="--fail-on never --no-probe")
    assert done.returncode == 0, done.stderr
    done = lint(shell, targets="$(touch owned)\n--exit-zero")
    assert done.returncode == 2
    assert not (shell.folder / "owned").exists()


@needs_bash
def test_the_gitlab_recipe(shell):
    job = yaml.safe_load(RECIPES["GitLab CI"])["initlint"]
    done = shell("\n".join(job["script"]))
    assert done.returncode == 1, done.stderr
    artifacts = job["artifacts"]
    quality = json.loads((shell.folder / artifacts["reports"]["codequality"]).read_text())
    assert quality[0]["location"]["path"] == "checkpoints/bad.onnx"
    suites = list(JUnitXml.fromfile(str(shell.folder / artifacts["reports"]["junit"])))
    assert sum(suite.failures for suite in suites) == 1
    assert (shell.folder / artifacts["paths"][0]).read_text().startswith("<!doctype html>")


@needs_bash
def test_the_shell_recipe(shell):
    done = shell(RECIPES["Any shell"])
    assert done.returncode == 1, done.stderr
    assert (shell.folder / "summary.md").read_text().startswith("### initlint: 1 error")
    assert "<svg" in (shell.folder / "initlint.html").read_text()
    done = shell("initlint report run.json --exit-zero --report html=page.html")
    page = (shell.folder / "page.html").read_text()
    assert page == (shell.folder / "initlint.html").read_text()


@needs_bash
def test_adopting_it(shell):
    done = shell("set -e\n" + RECIPES["Adopting it on an old code base"])
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads((shell.folder / "initlint-baseline.jsonl").read_text())
    assert line["target"] == "checkpoints/bad.onnx"
