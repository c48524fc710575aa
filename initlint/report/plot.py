"""The signal by depth as a text chart: a row per layer, its size a mark on an axis of decades."""

from __future__ import annotations

from math import floor, log10

from initlint.records import Target
from initlint.report.profile import Profile, Row, Signal, centres, parse
from initlint.report.style import Style
from initlint.report.text import inert, shorten

MOST_ROWS = 40
"""Layers that are drawn: a screenful; of deeper models evenly spaced ones."""

NAME = 22
"""Columns of a name."""

PREDICTED, MEASURED, BOTH, HEALTHY = "o", "x", "*", "·"


def plot(target: Target, style: Style) -> list[str]:
    """Signal and gradient of one target; a line that says why where there is none."""
    profile = parse(target.record.get("profile"))
    rows = [row for row in profile.rows if row.charted] if profile else []
    if profile is None or not rows:
        return ["no signal to plot: the target has no graph", ""]
    width = max((style.width - NAME - 4) // 2, 8)
    charts = [
        _Chart([row.forward for row in rows], profile, width),
        _Chart([row.gradient for row in rows], profile, width),
    ]
    heads = ("signal (rms)", "gradient (rms)")
    lines = [
        _line("", *(f"{head:<{width}}" for head in heads)),
        _line("layer", *(chart.scale for chart in charts)),
    ]
    for index in _chosen(rows):
        name = shorten(rows[index].id.show(), NAME)
        lines.append(_line(name, *(chart.row(index) for chart in charts)))
    if len(rows) > MOST_ROWS:
        lines.append(f"{MOST_ROWS} of {len(rows)} layers")
    key = f"{PREDICTED} predicted   {MEASURED} measured   {BOTH} both   {HEALTHY} healthy"
    return [inert(line.rstrip()) for line in (*lines, key, "")]


def _line(name: str, *parts: str) -> str:
    return f"{name:<{NAME}}  " + "  ".join(parts)


def _chosen(rows: list[Row]) -> list[int]:
    if len(rows) <= MOST_ROWS:
        return list(range(len(rows)))
    last = len(rows) - 1
    return [round(last * n / (MOST_ROWS - 1)) for n in range(MOST_ROWS)]


class _Chart:
    """One axis of decades with every layer's marks on it."""

    def __init__(self, signals: list[Signal], profile: Profile, width: int) -> None:
        self._signals = signals
        self._centres = centres(signals)
        self._width = width
        self._band = profile.band
        seen = [value for s in signals for value in (s.predicted, s.measured)]
        decades = [log10(v) for v in (*seen, *self._centres) if v is not None and v > 0] or [0.0]
        self._low = floor(min(decades) + profile.band[0])
        self._high = max(floor(max(decades) + profile.band[1]) + 1, self._low + 1)

    @property
    def scale(self) -> str:
        """The ends of the axis."""
        low, high = f"1e{self._low:+d}", f"1e{self._high:+d}"
        return f"{low}{high:>{self._width - len(low)}}"

    def row(self, index: int) -> str:
        """The marks of one layer."""
        signal = self._signals[index]
        cells = [" "] * self._width
        centre = self._centres[index]
        if centre is not None:
            middle = log10(centre)
            first, last = (self._column(middle + edge) for edge in self._band)
            cells[first : last + 1] = HEALTHY * (last + 1 - first)
        places = {}
        for mark, value in ((PREDICTED, signal.predicted), (MEASURED, signal.measured)):
            if value is not None:
                column = self._column(log10(value)) if value > 0 else 0
                places[column] = BOTH if column in places else mark
        for column, mark in places.items():
            cells[column] = mark
        return "".join(cells)

    def _column(self, decades: float) -> int:
        share = (decades - self._low) / (self._high - self._low)
        return min(max(int(share * self._width), 0), self._width - 1)
