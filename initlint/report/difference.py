"""Two states of one network for people."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from initlint.report.style import Style
from initlint.report.text import Untrusted, inert

_MOST = 20
"""Rows of the table; those that moved least and most come first and last."""


def render(record: Mapping[str, Any], style: Style) -> str:
    """The record of `initlint.fix.diff.diff` as text."""
    before, after = Untrusted(record["before"]), Untrusted(record["after"])
    lines = [f"{before} -> {after}: {record['compared']} parameters compared", ""]
    for item in record["findings"]:
        head = style.paint(f"{item['severity']}[{Untrusted(item['name'])}]", item["severity"])
        lines.append(f"{head} {item['code']} {Untrusted(item['message'])}")
    if record["findings"]:
        lines.append("")
    rows = sorted(record["params"], key=_moved)
    if rows:
        lines.append(f"  {'parameter':<44}{'|change|/|value|':>18}{'cosine':>10}")
    shown = rows if len(rows) <= _MOST else [*rows[: _MOST // 2], None, *rows[-_MOST // 2 :]]
    for row in shown:
        if row is None:
            lines.append(f"  ... {len(rows) - _MOST} between")
            continue
        cosine = "-" if row["cosine"] is None else f"{row['cosine']:.4f}"
        ratio = _moved(row)
        change = "from 0" if ratio == inf else f"{ratio:.3g}"
        lines.append(f"  {Untrusted(row['param'])!s:<44}{change:>18}{cosine:>10}")
    counts = record["summary"]
    total = ", ".join(f"{counts[name]} {name}" for name in ("error", "warning", "info"))
    lines += ["", f"findings: {total}"]
    return "".join(f"{inert(line.rstrip())}\n" for line in lines)


def _moved(row: Mapping[str, Any]) -> float:
    """How far a parameter moved, relative to its size; all the way where it was zero."""
    if not row["moved"]:
        return 0.0
    ratio = row["update_ratio"]
    return inf if ratio is None else float(ratio)
