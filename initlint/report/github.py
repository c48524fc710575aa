"""Annotations for GitHub Actions: workflow commands, worst first, no more than GitHub shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from initlint.records import Finding, Target
from initlint.report.places import file_of, place_of
from initlint.report.run import Run
from initlint.report.style import View
from initlint.report.summary import closing, counts_text, statistics, verdict
from initlint.report.text import inert, shorten

SHOWN = 10
"""Annotations of one kind that GitHub keeps per step; it drops the rest without a word."""

COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}

MESSAGE_LIMIT = 1500
"""Characters of an annotation: GitHub cuts at 4 KB, and escapes take up to three each."""


def render(run: Run, view: View) -> str:
    """Workflow commands for the worst findings, a line each for what GitHub would drop."""
    pairs = run.worst_first
    failures = run.unchecked
    room = {"error": max(SHOWN - len(failures), 0), "warning": SHOWN, "info": SHOWN - 1}
    used: Counter[str] = Counter()
    lines: list[str] = []
    for failure in failures[:SHOWN]:
        where = {"file": file_of(failure.target.raw, "", view.root).path} if failure.target else {}
        text = f"{failure.target}: {failure.message}" if failure.target else str(failure.message)
        lines.append(_command("error", where | {"title": "initlint: not checked"}, text))
    cut: list[str] = [
        f"{failure.target}: not checked: {failure.message}" for failure in failures[SHOWN:]
    ]
    dropped = dict.fromkeys(COMMANDS, 0) | {"error": len(cut)}
    for target, finding in pairs:
        used[finding.severity] += 1
        if used[finding.severity] <= room[finding.severity]:
            lines.append(_annotation(target, finding, view.root))
        else:
            dropped[finding.severity] += 1
            cut.append(_plain(target, finding))
    if cut:
        text = (
            f"{counts_text(dropped)} more in this step's log: "
            f"GitHub shows {SHOWN} annotations of a kind per step"
        )
        lines.append(_command("notice", {"title": "initlint: not all are annotated"}, text))
    return "".join(f"{line}\n" for line in (*lines, *map(inert, _log(run, view, cut))))


def _log(run: Run, view: View, cut: list[str]) -> Iterator[str]:
    yield from cut
    if not view.quiet:
        for target in run.targets:
            yield f"{target.target}: {verdict(target)}"
        yield from closing(run, view.style)
    if view.statistics:
        yield from statistics(run)


def _plain(target: Target, finding: Finding) -> str:
    head = f"{finding.severity}[{finding.name}] {finding.code}"
    return f"{target.target}: {finding.layer}: {head} {finding.message.show(300)}"


def _annotation(target: Target, finding: Finding, root: str) -> str:
    place = place_of(target, finding, root)
    properties = {"file": place.path}
    if place.line:
        properties["line"] = str(place.line)
    properties["title"] = f"{finding.name} ({finding.code})"
    more = f" and {len(finding.layers) - 1} more" if len(finding.layers) > 1 else ""
    rows = [finding.message.show(600), f"layer: {finding.layer}{more}"]
    rows += [f"{label}: {text}" for label, text in _details(finding) if text]
    return _command(COMMANDS[finding.severity], properties, "\n".join(rows))


def _details(finding: Finding) -> list[tuple[str, str]]:
    return [
        ("measured", finding.measured.show(200)),
        ("expected", finding.expected.show(200)),
        ("fix", finding.fix.code.show(200) if finding.fix else ""),
        ("more", f"initlint explain {finding.name}"),
    ]


def _command(name: str, properties: dict[str, str], message: str) -> str:
    """A workflow command; both kinds of text are escaped as the runner unescapes them."""
    inside = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {inside}::{_data(inert(shorten(message, MESSAGE_LIMIT)))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    safe = inert("".join(c if c.isprintable() else "?" for c in text))
    return _data(safe).replace(":", "%3A").replace(",", "%2C")
