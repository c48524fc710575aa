"""One run: every target with its findings, everything that was not checked, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from initlint.records import SEVERITIES, Failure, Finding, RecordError, RuleText, Target
from initlint.report.text import Untrusted

SCHEMA = 1

NEVER = "never"


def reaches(severity: str, limit: str) -> bool:
    """True when ``severity`` is at or above ``limit`` (``never`` is above all)."""
    return limit != NEVER and SEVERITIES.index(severity) <= SEVERITIES.index(limit)


@dataclass(frozen=True, slots=True)
class Run:
    """What a reporter is given.

    Attributes:
        version: of initlint.
        targets: linted models, in the order of the call.
        errors: targets that were not checked, and faults of the call.
        notices: what the user should know about the run: unused allows, stale baseline entries.
        fail_on: severity from which on the run fails, or ``never``.
        min_severity: findings below it are not written.
        rules: texts of the rules that found something, by name.
    """

    version: str
    targets: tuple[Target, ...] = ()
    errors: tuple[Failure, ...] = ()
    notices: tuple[Untrusted, ...] = ()
    fail_on: str = "error"
    min_severity: str = "info"
    rules: Mapping[str, RuleText] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Findings that count, by severity, over all targets."""
        total = dict.fromkeys(SEVERITIES, 0)
        for target in self.targets:
            for severity, count in target.counts.items():
                total[severity] += count
        return total

    @property
    def worst_first(self) -> list[tuple[Target, Finding]]:
        """Every shown finding that counts with its target, the worst of all targets first."""
        pairs = [(target, found) for target in self.targets for found in self.shown(target.active)]
        return sorted(pairs, key=lambda pair: pair[1].rank)

    @property
    def unchecked(self) -> tuple[Failure, ...]:
        """Everything that makes the run incomplete: errors, and rules that crashed."""
        crashed = (
            Failure(target.target, failure)
            for target in self.targets
            for failure in target.failures
        )
        return (*self.errors, *crashed)

    def exit_code(self, *, exit_zero: bool = False) -> int:
        """2 when something was not checked, else 1 when a finding reaches ``fail_on``, else 0."""
        if self.unchecked:
            return 2
        found = (finding for target in self.targets for finding in target.active)
        failed = any(reaches(finding.severity, self.fail_on) for finding in found)
        return int(failed and not exit_zero)

    def shown(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings that ``min_severity`` lets through."""
        return [found for found in findings if reaches(found.severity, self.min_severity)]

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract's object."""
        return {
            "schema": SCHEMA,
            "version": self.version,
            "summary": self.counts,
            "targets": [self._target(target) for target in self.targets],
            "errors": [failure.to_dict() for failure in self.unchecked],
            "notices": [notice.raw for notice in self.notices],
            "rules": {name: rule.to_dict() for name, rule in sorted(self.rules.items())},
        }

    @classmethod
    def parse(cls, record: Any) -> Run:
        """A run from its JSON form; `to_dict` of it is ``record`` again.

        Raises:
            RecordError: when it is not a report of schema 1.
        """
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise RecordError(f"it is no JSON report of schema {SCHEMA}")
        targets = tuple(Target.parse(item) for item in _list(record, "targets"))
        crashed = {
            (target.target.raw, failure.show(300))
            for target in targets
            for failure in target.failures
        }
        errors = [Failure.parse(item) for item in _list(record, "errors")]
        notices = _list(record, "notices")
        if not all(isinstance(notice, str) for notice in notices):
            raise RecordError("notices holds something else than strings")
        return cls(
            version=Untrusted(str(record.get("version"))).show(40),
            targets=targets,
            errors=tuple(e for e in errors if (e.target.raw, e.message.raw) not in crashed),
            notices=tuple(Untrusted(notice) for notice in notices),
            rules=RuleText.parse_all(record.get("rules") or {}),
        )

    def _target(self, target: Target) -> dict[str, Any]:
        record = target.to_dict()
        shown = {id(finding) for finding in self.shown(target.findings)}
        record["findings"] = [
            finding.to_dict() for finding in target.findings if id(finding) in shown
        ]
        return record


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    value = record.get(key) or []
    if not isinstance(value, list):
        raise RecordError(f"{key} is not a list")
    return value
