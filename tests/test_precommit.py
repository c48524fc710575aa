"""The pre-commit hooks, run by pre-commit itself on a repository made here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.onnx_models import main as write_model

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or not (BIN / "pre-commit").exists(),
    reason="needs git and pre-commit",
)

MODULE = """\
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        nn.init.zeros_(self[0].weight)
        nn.init.zeros_(self[0].bias)
        nn.init.zeros_(self[2].weight)
"""

POINTER = """\
version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


@pytest.fixture
def run(tmp_path):
    """Call a program in a new repository, with caches of its own and our initlint on the path."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'rules'}",
        "PRE_COMMIT_HOME": str(tmp_path / "cache"),
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    folder = tmp_path / "project"
    folder.mkdir()

    def call(*command, cwd=folder):
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    call("git", "init", "-q")
    return call


def hooks(run, tmp_path):
    """A repository with our hooks; its own tool is the initlint that is installed already."""
    folder = tmp_path / "hooks"
    folder.mkdir()
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    (folder / ".pre-commit-hooks.yaml").write_text(
        text.replace("language: python", "language: system")
    )
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "hooks")):
        assert run("git", *command, cwd=folder).returncode == 0
    return folder


def try_repo(run, folder, hook, *more):
    run("git", "add", "-A")
    return run(str(BIN / "pre-commit"), "try-repo", str(folder), hook, "--verbose", *more)


def test_weight_files_are_linted_when_they_change(run, tmp_path):
    project = tmp_path / "project"
    write_model(["bad_mlp_duplicated_units", str(project / "bad.onnx")])
    (project / "notes.txt").write_text("no weights")
    done = try_repo(run, hooks(run, tmp_path), "initlint")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "bad.onnx :: " in done.stdout
    assert "notes.txt" not in done.stdout
    (project / "bad.onnx").unlink()
    write_model(["good_mlp_he", str(project / "good.onnx")])
    done = try_repo(run, tmp_path / "hooks", "initlint")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good.onnx: stage fresh" in done.stdout


def test_a_pointer_that_was_not_pulled_is_named(run, tmp_path):
    (tmp_path / "project" / "weights.safetensors").write_text(POINTER)
    done = try_repo(run, hooks(run, tmp_path), "initlint")
    assert done.returncode == 1
    assert "exit code: 2" in done.stdout
    assert "LFS" in done.stdout


def test_no_weights_no_run(run, tmp_path):
    (tmp_path / "project" / "notes.txt").write_text("no weights")
    done = try_repo(run, hooks(run, tmp_path), "initlint")
    assert done.returncode == 0
    assert "no files to check" in done.stdout


def test_a_module_is_linted_when_python_files_change(run, tmp_path):
    pytest.importorskip("torch")
    project = tmp_path / "project"
    (project / "net.py").write_text(MODULE)
    hooks(run, tmp_path)
    (project / ".pre-commit-config.yaml").write_text(
        "repos:\n"
        f"  - repo: {tmp_path / 'hooks'}\n"
        f"    rev: {run('git', 'rev-parse', 'HEAD', cwd=tmp_path / 'hooks').stdout.strip()}\n"
        "    hooks: [{id: initlint-module, args: [net.py:Net]}]\n"
    )
    run("git", "add", "-A")
    done = run(str(BIN / "pre-commit"), "run", "--verbose")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "zero-weight" in done.stdout
    assert "net.py:7" in done.stdout


def test_our_own_hooks_are_valid():
    done = subprocess.run(
        [BIN / "pre-commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml"], check=False
    )
    assert done.returncode == 0
