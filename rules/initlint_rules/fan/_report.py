"""What the rules about wrong fans report in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

from initlint.api import Confidence, FanMistake, Finding, Fix, Severity, Share, fans
from initlint_rules._consequences import SIGNALS

CONSEQUENCES = (*SIGNALS, "gain-mismatch", "inconsistent-siblings")
"""What a scale that is wrong by the ratio of two fans shows elsewhere."""


def effect(share: Share) -> str:
    """The harm in words; empty where there is none."""
    if share.severity is None or share.severity is Severity.INFO:
        return ""
    what = "gradient" if share.backward else "signal"
    return f"; {what} changes 10^{share.decades:+.1f} times over {len(share.layers)} layers"


def report(
    mistakes: Sequence[FanMistake],
    share: Share,
    severity: Severity,
    *,
    message: str,
    why: str,
    code: str,
) -> Finding:
    """One finding for all layers that share a mistake; the first layer's numbers stand for them."""
    first = max(mistakes, key=lambda item: abs(item.ratio - 1.0))
    head = mistakes[0]
    true = fans(head.layer, head.param)
    names = dict.fromkeys(item.layer.id for item in mistakes)
    base = head.match.scheme.partition("(")[0]
    return Finding(
        severity=severity,
        confidence=Confidence.HIGH if len(names) > 1 else Confidence.MEDIUM,
        layer=head.layer.id,
        param=head.param.name,
        layers=tuple(names),
        message=f"{message}{effect(share)}",
        evidence={
            "scheme": head.match.scheme,
            "mistake": head.match.fan,
            "std": head.match.std,
            "std_expected": head.expected_std,
            "ratio": head.ratio,
            "largest_ratio": first.ratio,
            "fan_in": true.fan_in if true else None,
            "fan_out": true.fan_out if true else None,
            "decades": share.decades,
            "layers": len(names),
        },
        why=why,
        measured=f"std {head.match.std:.3g}, {head.ratio:.3g} times what {base} means",
        expected=f"std {head.expected_std:.3g}"
        + (f" (fan_in {true.fan_in:g}, fan_out {true.fan_out:g})" if true else ""),
        fix=Fix(base, params=tuple(item.param.key for item in mistakes), code=code),
    )


def subject(mistakes: Sequence[FanMistake]) -> str:
    """The layer, or how many there are."""
    names = dict.fromkeys(item.layer.id for item in mistakes)
    return mistakes[0].layer.id if len(names) == 1 else f"{len(names)} layers"


def causes(mistakes: Sequence[FanMistake]) -> dict[str, float]:
    """Decades by which each layer's scale is wrong."""
    return {item.layer.id: log10(item.ratio) for item in mistakes}
