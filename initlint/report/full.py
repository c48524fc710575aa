"""The report for people: errors and warnings in full, infos one line each, worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from initlint.records import Finding, Target
from initlint.report.places import from_here
from initlint.report.plot import plot
from initlint.report.run import Run
from initlint.report.style import Style, View
from initlint.report.summary import (
    closing,
    listing,
    plural,
    risk_text,
    statistics,
    unchecked,
    verdict,
)
from initlint.report.text import Untrusted, inert

MOST_PER_RULE = 10
"""Findings of one rule in one target that are written out; the rest are counted."""

RISKY = 0.5
"""Risk from which its reasons are printed: more likely harmed than not."""

_LEAST_ROOM = 8
"""Characters of an info's text that are shown on however narrow a terminal."""


def render(run: Run, view: View) -> str:
    """The whole run as text."""
    style = view.style
    lines: list[str] = []
    for target in run.targets:
        lines.extend(_target(target, run.shown(target.active), style, quiet=view.quiet))
        if view.plot:
            lines.extend(plot(target, style))
    if view.statistics:
        lines.extend(["", *statistics(run)] if lines else statistics(run))
    if not view.quiet:
        ending = closing(run, style)
        lines.extend(["", *ending] if lines and ending else ending)
    return "".join(f"{inert(line.rstrip())}\n" for line in lines)


def render_target(record: Mapping[str, Any], style: Style | None = None) -> str:
    """One target, from its JSON object, as text."""
    target = Target.parse(dict(record))
    lines = _target(target, list(target.active), style or Style(), quiet=False)
    return "\n".join(inert(line.rstrip()) for line in lines)


def _target(target: Target, findings: list[Finding], style: Style, *, quiet: bool) -> list[str]:
    lines: list[str] = []
    written: Counter[str] = Counter()
    for finding in findings:
        written[finding.name] += 1
        if written[finding.name] > MOST_PER_RULE:
            continue
        if finding.severity == "info":
            lines.append(_line(finding, style))
        else:
            lines.extend(_block(target, finding, style))
    for name, count in written.items():
        if count > MOST_PER_RULE:
            lines.append(f"… and {count - MOST_PER_RULE} more from {name}")
    if quiet:
        return lines
    if lines and lines[-1]:
        lines.append("")
    role = "good" if not findings and not target.failures else "bold"
    head, *more = style.wrap(f"{target.target}: {verdict(target)}", rest="  ")
    lines.append(style.paint(head, role))
    lines.extend(more)
    why = risk_text(target)
    if why and (target.risk or 0.0) >= RISKY:
        lines.extend(style.wrap(f"risk: {why}", "  - "))
    for text in unchecked(target):
        lines.extend(style.wrap(text, "  - "))
    return lines


def _head(finding: Finding, style: Style) -> str:
    return style.paint(f"{finding.severity}[{finding.name}]", finding.severity)


def _line(finding: Finding, style: Style) -> str:
    head = f"{finding.severity}[{finding.name}]"
    more = f" (+{len(finding.layers) - 1})" if len(finding.layers) > 1 else ""
    text = f" {finding.code} {finding.layer}{more}: {finding.message.show(300)}"
    room = max(style.width - len(head), _LEAST_ROOM)
    if len(text) > room:
        text = text[: room - 1] + "…"
    return _head(finding, style) + text


def _block(target: Target, finding: Finding, style: Style) -> list[str]:
    head = f"{finding.severity}[{finding.name}]"
    first, *rest = style.wrap(f"{head} {finding.code}: {finding.message.show(600)}", rest="    ")
    if first.startswith(head):
        first = _head(finding, style) + first[len(head) :]
    lines = [first, *rest]
    subject = finding.param or finding.layer
    place = f"{target.target} :: {subject}  {finding.tensor.show(60)}"
    lines.extend(style.wrap(place, "  --> ", "      "))
    for label, text in _evidence(finding):
        lines.extend(style.wrap(text, f"   |  {label:<9} ", f"   |  {'':<9} "))
    for label, text in (("why", finding.why.show(600)), ("fix", _fix(finding))):
        if text:
            lines.extend(style.wrap(text, f"   = {label}: "))
    explain = f"confidence {finding.confidence} · initlint explain {finding.name}"
    lines.extend(style.paint(line, "dim") for line in style.wrap(explain, "   = "))
    return [*lines, ""]


def _evidence(finding: Finding) -> list[tuple[str, str]]:
    rows = [
        ("measured", finding.measured.show(300)),
        ("expected", finding.expected.show(300)),
        ("feeds", finding.feeds.show(200)),
    ]
    if len(finding.layers) > 1:
        count = plural(len(finding.layers), "layer")
        rows.append(("layers", f"{count}: {listing(finding.layers)}"))
    if finding.location is not None:
        line = f":{finding.location.line}" if finding.location.line else ""
        path = Untrusted(from_here(finding.location.file.raw))
        rows.append(("built at", f"{path.show(200)}{line}"))
    return [(label, text) for label, text in rows if text]


def _fix(finding: Finding) -> str:
    if finding.fix is None:
        return ""
    return finding.fix.code.show(300) or f"initialise with {finding.fix.scheme}"
