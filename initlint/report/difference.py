"""Two states of one network for people."""

from __future__ import annotations

from collections.abc import Mapping
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
    rows = [row for row in record["params"] if row["update_ratio"] is not None]
    rows.sort(key=lambda row: row["update_ratio"])
    if rows:
        lines.append(f"  {'parameter':<44}{'|change|/|value|':>18}{'cosine':>10}")
    shown = rows if len(rows) <= _MOST else [*rows[: _MOST // 2], None, *rows[-_MOST // 2 :]]
    for row in shown:
        if row is None:
            lines.append(f"  ... {len(rows) - _MOST} between")
            continue
        cosine = "-" if row["cosine"] is None else f"{row['cosine']:.4f}"
        lines.append(f"  {Untrusted(row['param'])!s:<44}{row['update_ratio']:>18.3g}{cosine:>10}")
    counts = record["summary"]
    total = ", ".join(f"{counts[name]} {name}" for name in ("error", "warning", "info"))
    lines += ["", f"findings: {total}"]
    return "".join(f"{inert(line.rstrip())}\n" for line in lines)
