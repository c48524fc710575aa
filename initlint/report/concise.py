"""One line per finding, for editors and grep: ``target: layer: error[name] CODE message``."""

from __future__ import annotations

from dataclasses import replace

from initlint.report.run import Run
from initlint.report.style import View
from initlint.report.summary import closing, statistics, verdict
from initlint.report.text import inert

UNLIMITED = 10_000
"""Columns: a line is a line here, however narrow the terminal."""


def render(run: Run, view: View) -> str:
    """The whole run, a line per finding and, unless quiet, a line per target."""
    style = view.style
    lines: list[str] = []
    for target in run.targets:
        for finding in run.shown(target.active):
            head = style.paint(f"{finding.severity}[{finding.name}]", finding.severity)
            more = f" (and {len(finding.layers) - 1} more)" if len(finding.layers) > 1 else ""
            message = finding.message.show(600)
            lines.append(f"{target.target}: {finding.layer}{more}: {head} {finding.code} {message}")
        if not view.quiet:
            lines.append(f"{target.target}: {verdict(target)}")
    if view.statistics:
        lines.extend(statistics(run))
    if not view.quiet:
        lines.extend(closing(run, replace(style, width=UNLIMITED)))
    return "".join(f"{inert(line)}\n" for line in lines)
