"""The tutorial is run, and the site builds.

    python -m tests.test_docs

writes what the commands print into the tutorial.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"```console\n\$ ([^\n]+)\n(.*?)```", re.S)


def run(command: str, folder: Path) -> str:
    """What a command prints, without times and without the folder it ran in."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    library = f"{ROOT}{os.pathsep}{ROOT / 'rules'}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": library, "COLUMNS": "80", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    text = done.stdout.replace(f"{folder}/", "")
    return re.sub(r"\b\d+(\.\d+)? ?(ms|s)\b", "… s", text)


def replay(text: str, folder: Path) -> str:
    """The page with what its commands print now."""
    return BLOCK.sub(lambda match: f"```console\n$ {match[1]}\n{run(match[1], folder)}```", text)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_tutorial_shows_what_its_commands_print(tmp_path):
    text = TUTORIAL.read_text()
    assert replay(text, tmp_path) == text, "run: python -m tests.test_docs"
    assert (tmp_path / "initlint.xml").exists()


def test_a_stranger_needs_one_command_for_each_step():
    steps = ["The first finding", "Explained", "Fixed", "Verified", "In CI"]
    sections = re.split(r"^## ", TUTORIAL.read_text(), flags=re.M)[1:]
    commands = {part.partition("\n")[0]: len(BLOCK.findall(part)) for part in sections}
    assert commands == dict.fromkeys(steps, 1)


def test_the_site_builds_and_names_no_foreign_host(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "tutorial.html").read_text()
    loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?://[^\s\">]+)", page)
    assert loaded == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        TUTORIAL.write_text(replay(TUTORIAL.read_text(), Path(name)))
