"""A run in a terminal as a picture: the text and colours that `initlint` prints, as an SVG.

python docs/terminal_picture.py docs/pictures/run.svg
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = "bad_deep_relu_xavier"
ARGUMENTS = ("net.onnx", "--plot")

CELL, LINE, MARGIN, COLUMNS = 7.8, 17, 16, 80
BACKGROUND, TEXT = "#1d2430", "#d5dbe5"
COLOURS = {"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "34": "#79c0ff", "36": "#76e3ea"}
CODE = re.compile(r"\x1b\[([\d;]*)m")


def run() -> str:
    """What the command prints on a terminal of 80 columns, with its colour codes."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'rules'}",
            "FORCE_COLOR": "1",
            "COLUMNS": str(COLUMNS),
            "PYTHONIOENCODING": "utf-8",
        }
        environment.pop("NO_COLOR", None)
        make = [sys.executable, "-m", "fixtures.onnx_models", MODEL, f"{folder}/net.onnx"]
        subprocess.run(make, cwd=ROOT, env=environment, check=True, capture_output=True)
        done = subprocess.run(
            [sys.executable, "-m", "initlint", *ARGUMENTS],
            cwd=folder,
            env=environment,
            check=False,
            capture_output=True,
            encoding="utf-8",
        )
    if done.returncode != 1:
        raise SystemExit(f"the run ended with {done.returncode}: {done.stderr}")
    return f"$ initlint {' '.join(ARGUMENTS)}\n{done.stdout}"


def plain(text: str) -> str:
    """The text without colour codes."""
    return CODE.sub("", text)


def _pieces(line: str) -> list[tuple[int, str, str]]:
    """Column, text and codes of each piece that has one style and no two blanks in a row.

    Blanks are left out, because not every reader keeps them; the columns say where they are.
    """
    pieces, column, codes = [], 0, ""
    for index, part in enumerate(CODE.split(line)):
        if index % 2:
            codes = part
            continue
        for words in re.finditer(r"\S+(?: \S+)*", part):
            pieces.append((column + words.start(), words[0], codes))
        column += len(part)
    return pieces


def _style(codes: str) -> str:
    marks = codes.split(";")
    colour = next((COLOURS[mark] for mark in marks if mark in COLOURS), None)
    style = f' fill="{colour}"' if colour else ""
    style += ' font-weight="bold"' if "1" in marks else ""
    return style + (' fill-opacity="0.65"' if "2" in marks else "")


def svg(text: str) -> str:
    """The picture: each piece is as wide as its columns, whatever the font of the reader."""
    lines = text.rstrip("\n").split("\n")
    width = round(2 * MARGIN + CELL * COLUMNS)
    height = 2 * MARGIN + LINE * len(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="initlint in a terminal">',
        f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>',
        f'<g font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" '
        f'font-size="13" fill="{TEXT}">',
    ]
    for row, line in enumerate(lines):
        y = MARGIN + LINE * row + 13
        for column, piece, codes in _pieces(line):
            x, size = round(MARGIN + CELL * column, 1), round(CELL * len(piece), 1)
            shown = piece.replace("&", "&amp;").replace("<", "&lt;")
            parts.append(
                f'<text x="{x}" y="{y}" textLength="{size}" lengthAdjust="spacingAndGlyphs"'
                f"{_style(codes)}>{shown}</text>"
            )
    return "\n".join([*parts, "</g>", "</svg>", ""])


def text_of(picture: str) -> str:
    """The text that a picture of `svg` shows, line by line."""
    rows: dict[int, str] = {}
    for x, y, piece in re.findall(r'<text x="([\d.]+)" y="(\d+)"[^>]*>([^<]*)</text>', picture):
        row, column = (int(y) - 13 - MARGIN) // LINE, round((float(x) - MARGIN) / CELL)
        shown = piece.replace("&lt;", "<").replace("&amp;", "&")
        rows[row] = rows.get(row, "").ljust(column) + shown
    return "\n".join(rows.get(row, "") for row in range(max(rows) + 1)) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(run()), encoding="utf-8")
