"""Running the command as a user does, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import initlint
from initlint.__main__ import main
from tests.test_cli.files import broken, healthy

ROOT = Path(initlint.__file__).parents[1]


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    healthy(tmp_path / "healthy.safetensors")
    broken(tmp_path / "broken.safetensors")
    return tmp_path


@pytest.fixture
def call(here, capsys):
    """Call the command line in this process; the workers are processes all the same."""

    def run(*arguments: str) -> Result:
        code = main(list(arguments))
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Result(code, out, err)

    return run


@pytest.fixture
def shell(here):
    """Call ``python -m initlint`` as a process of its own."""

    def run(*arguments: str, **environment: str) -> Result:
        path = f"{ROOT}{os.pathsep}{ROOT / 'rules'}"
        done = subprocess.run(
            [sys.executable, "-m", "initlint", *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path, **environment},
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    return run
