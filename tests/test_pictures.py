"""The pictures of the documentation show what the program computes and prints."""

from __future__ import annotations

import importlib
import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"


@pytest.fixture
def script(monkeypatch):
    """A module of the folder docs, by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_the_picture_of_a_run_is_a_real_run(script):
    terminal = script("terminal_picture")
    wanted = [line.rstrip() for line in terminal.plain(terminal.run()).splitlines()]
    shown = terminal.text_of((PICTURES / "run.svg").read_text(encoding="utf-8"))
    assert shown.splitlines() == "\n".join(wanted).rstrip().splitlines(), "run: make pictures"


def test_a_picture_keeps_text_columns_and_colours(script):
    terminal = script("terminal_picture")
    text = "\x1b[1;31ma < b\x1b[0m  & c\n\n  \x1b[2mlast\x1b[0m\n"
    picture = terminal.svg(text)
    assert terminal.text_of(picture) == "a < b  & c\n\n  last\n"
    assert picture.count('font-weight="bold"') == 1
    assert terminal.COLOURS["31"] in picture


def test_the_pictures_of_the_theory_are_up_to_date(script, tmp_path):
    theory = script("theory_pictures")
    assert theory.write(theory.PICTURES, str(tmp_path)) == len(theory.PICTURES)
    for name in theory.PICTURES:
        drawn = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        kept = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
        # Matrix products differ between processors in the last bits: a tenth of a pixel here.
        assert numbers(drawn) == pytest.approx(numbers(kept), abs=0.11), "run: make pictures"
        assert re.sub(r"[\d.]+", "", drawn) == re.sub(r"[\d.]+", "", kept), "run: make pictures"


def test_words_beside_a_chart_stand_apart(script):
    chart = script("chart")
    lines = {f"line {number}": [(0.0, 0.0), (1.0, 9.0)] for number in range(5)}
    marks = {"error": 8.0, "warning": 7.8, "info": 4.0}
    picture = chart.Chart("title", "x", "y", lines, marks, band=(1.0, 2.0)).svg()
    beside = chart.WIDTH - chart.RIGHT
    words = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="start"', picture)
    heights = sorted(float(y) for x, y in words if float(x) > beside)
    assert len(heights) == 9
    assert all(b - a >= 11 for a, b in pairwise(heights))


def test_no_picture_asks_for_another_file():
    for file in (ROOT / "docs").rglob("*.svg"):
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|url\(|<image|<script|@import", text), file.name
