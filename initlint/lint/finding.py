"""Findings: what a rule says about a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import total_ordering
from typing import TYPE_CHECKING, Any

from initlint.model.layer import Where

if TYPE_CHECKING:
    from initlint.lint.source_edit import Edit


@total_ordering
class Severity(Enum):
    """Predicted or measured harm: INFO < WARNING < ERROR.

    Not a ``str``: its comparisons would win over the order of harm.
    """

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return ("info", "warning", "error").index(self.value)

    @property
    def milder(self) -> Severity:
        """One level below, or info."""
        return (Severity.INFO, Severity.INFO, Severity.WARNING)[self.rank]

    def __lt__(self, other: object) -> bool:
        return self.rank < other.rank if isinstance(other, Severity) else NotImplemented

    def __str__(self) -> str:
        return self.value


class Confidence(str, Enum):
    """How sure the evidence makes us that the pattern is there and does what the message says."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Fix:
    """How to cure a finding.

    Attributes:
        scheme: the scheme to apply (``he_normal``), or ``rescale``.
        applicability: ``unsafe`` for anything that changes weights (in ruff's sense).
        code: one line of ``torch.nn.init`` code or a sentence for the user.
        params: keys of the parameters to change.
        arguments: numbers the scheme needs (``gain``, ``factor``).
        edit: the code as an insertion into the file where the layer is built (filled in by the
            engine where it can be told).
    """

    scheme: str
    applicability: str = "unsafe"
    code: str = ""
    params: tuple[str, ...] = ()
    arguments: Mapping[str, float] = field(default_factory=dict)
    edit: Edit | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause, with every layer it speaks for.

    Attributes:
        code, name: the rule's (filled in by the engine).
        severity, confidence: from evidence.
        layer: id of the first or worst layer.
        message: one line: what is wrong, with numbers.
        param: name of the parameter it is about, if one.
        layers: ids of all layers it speaks for.
        evidence: numbers by name; floats, ints, strings, or short lists of them.
        why: one line: the mechanism.
        measured, expected: the two sides of the evidence, for people.
        fix: how to cure it.
        where: location of the first layer that has one (filled in by the engine when None).
        culprits: ids of layers whose other findings are consequences of this one (default: layers).
        shares: how much of the harm layers answer for, in any unit, where that is known, by the
            layers of which any may have caused that part.
    """

    severity: Severity
    layer: str
    message: str
    code: str = ""
    name: str = ""
    confidence: Confidence = Confidence.HIGH
    param: str | None = None
    layers: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    measured: str = ""
    expected: str = ""
    fix: Fix | None = None
    where: Where | None = None
    culprits: tuple[str, ...] = ()
    shares: Mapping[tuple[str, ...], float] = field(default_factory=dict)
