"""From predicted or measured harm to the severity of a finding."""

from __future__ import annotations

from initlint.lint.finding import Severity
from initlint.theory.harm import Harm, backward_harm, drift_harm
from initlint.theory.result import Sink

_SEVERITY = {Harm.INFO: Severity.INFO, Harm.WARNING: Severity.WARNING, Harm.ERROR: Severity.ERROR}


def severity_of(harm: Harm | None) -> Severity | None:
    """The severity of the same name."""
    return None if harm is None else _SEVERITY[harm]


def drift_severity(decades: float, band: float, sink: Sink) -> Severity | None:
    """Severity of a forward drift of the rms, or None where it is not worth saying.

    The finite-width band decides *whether* the drift is there: the sure part must reach the lowest
    bound. *How bad* it is follows the central value, which is what the calibration varied.
    """
    return (
        severity_of(drift_harm(decades, 0.0, sink))
        if drift_harm(decades, band, sink) is not None
        else None
    )


def backward_severity(decades: float) -> Severity | None:
    """Severity of a gradient rms that is 10^decades at the first layer relative to the last."""
    return severity_of(backward_harm(decades))
