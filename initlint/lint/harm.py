"""From predicted or measured harm to the severity of a finding."""

from __future__ import annotations

from collections.abc import Iterable

from initlint.lint.finding import Severity
from initlint.theory.harm import Harm, backward_harm, drift_harm
from initlint.theory.result import Sink

_SEVERITY = {Harm.INFO: Severity.INFO, Harm.WARNING: Severity.WARNING, Harm.ERROR: Severity.ERROR}


COMPOUNDING = 3
"""Layers from which a loss compounds. Of k factors of size a in series each has a gradient of
a^(k-1), so gradient flow takes them to unit size in a time of 1 for k = 1, ln(1/a) for k = 2, and
a^-(k-2) from three on (the saddle at zero is strict for two factors only: Saxe, McClelland, Ganguli
2014; Kawaguchi 2016). One or two small layers are made up for within some tens of steps, whatever
the decades: four networks with a loss of 4 to 7 decades in two layers trained to 0.92 to 1.16 of
their healthy twins."""

MAKES = 0.2
"""Part of the largest contribution to a drift from which another layer counts as a maker of it."""


def makers(contributions: Iterable[float], drift: float) -> int:
    """Layers that make up a drift, given what each contributes, in decades."""
    sign = -1.0 if drift < 0 else 1.0
    along = [value * sign for value in contributions if value * sign > 0.0]
    least = MAKES * max(along, default=0.0)
    return sum(value > least for value in along)


def severity_of(harm: Harm | None) -> Severity | None:
    """The severity of the same name."""
    return None if harm is None else _SEVERITY[harm]


def drift_severity(
    decades: float, band: float, sink: Sink, layers: int = COMPOUNDING
) -> Severity | None:
    """Severity of a forward drift of the rms, or None where it is not worth saying.

    The finite-width band decides *whether* the drift is there: the sure part must reach the lowest
    bound. *How bad* it is follows the central value, which is what the calibration varied. A loss
    that fewer than `COMPOUNDING` layers make up is no error.
    """
    if drift_harm(decades, band, sink) is None:
        return None
    return _forgiven(severity_of(drift_harm(decades, 0.0, sink)), decades, layers)


def backward_severity(decades: float, layers: int = COMPOUNDING) -> Severity | None:
    """Severity of a gradient rms that is 10^decades at the first layer relative to the last."""
    return _forgiven(severity_of(backward_harm(decades)), decades, layers)


def _forgiven(severity: Severity | None, decades: float, layers: int) -> Severity | None:
    if severity is None or decades > 0 or layers >= COMPOUNDING:
        return severity
    return min(severity, Severity.WARNING)
