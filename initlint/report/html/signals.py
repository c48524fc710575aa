"""The signal profile: how signal and gradient run from the first layer to the last."""

from __future__ import annotations

from collections.abc import Mapping

from initlint.report.html.charts import Subject, profile_chart
from initlint.report.html.markup import Markup, element
from initlint.report.html.words import term
from initlint.report.profile import Profile, Row

FORWARD = Subject("Signal", "rms of each layer's output", lambda row: row.forward)
BACKWARD = Subject("Gradient", "rms at each layer's output", lambda row: row.gradient)


def signals_section(profile: Profile, worst: Mapping[str, str]) -> Markup:
    """Both profiles with their legend; nothing where no signal is known."""
    rows = [row for row in profile.rows if row.charted]
    if not rows:
        return Markup("")
    severities = [severity_of(row, worst) for row in rows]
    charts = [
        profile_chart(subject, rows, profile.band, severities) for subject in (FORWARD, BACKWARD)
    ]
    if not any(charts):
        return Markup("")
    legend = element(
        "p",
        term("predicted", "predicted", class_="key predicted"),
        term("measured", "probe", class_="key measured"),
        term("healthy", "healthy", class_="key band"),
        class_="legend",
    )
    return element("section", element("h2", "Signal by depth"), legend, *charts)


def severity_of(row: Row, worst: Mapping[str, str]) -> str:
    """Severity of the worst finding about a row: its layer or the activation drawn with it."""
    own = worst.get(row.id.raw, "")
    other = worst.get(row.activation[0].raw, "") if row.activation else ""
    order = ("error", "warning", "info", "")
    return min(own, other, key=order.index)
