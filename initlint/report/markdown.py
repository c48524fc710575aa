"""Markdown for ``$GITHUB_STEP_SUMMARY`` and merge-request comments.

A table of findings, worst first, then each of them in full behind a disclosure. GitHub refuses a
summary over 1 MiB as a whole, so the least important is left out before that, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from initlint.records import Finding, Target
from initlint.report.run import Run
from initlint.report.style import View
from initlint.report.summary import counts_text, plural, statistics, unchecked, verdict
from initlint.report.text import inert

LIMIT = 1_000_000
"""Bytes: GitHub takes 1,048,576 per step; what is left is for the step's own lines."""

RESERVE = 2_000
"""Bytes of that for the line that says what was left out, and the last rows."""

LISTED = 30
"""Layers that a finding names here."""


def render(run: Run, view: View) -> str:
    """The run as GitHub's Markdown, under 1 MiB."""
    page = _Page(LIMIT - RESERVE)
    page.add(_heading(run))
    for failure in run.unchecked:
        where = f"{code(str(failure.target))}: " if failure.target else ""
        page.add(f"- **not checked** {where}{code(failure.message.show(300))}\n")
    pairs = run.worst_first
    if pairs:
        page.add("\n| | rule | target | layer | finding |\n|---|---|---|---|---|\n")
    rows = sum(page.add(_row(target, finding)) for target, finding in pairs)
    if rows < len(pairs):
        page.close(f"\n… and {plural(len(pairs) - rows, 'finding')} more\n")
    page.add("\n")
    blocks = sum(page.add(_details(target, finding)) for target, finding in pairs)
    if blocks < rows:
        page.close(f"\n… {plural(rows - blocks, 'finding')} without details: the page is full\n")
    if not view.quiet:
        for target in run.targets:
            page.add(_target(target))
        for notice in run.notices:
            page.add(f"- {code(notice.show(300))}\n")
    if view.statistics:
        page.add("\n```\n" + "\n".join(statistics(run)) + "\n```\n")
    return "".join(f"{inert(line)}\n" for line in page.text.rstrip("\n").split("\n"))


class _Page:
    """Text that grows up to a number of bytes; what does not fit whole is left out."""

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._parts: list[str] = []

    def add(self, text: str) -> bool:
        """True when the text still fitted; after the first that did not, nothing does."""
        self._room -= len(text.encode("utf-8", "replace"))
        if self._room < 0:
            self._room = -1
            return False
        self._parts.append(text)
        return True

    def close(self, text: str) -> None:
        """Write the line that says what is missing; there is room kept for it."""
        self._parts.append(text)

    @property
    def text(self) -> str:
        return "".join(self._parts)


def code(text: str) -> str:
    """A code span that its contents cannot leave, also inside a table."""
    fence = "`"
    while fence in text:
        fence += "`"
    pad = " " if text[:1] in ("`", " ", "") or text[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{text or ' '}{pad}{fence}".replace("|", "\\|")


def _heading(run: Run) -> str:
    if run.unchecked:
        state = f"{len(run.unchecked)} not checked"
    else:
        state = plural(len(run.targets), "target") + " checked"
    return f"### initlint: {counts_text(run.counts) or 'no findings'} · {state}\n\n"


def _row(target: Target, finding: Finding) -> str:
    more = f" +{len(finding.layers) - 1}" if len(finding.layers) > 1 else ""
    cells = (
        f"**{finding.severity}**" if finding.severity == "error" else finding.severity,
        f"{code(finding.name)} {finding.code}",
        code(target.target.show(80)),
        code(finding.layer.show(80)) + more,
        code(finding.message.show(300)),
    )
    return f"| {' | '.join(cells)} |\n"


def _details(target: Target, finding: Finding) -> str:
    rows = [f"- {label}: {code(text)}" for label, text in _facts(target, finding) if text]
    summary = f"{finding.severity}: {finding.name} ({finding.code})"
    listed = ", ".join(code(str(layer)) for layer in finding.layers[:LISTED])
    more = f" and {len(finding.layers) - LISTED} more" if len(finding.layers) > LISTED else ""
    layers = f"- layers: {listed}{more}"
    head = ("<details>", f"<summary>{summary}</summary>", "")
    return "\n".join((*head, *rows, layers, "", "</details>", ""))


def _facts(target: Target, finding: Finding) -> Iterator[tuple[str, str]]:
    yield "target", target.target.show()
    yield "finding", finding.message.show(600)
    yield "measured", finding.measured.show(300)
    yield "expected", finding.expected.show(300)
    yield "why", finding.why.show(600)
    yield "fix", finding.fix.code.show(300) if finding.fix else ""
    if finding.location is not None:
        line = f":{finding.location.line}" if finding.location.line else ""
        yield "built at", f"{finding.location.file}{line}"
    yield "confidence", finding.confidence
    yield "more", f"initlint explain {finding.name}"


def _target(target: Target) -> str:
    lines = [f"\n{code(f'{target.target}: {verdict(target)}')}\n"]
    lines.extend(f"- {code(line)}" for line in unchecked(target))
    return "\n".join(lines) + "\n"
