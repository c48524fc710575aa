"""The closing lines of a report: what was found, and what was not checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from initlint.records import SEVERITIES, Target
from initlint.report.run import Run
from initlint.report.style import Style
from initlint.report.text import Untrusted, shorten


def plural(count: int, word: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def counts_text(counts: Mapping[str, int]) -> str:
    """``1 error, 2 warnings``; only severities that occur."""
    found = [plural(counts[severity], severity) for severity in SEVERITIES if counts[severity]]
    return ", ".join(found)


def probe_text(target: Target) -> str:
    """How the probe ended, in a few words."""
    detail = shorten(target.probe_detail.show(200), 160)
    if target.probe_status == "ok":
        return "probe ok"
    return f"probe {target.probe_status}" + (f" ({detail})" if detail else "")


def verdict(target: Target) -> str:
    """One line about a target; never says "no findings" of what was not checked."""
    found = counts_text(target.counts)
    if not found and target.ran is None:
        found = "no findings"
    elif not found:
        ran = len(target.ran or ())
        found = f"no findings from {plural(ran, 'rule')}" if ran else "not checked by any rule"
    parts = [f"stage {target.stage}", found]
    if target.suppressed:
        parts.append(f"{len(target.suppressed)} suppressed")
    parts.append(probe_text(target))
    if target.risk is not None:
        parts.append(f"risk {target.risk:.0%}")
    return " · ".join(parts)


def risk_text(target: Target) -> str:
    """What the risk comes from and rests on, in one line; empty where there is nothing to say."""
    if target.risk is None or not target.risk_reasons:
        return ""
    reasons = "; ".join(reason.show(120) for reason in target.risk_reasons)
    return f"{reasons} ({target.risk_basis.show(120)})"


def unchecked(target: Target) -> list[str]:
    """What was not checked in a target, one line each."""
    lines = [str(failure.show(300)) for failure in target.failures]
    for reason, names in target.skipped.items():
        lines.append(f"{plural(len(names), 'rule')} did not run: {reason}")
    if target.ended_at:
        shown = listing(target.ended_at)
        lines.append(f"the prediction ends at operators it does not know: {shown}")
    lines.extend(notice.show(300) for notice in target.notices)
    return lines


def listing(names: tuple[Untrusted, ...], most: int = 4) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(str(name) for name in names[:most])
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def closing(run: Run, style: Style) -> list[str]:
    """The last line of a run over several targets, and what was left out of the text."""
    lines: list[str] = []
    hidden = sum(len(target.active) - len(run.shown(target.active)) for target in run.targets)
    if hidden:
        word = plural(hidden, "finding")
        text = f"{word} below --min-severity {run.min_severity} not shown"
        lines.extend(style.wrap(text, rest="  "))
    if len(run.targets) + len(run.errors) > 1 and run.targets:
        total = counts_text(run.counts) or "no findings"
        text = f"{plural(len(run.targets), 'target')} checked: {total}"
        if run.errors:
            text += f" · {len(run.errors)} not checked"
        lines.extend(style.paint(line, "bold") for line in style.wrap(text, rest="  "))
    return lines


def statistics(run: Run) -> list[str]:
    """A table of findings per rule: how many, how bad, which."""
    rows: Counter[tuple[str, str]] = Counter()
    worst: dict[tuple[str, str], str] = {}
    for target in run.targets:
        for finding in target.active:
            key = (finding.code, finding.name)
            rows[key] += 1
            known = worst.get(key, SEVERITIES[-1])
            worst[key] = min(known, finding.severity, key=SEVERITIES.index)
    if not rows:
        return ["count  code    worst    rule", "    0"]
    lines = ["count  code    worst    rule"]
    for key, count in sorted(rows.items(), key=lambda row: (-row[1], row[0])):
        lines.append(f"{count:5d}  {key[0]:<6}  {worst[key]:<7}  {key[1]}")
    return lines
