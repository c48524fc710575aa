"""Charts as SVG files that are the same on every machine: coordinates have one decimal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, isfinite, log10
from pathlib import Path

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 168, 34, 48
HEALTHY = "#d8eedd"
STATES = {"silent": HEALTHY, "info": "#dbe7f3", "warning": "#f8dfa5", "error": "#f1b3aa"}
COLOURS = ("#c0392b", "#1f6f8b", "#7a8b1f", "#8e44ad", "#555555")

Points = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes.

    Attributes:
        title, across, up: what is shown, and the names of the axes.
        lines: points by the name that stands in the legend.
        marks: horizontal lines by their text, such as the limit of an error.
        band: heights between which the value is healthy; None for none.
        dashed: names of lines that are predictions.
    """

    title: str
    across: str
    up: str
    lines: Mapping[str, Points]
    marks: Mapping[str, float] = field(default_factory=dict)
    band: tuple[float, float] | None = None
    dashed: frozenset[str] = frozenset()

    def svg(self) -> str:
        """The chart as a stand-alone file."""
        every = [point for points in self.lines.values() for point in points]
        low_x, high_x = min(x for x, _ in every), max(x for x, _ in every)
        heights = [y for _, y in every] + list(self.marks.values()) + list(self.band or ())
        low_y, high_y = min(heights), max(heights)
        margin = 0.06 * (high_y - low_y or 1.0)
        low_y, high_y = low_y - margin, high_y + margin

        def place(x: float, y: float) -> tuple[float, float]:
            across = LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)
            down = TOP + (high_y - y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)
            return round(across, 1), round(down, 1)

        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = [
            *_opening(self.title, HEIGHT),
            *self._shade(place, right),
            f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#333333"/>',
            _text((LEFT + right) / 2, HEIGHT - 10, self.across, "middle"),
            f'<text transform="translate(16 {(TOP + bottom) / 2}) rotate(-90)" '
            f'text-anchor="middle">{_safe(self.up)}</text>',
        ]
        for tick in _ticks(low_x, high_x):
            x, _ = place(tick, low_y)
            parts.append(f'<path d="M{x} {bottom}v4" stroke="#333333"/>')
            parts.append(_text(x, bottom + 17, _number(tick), "middle"))
        for tick in _ticks(low_y, high_y):
            _, y = place(low_x, tick)
            parts.append(f'<path d="M{LEFT - 4} {y}h4" stroke="#333333"/>')
            parts.append(_text(LEFT - 7, y + 4, _number(tick), "end"))
        taken: list[float] = []
        for text, value in sorted(self.marks.items(), key=lambda mark: -mark[1]):
            _, y = place(low_x, value)
            parts.append(f'<path d="M{LEFT} {y}H{right}" stroke="#999999" stroke-dasharray="4 3"/>')
            taken.append(max(y, taken[-1] + 13 if taken else 0))
            parts.append(_text(right + 6, taken[-1] + 4, text, "start", "#666666"))
        free = _rows(taken)
        for index, (name, points) in enumerate(self.lines.items()):
            colour = COLOURS[index % len(COLOURS)]
            stroke = f'stroke="{colour}" stroke-width="2"'
            if name in self.dashed:
                stroke += ' stroke-dasharray="6 4"'
            path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
            parts.append(f'<polyline points="{path}" fill="none" {stroke}/>')
            y = next(free)
            x = right + 10
            parts.append(f'<path d="M{x} {y - 4}h14" {stroke}/>')
            parts.append(_text(x + 19, y, name, "start"))
        if self.band is not None:
            y = next(free)
            parts.append(
                f'<rect x="{right + 10}" y="{y - 9}" width="14" height="10" fill="{HEALTHY}"/>'
            )
            parts.append(_text(right + 29, y, "healthy", "start"))
        return "\n".join([*parts, "</svg>", ""])

    def _shade(self, place: Place, right: float) -> list[str]:
        if self.band is None:
            return []
        (_, bottom), (_, top) = (place(0.0, edge) for edge in self.band)
        size = f'width="{right - LEFT}" height="{round(bottom - top, 1)}"'
        return [f'<rect x="{LEFT}" y="{top}" {size} fill="{HEALTHY}"/>']


@dataclass(frozen=True)
class Strips:
    """Rows of coloured stretches over one axis.

    Attributes:
        title, across: what is shown, and the name of the axis.
        rows: by its name, the state of a row at even steps along the axis.
    """

    title: str
    across: str
    rows: Mapping[str, Sequence[tuple[float, str]]]

    def svg(self) -> str:
        """The rows as a stand-alone file; each stretch carries its state's name."""
        left, right, step = 130, WIDTH - 20, 34
        bottom = TOP + step * len(self.rows)
        every = [x for row in self.rows.values() for x, _ in row]
        low, high = min(every), max(every)

        def place(x: float) -> float:
            return round(left + (x - low) / (high - low) * (right - left), 1)

        parts = _opening(self.title, bottom + 48)
        for index, (name, row) in enumerate(self.rows.items()):
            y = TOP + step * index
            parts.append(_text(left - 8, y + 18, name, "end"))
            for start, end, state in _stretches(row):
                x, width = place(start), round(place(end) - place(start), 1)
                fill = STATES[state]
                parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="26" fill="{fill}"/>')
                if width > 6.5 * len(state):
                    parts.append(_text(x + width / 2, y + 17, state, "middle"))
        for tick in _ticks(low, high):
            x = place(tick)
            parts.append(f'<path d="M{x} {bottom}v4" stroke="#333333"/>')
            parts.append(_text(x, bottom + 17, _number(tick), "middle"))
        parts.append(_text((left + right) / 2, bottom + 38, self.across, "middle"))
        return "\n".join([*parts, "</svg>", ""])


def _opening(title: str, height: int) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12" '
        f'role="img" aria-label="{_safe(title)}">',
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="13" font-weight="bold">{_safe(title)}</text>',
    ]


def _stretches(row: Sequence[tuple[float, str]]) -> Iterator[tuple[float, float, str]]:
    """Start, end and state of each stretch; one ends where the next starts."""
    start, state = row[0]
    for x, other in row[1:]:
        if other != state:
            yield start, x, state
            start, state = x, other
    yield start, row[-1][0], state


def _rows(taken: Sequence[float]) -> Iterator[int]:
    """Heights of the legend's rows from the top, past the words of the marks."""
    y = TOP + 10
    while True:
        if all(abs(y - other - 4) >= 15 for other in taken):
            yield y
            y += 17
        else:
            y += 1


def _safe(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222222") -> str:
    place = f'x="{round(x, 1)}" y="{round(y, 1)}"'
    return f'<text {place} text-anchor="{anchor}" fill="{colour}">{_safe(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.4g}"


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two ends."""
    rough = (high - low) / 5
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = ceil(low / step)
    return [round(number * step, 10) for number in range(first, int(high / step + 1e-9) + 1)]


def write(charts: Mapping[str, Callable[[], Chart | Strips]], folder: str) -> int:
    """Draw every chart into ``folder``, and say how many there are."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, draw in charts.items():
        chart = draw()
        if isinstance(chart, Chart):
            assert all(isfinite(y) for points in chart.lines.values() for _, y in points), name
        (target / f"{name}.svg").write_text(chart.svg(), encoding="utf-8")
    return len(charts)
