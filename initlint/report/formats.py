"""The formats a report can be written in, imported when one is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from initlint.report.run import Run
    from initlint.report.style import View

FORMATS = {
    "full": "initlint.report.full",
    "concise": "initlint.report.concise",
    "json": "initlint.report.json",
    "jsonl": "initlint.report.jsonl",
    "sarif": "initlint.report.sarif",
    "github": "initlint.report.github",
    "gitlab": "initlint.report.gitlab",
    "junit": "initlint.report.junit",
    "markdown": "initlint.report.markdown",
    "html": "initlint.report.html",
}
"""Module of each format; it has ``render(run, view) -> str``."""


def prepare(name: str) -> None:
    """Import a format's module now, while the workers are busy."""
    import_module(FORMATS[name])


def render(name: str, run: Run, view: View) -> str:
    """The run in the format called ``name``."""
    text: str = import_module(FORMATS[name]).render(run, view)
    return text
