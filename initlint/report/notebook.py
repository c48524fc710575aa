"""One target as a small HTML table, for notebooks: no script, no style beyond the cells' own."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from initlint.records import Finding, Location, Target
from initlint.report.summary import verdict
from initlint.report.text import Untrusted

COLOURS = {"error": "#b3261e", "warning": "#8a5a00", "info": "#1f5fa8"}
"""Readable (contrast of at least 4.5) on white; the word stands beside the colour."""

MOST = 50
"""Findings that are written out; the rest are counted."""

_CELL = 'style="text-align:left;vertical-align:top;padding:2px 10px 2px 0"'


def render(record: Mapping[str, Any]) -> str:
    """A table of findings, worst first, under one line of summary."""
    target = Target.parse(dict(record))
    head = f"{_text(target.target)} · {escape(verdict(target))}"
    parts = [f"<div><div><b>initlint</b> · {head}</div>"]
    if target.active:
        names = ("severity", "rule", "layer", "finding", "built at")
        titles = "".join(f'<th scope="col" {_CELL}>{name}</th>' for name in names)
        rows = "".join(_row(finding) for finding in target.active[:MOST])
        parts.append(f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>")
    if len(target.active) > MOST:
        parts.append(f"<div>… and {len(target.active) - MOST} more</div>")
    notices = "".join(f"<li>{_text(notice)}</li>" for notice in target.notices)
    if notices:
        parts.append(f"<ul>{notices}</ul>")
    return "".join([*parts, "</div>"])


def _row(finding: Finding) -> str:
    more = len(finding.layers) - 1
    layer = _text(finding.layer) + (f" <i>and {more} more</i>" if more else "")
    lines = [_text(finding.message)]
    lines += [f"<small>{_text(text)}</small>" for text in (finding.why,) if text]
    if finding.fix is not None and finding.fix.code:
        lines.append(f"<small>fix: <code>{_text(finding.fix.code)}</code></small>")
    severity = f'<b style="color:{COLOURS[finding.severity]}">{finding.severity}</b>'
    rule = f"{escape(finding.name)} <small>{escape(finding.code)}</small>"
    cells = (severity, rule, layer, "<br>".join(lines), _place(finding.location))
    return "<tr>" + "".join(f"<td {_CELL}>{cell}</td>" for cell in cells) + "</tr>"


def _place(location: Location | None) -> str:
    if location is None:
        return ""
    line = "" if location.line is None else f":{location.line}"
    return f"<code>{_text(location.file)}{line}</code>"


def _text(text: Untrusted) -> str:
    return escape(text.show(400))
