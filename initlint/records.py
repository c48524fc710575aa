"""What a worker reported about one target, checked and typed for everything that reads it.

The worker handles files that may be hostile, so nothing it sends is taken on trust: `Target.parse`
checks the shape, and every string that can come from a file is an `Untrusted`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from initlint.report.text import Untrusted

SEVERITIES = ("error", "warning", "info")
"""Worst first."""

CONFIDENCES = ("high", "medium", "low")

STATES = ("new", "unchanged", "updated")
"""A finding beside a baseline, in SARIF's words: not in it, accepted, in it but worse by now."""

SUPPRESSIONS = ("config", "inline", "baseline")


class RecordError(ValueError):
    """A record whose shape is not the contract's."""


def _typed(record: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = record.get(key, default)
    if value is None or isinstance(value, kind):
        return value
    raise RecordError(f"{key} is a {type(value).__name__}, not a {kind.__name__}")


def _text(record: Mapping[str, Any], key: str) -> Untrusted:
    return Untrusted(_typed(record, key, str) or "")


def _texts(record: Mapping[str, Any], key: str) -> tuple[Untrusted, ...]:
    values = _typed(record, key, list) or []
    if not all(isinstance(value, str) for value in values):
        raise RecordError(f"{key} holds something else than strings")
    return tuple(Untrusted(value) for value in values)


def _one_of(record: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    value = record.get(key)
    if value not in allowed:
        raise RecordError(f"{key} is not one of {', '.join(allowed)}")
    return str(value)


@dataclass(frozen=True, slots=True)
class Location:
    """A place in source code: where a layer was constructed."""

    file: Untrusted
    line: int | None


@dataclass(frozen=True, slots=True)
class Fix:
    """How to cure a finding: the scheme's name, ``safe`` or ``unsafe``, one line of code.

    Attributes:
        edit: line and column, from 1, and the text to insert there into the finding's file.
    """

    scheme: Untrusted
    applicability: str
    code: Untrusted
    edit: tuple[int, int, Untrusted] | None = None


@dataclass(frozen=True, slots=True)
class Suppression:
    """Why a finding does not count.

    Attributes:
        kind: ``config`` (an allow entry), ``inline`` (a comment) or ``baseline``.
        reason: the user's words, or what the baseline says.
        place: file and line of the entry.
    """

    kind: str
    reason: str
    place: str

    def to_dict(self) -> dict[str, str]:
        """The JSON form."""
        return {"kind": self.kind, "reason": self.reason, "place": self.place}


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause with every layer it speaks for; see the JSON contract for the fields.

    Attributes:
        record: the object as sent, for the JSON report.
        places: construction site of each of `layers` where known, else of the finding.
        tensor: dtype and shape of the parameter, as ``float32[64, 128]``.
        feeds: what the layer feeds, as ``relu_1 (relu)``.
        suppression: set when the user has accepted it.
        baseline: how it compares with the baseline of the run (`STATES`); None without one.
    """

    record: Mapping[str, Any]
    code: str
    name: str
    severity: str
    confidence: str
    layer: Untrusted
    param: Untrusted | None
    message: Untrusted
    why: Untrusted
    measured: Untrusted
    expected: Untrusted
    layers: tuple[Untrusted, ...]
    location: Location | None
    places: tuple[Location | None, ...]
    fix: Fix | None
    fingerprint: str
    tensor: Untrusted = field(default=Untrusted(""))
    feeds: Untrusted = field(default=Untrusted(""))
    suppression: Suppression | None = None
    baseline: str | None = None

    @property
    def rank(self) -> tuple[int, int, str, str]:
        """Sort key: worst first, surest first, then by rule and layer."""
        return (
            SEVERITIES.index(self.severity),
            CONFIDENCES.index(self.confidence),
            self.code,
            self.layer.raw,
        )

    @classmethod
    def parse(cls, record: Any) -> Finding:
        """A finding from its JSON form.

        Raises:
            RecordError: when the shape is not the contract's.
        """
        if not isinstance(record, dict):
            raise RecordError("a finding is not an object")
        fix = _typed(record, "fix", dict)
        param = _typed(record, "param", str)
        layer = _text(record, "layer")
        location = _location(_typed(record, "location", dict))
        sites = _typed(record, "places", list)
        return cls(
            record=record,
            code=str(_text(record, "code")),
            name=str(_text(record, "name")),
            severity=_one_of(record, "severity", SEVERITIES),
            confidence=_one_of(record, "confidence", CONFIDENCES),
            layer=layer,
            param=None if param is None else Untrusted(param),
            message=_text(record, "message"),
            why=_text(record, "why"),
            measured=_text(record, "measured"),
            expected=_text(record, "expected"),
            layers=_texts(record, "layers") or (layer,),
            location=location,
            places=(location,) if sites is None else tuple(_location(site) for site in sites),
            fix=None
            if fix is None
            else Fix(
                _text(fix, "scheme"),
                _one_of(fix, "applicability", ("safe", "unsafe")),
                _text(fix, "code"),
                _edit(_typed(fix, "edit", dict)),
            ),
            fingerprint=str(_text(record, "fingerprint")),
            tensor=_text(record, "tensor"),
            feeds=_text(record, "feeds"),
            suppression=_suppression(_typed(record, "suppressed", dict)),
            baseline=None
            if record.get("baseline") is None
            else _one_of(record, "baseline", STATES),
        )

    def suppress(self, suppression: Suppression) -> Finding:
        """This finding, accepted by the user."""
        return replace(self, suppression=suppression)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: as sent, with the suppression."""
        record = {key: value for key, value in self.record.items() if key != "places"}
        record["suppressed"] = self.suppression and self.suppression.to_dict()
        if self.baseline is not None:
            record["baseline"] = self.baseline
        return record


def _suppression(record: Any) -> Suppression | None:
    """A suppression from its JSON form, as a report that is rendered again holds it."""
    if record is None:
        return None
    kind = _one_of(record, "kind", SUPPRESSIONS)
    return Suppression(kind, str(_text(record, "reason")), str(_text(record, "place")))


def _edit(record: dict[str, Any] | None) -> tuple[int, int, Untrusted] | None:
    if record is None:
        return None
    line, column = _typed(record, "line", int), _typed(record, "column", int)
    if not line or not column or min(line, column) < 1:
        raise RecordError("an edit has no place")
    return line, column, _text(record, "text")


def _location(record: Any) -> Location | None:
    if record is None:
        return None
    if not isinstance(record, dict):
        raise RecordError("a location is not an object")
    file = _typed(record, "file", str)
    return None if file is None else Location(Untrusted(file), _typed(record, "line", int))


@dataclass(frozen=True, slots=True)
class RuleText:
    """What a rule is about.

    Attributes:
        code: its short alias.
        summary: one sentence.
        help: the whole documentation, in Markdown.
    """

    code: str
    summary: Untrusted
    help: Untrusted

    @classmethod
    def parse_all(cls, record: Any) -> dict[str, RuleText]:
        """Texts by name of the rule, from their JSON form.

        Raises:
            RecordError: when the shape is not the contract's.
        """
        if not isinstance(record, dict) or not all(isinstance(r, dict) for r in record.values()):
            raise RecordError("the rules' texts are not objects by name")
        return {
            str(Untrusted(name)): cls(
                str(_text(rule, "code")), _text(rule, "summary"), _text(rule, "help")
            )
            for name, rule in sorted(record.items())
        }

    def to_dict(self) -> dict[str, str]:
        """The JSON form."""
        return {"code": self.code, "summary": self.summary.raw, "help": self.help.raw}


@dataclass(frozen=True, slots=True)
class Target:
    """Everything known about one linted model.

    Attributes:
        record: the object as sent, for the JSON report.
        target: as the user wrote it.
        probe_status, probe_detail: how the probe ended.
        notices: what the loader or the probe could not do.
        skipped: names of rules by the reason they did not run.
        ran: names of the rules that ran; None when the record does not tell.
        rules: code by name of every installed rule.
        ended_at: layers where the prediction stopped, at an operator without a known effect.
        failures: rules that crashed: the target counts as not checked.
        sources: construction sites by source file, of a model the user's own code built.
        documentation: text by name of the rules that found something.
    """

    record: Mapping[str, Any]
    target: Untrusted
    kind: str
    stage: str
    risk: float | None
    findings: tuple[Finding, ...]
    probe_status: str
    probe_detail: Untrusted
    notices: tuple[Untrusted, ...] = ()
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ran: frozenset[str] | None = None
    rules: Mapping[str, str] = field(default_factory=dict)
    ended_at: tuple[Untrusted, ...] = ()
    failures: tuple[Untrusted, ...] = ()
    sources: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    risk_reasons: tuple[Untrusted, ...] = ()
    risk_basis: Untrusted = field(default=Untrusted(""))
    documentation: Mapping[str, RuleText] = field(default_factory=dict)

    @classmethod
    def parse(cls, record: Any) -> Target:
        """A target from its JSON form, findings worst first.

        Raises:
            RecordError: when the shape is not the contract's.
        """
        if not isinstance(record, dict):
            raise RecordError("a target is not an object")
        findings = [Finding.parse(item) for item in _typed(record, "findings", list) or []]
        probe = _typed(record, "probe", dict) or {}
        risk = record.get("risk")
        if risk is not None and not isinstance(risk, (int, float)):
            raise RecordError("risk is not a number")
        return cls(
            record=record,
            target=_text(record, "target"),
            kind=str(_text(record, "kind")),
            stage=_one_of(record, "stage", ("fresh", "trained", "mixed", "unknown")),
            risk=risk,
            findings=tuple(sorted(findings, key=lambda finding: finding.rank)),
            probe_status=_one_of(probe, "status", ("ok", "skipped", "failed", "timeout")),
            probe_detail=_text(probe, "detail"),
            notices=_texts(record, "notices"),
            skipped=_skipped(_typed(record, "skipped", dict) or {}),
            ran=frozenset(text.raw for text in _texts(record, "ran")) if "ran" in record else None,
            rules=_rules(_typed(record, "rules", dict) or {}),
            ended_at=_texts(record, "ended_at"),
            failures=_texts(record, "failures"),
            sources=_sources(_typed(record, "sources", dict) or {}),
            risk_reasons=_texts(record, "risk_reasons"),
            risk_basis=_text(record, "risk_basis"),
            documentation=RuleText.parse_all(_typed(record, "documentation", dict) or {}),
        )

    @property
    def active(self) -> tuple[Finding, ...]:
        """The findings that count."""
        return tuple(finding for finding in self.findings if finding.suppression is None)

    @property
    def suppressed(self) -> tuple[Finding, ...]:
        """The findings that the user has accepted."""
        return tuple(finding for finding in self.findings if finding.suppression is not None)

    @property
    def counts(self) -> dict[str, int]:
        """Findings that count, by severity."""
        found = [finding.severity for finding in self.active]
        return {severity: found.count(severity) for severity in SEVERITIES}

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The table of layers, where it was asked for."""
        return list(self.record.get("layers") or [])

    def with_findings(self, findings: Sequence[Finding]) -> Target:
        """This target with its findings replaced (to suppress some)."""
        return replace(self, findings=tuple(findings))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: as sent, with the findings as they stand."""
        record = {key: value for key, value in self.record.items() if key not in _INTERNAL}
        record["summary"] = self.counts
        record["findings"] = [finding.to_dict() for finding in self.findings]
        return record


_INTERNAL = ("documentation", "rules", "sources", "seconds")
"""Keys that only suppression needs, wall-clock time, which would differ from run to run, and the
rules' texts, which the report holds once for all targets."""


def _skipped(record: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    reasons = {}
    for reason in record:
        reasons[str(Untrusted(reason))] = tuple(str(name) for name in _texts(record, reason))
    return reasons


def _rules(record: Mapping[str, Any]) -> dict[str, str]:
    if not all(isinstance(code, str) for code in record.values()):
        raise RecordError("rules holds something else than codes")
    return {_safe(name): _safe(code) for name, code in record.items()}


@lru_cache(maxsize=1024)
def _safe(text: str) -> str:
    """The safe form of what every target of a call repeats."""
    return str(Untrusted(text))


def _sources(record: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    for lines in record.values():
        if not isinstance(lines, list) or not all(isinstance(line, int) for line in lines):
            raise RecordError("sources holds something else than line numbers")
    return {file: tuple(lines) for file, lines in record.items()}


@dataclass(frozen=True, slots=True)
class Failure:
    """A target that was not checked, or a call that could not be understood.

    Attributes:
        target: the target as the user wrote it; empty for the call as a whole.
        message: one line: what is wrong, where, what to do.
        detail: what the worker wrote to its standard error, for ``--verbose``.
    """

    target: Untrusted
    message: Untrusted
    detail: Untrusted = field(default=Untrusted(""))

    @classmethod
    def parse(cls, record: Any) -> Failure:
        """A failure from its JSON form.

        Raises:
            RecordError: when the shape is not the contract's.
        """
        if not isinstance(record, dict):
            raise RecordError("an error is not an object")
        return cls(_text(record, "target"), _text(record, "message"))

    def to_dict(self) -> dict[str, str]:
        """The JSON form."""
        return {"target": self.target.raw, "message": self.message.show(300)}
