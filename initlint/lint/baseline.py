"""Baselines: findings that were there when the project began to look.

One finding per sorted line of JSON, keyed by target, rule and parameter path, so that a diff in
review reads line by line. A finding that got worse than its line comes back; a line whose finding
is gone is stale.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from initlint.output import write_atomically
from initlint.records import SEVERITIES, Finding, Suppression, Target

SIZE_LIMIT = 64 << 20
"""Bytes of a baseline that are read: 200,000 findings."""

WORSE = 1.1
"""Growth of a measured magnitude that counts as worse.

Measured magnitudes vary between seeds of the probe by a few percent; ten is more than that and
far less than one step of severity (a factor of 5 in the signal's scale).
"""

_MAGNITUDES = (
    "copies",
    "dead_units",
    "decades",
    "drift_decades",
    "gradient_decades",
    "growth_decades",
    "inf",
    "measured_decades",
    "nan",
    "saturated_share",
    "share",
    "subnormals",
    "zero_layers",
)
"""Evidence that grows with the harm, under the names that rules use."""


class BaselineError(Exception):
    """A baseline that cannot be read or written: one line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One accepted finding.

    Attributes:
        target: the target, as a path relative to the baseline with forward slashes, or a spec.
        rule: name of the rule.
        path: parameter, or layer where the finding is about no parameter.
        severity: how bad it was.
        layers: how many layers it spoke for.
        measured: magnitudes at that time, by name of the evidence.
    """

    target: str
    rule: str
    path: str
    severity: str
    layers: int
    measured: Mapping[str, float]

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies it."""
        return (self.target, self.rule, self.path)

    def line(self) -> str:
        """The entry as one line of JSON."""
        record = {
            "target": self.target,
            "rule": self.rule,
            "path": self.path,
            "severity": self.severity,
            "layers": self.layers,
            "measured": dict(sorted(self.measured.items())),
        }
        return json.dumps(record, allow_nan=False)


def entry_for(target: Target, finding: Finding, folder: Path) -> Entry:
    """The line that accepts a finding; ``folder`` is the baseline's."""
    subject = finding.param or finding.layer
    evidence = finding.record.get("evidence") or {}
    measured = {
        name: float(f"{evidence[name]:.6g}")
        for name in _MAGNITUDES
        if isinstance(evidence.get(name), (int, float))
    }
    return Entry(
        target=_relative(target, folder),
        rule=finding.name,
        path=subject.raw,
        severity=finding.severity,
        layers=len(finding.layers),
        measured={name: value for name, value in measured.items() if abs(value) < float("inf")},
    )


def _relative(target: Target, folder: Path) -> str:
    """The target as seen from the baseline, so that the working directory does not matter."""
    if target.kind == "torch":
        return target.target.raw
    return os.path.relpath(target.target.raw, folder).replace(os.sep, "/")


def is_worse(entry: Entry, now: Entry) -> bool:
    """True when a finding is worse than its line: severity, layers, or a measured magnitude."""
    if SEVERITIES.index(now.severity) < SEVERITIES.index(entry.severity):
        return True
    if now.layers > entry.layers:
        return True
    return any(
        abs(value) > WORSE * abs(entry.measured[name])
        for name, value in now.measured.items()
        if name in entry.measured
    )


def read_baseline(path: Path) -> list[Entry]:
    """The entries of a baseline file.

    Raises:
        BaselineError: missing or unreadable file, or a line that is no entry, with its number.
    """
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise BaselineError(f"{path}: is too large for a baseline")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8"
        raise BaselineError(f"{path}: cannot be read: {reason.lower()}") from error
    return [
        _entry(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    ]


def _entry(line: str, place: str) -> Entry:
    try:
        record: dict[str, Any] = json.loads(line)
        entry = Entry(**record)
        whole = (
            all(isinstance(text, str) for text in entry.key)
            and entry.severity in SEVERITIES
            and isinstance(entry.layers, int)
            and all(isinstance(value, (int, float)) for value in entry.measured.values())
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BaselineError(f"{place}: is not an entry of a baseline") from error
    if not whole:
        raise BaselineError(f"{place}: is not an entry of a baseline")
    return entry


def apply_baseline(
    targets: Iterable[Target], entries: Iterable[Entry], path: Path
) -> tuple[list[Target], list[str]]:
    """Mark findings that a baseline accepts.

    Returns:
        The targets, and one line for each stale entry of a target and rule that was looked at.
    """
    known = {entry.key: entry for entry in entries}
    seen: set[tuple[str, str, str]] = set()
    looked: set[tuple[str, str]] = set()
    results = []
    for target in targets:
        where = _relative(target, path.parent)
        looked.update((where, rule) for rule in target.ran or ())
        findings = []
        for finding in target.findings:
            now = entry_for(target, finding, path.parent)
            entry = known.get(now.key)
            if entry is not None:
                seen.add(entry.key)
            state = "new" if entry is None else "updated" if is_worse(entry, now) else "unchanged"
            finding = replace(finding, baseline=state)
            if state == "unchanged" and finding.suppression is None:
                finding = finding.suppress(Suppression("baseline", "in the baseline", str(path)))
            findings.append(finding)
        results.append(target.with_findings(findings))
    stale = [
        f"{path}: {entry.rule} on {entry.path} of {entry.target} is gone: remove its line"
        for key, entry in sorted(known.items())
        if key not in seen and (entry.target, entry.rule) in looked
    ]
    return results, stale


def write_baseline(targets: Iterable[Target], path: Path) -> int:
    """Write what is found now, replacing the lines of the targets and rules that were looked at.

    Lines about anything else stay, so that a run over one model does not forget the others.

    Returns:
        The number of lines.

    Raises:
        BaselineError: when the file cannot be read or written; it is then as it was.
    """
    linted = list(targets)
    looked = {(_relative(t, path.parent), rule) for t in linted for rule in t.ran or ()}
    with locked(path):
        kept = [
            entry
            for entry in (read_baseline(path) if path.exists() else [])
            if (entry.target, entry.rule) not in looked
        ]
        found = [
            entry_for(target, finding, path.parent)
            for target in linted
            for finding in target.findings
            if finding.suppression is None or finding.suppression.kind == "baseline"
        ]
        lines = {entry.key: entry.line() for entry in (*kept, *found)}
        _store(lines, path)
    return len(lines)


def missing_targets(
    entries: Iterable[Entry], path: Path, within: Iterable[Path] | None = None
) -> frozenset[str]:
    """Targets of a baseline that are files which are no more; a spec of code is never one.

    Args:
        entries: lines of the baseline.
        path: the baseline.
        within: folders that were looked at; None: everywhere.
    """
    folders = None if within is None else {folder.resolve() for folder in within}
    names = {entry.target for entry in entries if ":" not in entry.target}
    files = {name: (path.parent / name).resolve() for name in names}
    return frozenset(
        name
        for name, file in files.items()
        if not file.exists() and (folders is None or not folders.isdisjoint(file.parents))
    )


def prune_baseline(
    targets: Iterable[Target], path: Path, gone: frozenset[str] = frozenset()
) -> list[Entry]:
    """Remove the lines whose finding is gone, of the targets and rules that were looked at.

    Args:
        targets: what was linted.
        path: the baseline.
        gone: targets whose lines go altogether.

    Returns:
        The entries that were removed.

    Raises:
        BaselineError: when the file cannot be read or written; it is then as it was.
    """
    found: set[tuple[str, str, str]] = set()
    looked: set[tuple[str, str]] = set()
    for target in targets:
        looked.update((_relative(target, path.parent), rule) for rule in target.ran or ())
        found.update(entry_for(target, known, path.parent).key for known in target.findings)
    with locked(path):
        kept: list[Entry] = []
        removed: list[Entry] = []
        for entry in read_baseline(path):
            stale = entry.key not in found and (entry.target, entry.rule) in looked
            (removed if stale or entry.target in gone else kept).append(entry)
        if removed:
            _store({entry.key: entry.line() for entry in kept}, path)
    return removed


def _store(entries: Mapping[tuple[str, str, str], str], path: Path) -> None:
    text = "".join(f"{line}\n" for _, line in sorted(entries.items()))
    try:
        write_atomically(path, text)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise BaselineError(f"{path}: cannot be written: {reason}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a baseline: its folder's, which leaves no file and dies with its holder.

    Raises:
        BaselineError: when there is no such folder.
    """
    import fcntl

    try:
        descriptor = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise BaselineError(f"{path}: cannot be written: {reason}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
