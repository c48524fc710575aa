"""Accepted findings: allow entries of the configuration, and comments beside a construction site.

A finding is suppressed only when every layer it speaks for is accepted, so that accepting one
layer never hides another. An entry whose rule ran and that accepted nothing is reported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase

from initlint.config import Allow
from initlint.records import Finding, Suppression, Target

COMMENT = re.compile(r"#\s*initlint:\s*allow\[(?P<rules>[^\]]*)\]\s*(?:--\s*(?P<reason>.*\S))?")
"""``# initlint: allow[zero-weight, SYM] -- reason``."""

_SOURCE_BYTES = 4 << 20
"""Bytes of a source file that are searched: longer ones are not written by people."""

Read = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Comment:
    """One allow comment."""

    file: str
    line: int
    rules: tuple[str, ...]
    reason: str

    @property
    def place(self) -> str:
        """``file:line``."""
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Ledger:
    """What the targets of a run have shown about the entries.

    Attributes:
        useful: entries and comments that accepted something.
        tried: entries and comments whose rule ran.
        rules: installed rules, code by name; empty until a target was linted.
    """

    useful: set[Allow | Comment] = field(default_factory=set)
    tried: set[Allow | Comment] = field(default_factory=set)
    rules: dict[str, str] = field(default_factory=dict)


def source_lines(file: str) -> Sequence[str]:
    """Lines of a Python source file of the user's; nothing when it cannot be read."""
    if not file.endswith(".py") or not os.path.isfile(file):
        return ()
    try:
        with open(file, encoding="utf-8", errors="replace") as source:
            return source.read(_SOURCE_BYTES).splitlines()
    except OSError:
        return ()


def comments_of(target: Target, read: Read = source_lines) -> dict[tuple[str, int], Comment]:
    """Allow comments on lines that construct a layer of this target.

    Only a model that the user's own code built has construction sites that are read; a path that
    comes from a data file is never opened.
    """
    found = {}
    for file, numbers in target.sources.items():
        lines = read(file)
        for number in numbers:
            match = COMMENT.search(lines[number - 1]) if 0 < number <= len(lines) else None
            if match:
                rules = tuple(rule.strip() for rule in match["rules"].split(",") if rule.strip())
                found[file, number] = Comment(file, number, rules, match["reason"] or "")
    return found


def stands_for(selector: str, name: str, code: str) -> bool:
    """True when a name, code or code prefix stands for a rule."""
    if selector.lower() == name:
        return True
    return len(selector) >= _SHORTEST_PREFIX and code.startswith(selector.upper())


_SHORTEST_PREFIX = 3
"""Letters of a family's code: accepting less than a family by mistake is not possible."""


def _accepts(entry: Allow, finding: Finding, layer: str, target: str) -> bool:
    if not stands_for(entry.rule, finding.name, finding.code):
        return False
    names = [layer]
    if finding.param is not None and layer == finding.layer.raw:
        names.append(finding.param.raw)
    paths = {target, os.path.normpath(target).replace(os.sep, "/")}
    return any(fnmatchcase(path, entry.target) for path in paths) and any(
        fnmatchcase(name, entry.layer) for name in names
    )


def is_current(entry: Allow, today: date) -> bool:
    """True until the day an entry expires."""
    return entry.expires is None or today < entry.expires


def suppress(
    target: Target,
    allows: Iterable[Allow],
    ledger: Ledger,
    today: date,
    read: Read = source_lines,
) -> Target:
    """The target with accepted findings marked; the ledger learns which entries served.

    A comment without a reason accepts nothing: the reason is the point of it.
    """
    entries = [entry for entry in allows if is_current(entry, today)]
    comments = comments_of(target, read)
    ledger.rules.update(target.rules)
    for name in target.ran or ():
        code = target.rules.get(name, "")
        ledger.tried.update(entry for entry in entries if stands_for(entry.rule, name, code))
        ledger.tried.update(
            comment
            for comment in comments.values()
            if any(stands_for(selector, name, code) for selector in comment.rules)
        )
    findings = [_judge(finding, target, entries, comments, ledger) for finding in target.findings]
    return target.with_findings(findings)


def _judge(
    finding: Finding,
    target: Target,
    entries: Sequence[Allow],
    comments: Mapping[tuple[str, int], Comment],
    ledger: Ledger,
) -> Finding:
    reasons: list[Suppression] = []
    places = [*finding.places, *[None] * len(finding.layers)]
    for layer, place in zip(finding.layers, places, strict=False):
        source: Allow | Comment | None = next(
            (e for e in entries if _accepts(e, finding, layer.raw, target.target.raw)), None
        )
        kind = "config"
        if source is None and place is not None:
            source = comments.get((place.file.raw, place.line or 0))
            kind = "inline"
            if source is not None and not _comment_accepts(source, finding):
                source = None
        if source is not None:
            ledger.useful.add(source)
            reasons.append(Suppression(kind, source.reason, source.place))
    whole = len(reasons) == len(finding.layers)
    return finding.suppress(reasons[0]) if whole else finding


def _comment_accepts(comment: Comment | Allow, finding: Finding) -> bool:
    selectors = comment.rules if isinstance(comment, Comment) else (comment.rule,)
    return bool(comment.reason) and any(
        stands_for(selector, finding.name, finding.code) for selector in selectors
    )


def remarks(allows: Iterable[Allow], ledger: Ledger, today: date) -> list[str]:
    """What the user should know about the entries: expired, not needed, without a reason."""
    lines = []
    for entry in allows:
        if not is_current(entry, today):
            lines.append(f"{entry.place}: the allow of {entry.rule} expired on {entry.expires}")
        elif entry in ledger.tried and entry not in ledger.useful:
            lines.append(
                f"{entry.place}: the allow of {entry.rule} is not needed: nothing was found there"
            )
    comments = [item for item in ledger.tried if isinstance(item, Comment)]
    for comment in sorted(comments, key=lambda comment: (comment.file, comment.line)):
        if not comment.reason:
            lines.append(f"{comment.place}: an allow needs a reason: allow[...] -- reason")
        elif comment not in ledger.useful:
            named = ", ".join(comment.rules)
            lines.append(
                f"{comment.place}: the allow of {named} is not needed: nothing was found there"
            )
    return lines


def unknown_rules(allows: Iterable[Allow], ledger: Ledger) -> list[Allow]:
    """Entries that name no installed rule; none as long as the rules are not known."""
    return [
        entry
        for entry in allows
        if ledger.rules
        and not any(stands_for(entry.rule, name, code) for name, code in ledger.rules.items())
    ]
