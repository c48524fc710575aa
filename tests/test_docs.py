"""The tutorial is run, and the site builds.

    python -m tests.test_docs

writes what the commands print into the pages.
"""

from __future__ import annotations

import importlib
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
PAGES = sorted(
    file
    for file in (ROOT / "docs").rglob("*.md")
    if "```console\n" in file.read_text(encoding="utf-8")
)
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


def ruleless(text: str) -> str:
    """The text without the number of rules, which grows."""
    return re.sub(r"from \d+ rules", "from … rules", text)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_what_its_commands_print(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) == text.count("```console")
    assert ruleless(replay(text, tmp_path)) == ruleless(text), "run: python -m tests.test_docs"


def test_the_reference_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.setenv("COLUMNS", "80")
    reference = importlib.import_module("reference")
    folder = ROOT / "docs" / "reference"
    stale = [
        name
        for name, page in reference.PAGES.items()
        if (folder / name).read_text(encoding="utf-8") != page()
    ]
    assert stale == [], "run: make reference"


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
    for page in PAGES:
        with tempfile.TemporaryDirectory() as name:
            page.write_text(replay(page.read_text(encoding="utf-8"), Path(name)), encoding="utf-8")
