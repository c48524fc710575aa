"""Charts as SVG: drawn once, sharp at any width, each mark an element that explains itself.

The profile stretches with the page: its shapes live in a box of 1000 by 1000 that fills whatever
room there is (strokes keep their width), and its labels are text beside it.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, erf, exp, floor, isfinite, log10, pi, sqrt

from initlint.report.html.markup import Markup, element, join, number
from initlint.report.profile import Histogram, Row, Signal, Spectrum, centres

SIDE = 1000.0

LEAST_DECADES = 2.0
"""A chart shows at least this much: within it everything healthy lies."""

MOST_TICKS = 7

WIDTH, HEIGHT = 200.0, 80.0
"""Units of a small chart; it scales as a whole, so it holds no text."""

CUT = 2.0
"""σ at which frameworks cut truncated normals, and the standard deviation that is left."""

CUT_STD = 0.87962566


@dataclass(frozen=True, slots=True)
class Axis:
    """Decades from the bottom to the top of a chart, and where its ticks are."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def y(self, value: float) -> float:
        """Vertical position of a magnitude; what is below the axis lies on its bottom."""
        decades = log10(value) if value > 0 else self.low
        share = (min(max(decades, self.low), self.high) - self.low) / (self.high - self.low)
        return SIDE * (1 - share)


def axis_for(values: Sequence[float]) -> Axis:
    """An axis with even ticks around all positive values."""
    decades = [log10(value) for value in values if value > 0 and isfinite(value)] or [0.0]
    low, high = min(decades), max(decades)
    if high - low < LEAST_DECADES:
        middle = (low + high) / 2
        low, high = middle - LEAST_DECADES / 2, middle + LEAST_DECADES / 2
    steps = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)
    step = next(s for s in steps if ceil(high / s) - floor(low / s) < MOST_TICKS)
    first, last = floor(low / step), ceil(high / step)
    return Axis(first * step, last * step, tuple(n * step for n in range(first, last + 1)))


def tick(decades: float) -> Markup:
    """A power of ten as people write it."""
    if abs(decades) <= 3:
        return join(number(10**decades))
    return join("10", element("sup", f"{decades:g}"))


@dataclass(frozen=True, slots=True)
class Subject:
    """What a profile shows: which signal of a row, and its words."""

    title: str
    note: str
    signal: Callable[[Row], Signal]


def profile_chart(
    subject: Subject, rows: Sequence[Row], band: tuple[float, float], worst: Sequence[str]
) -> Markup:
    """A signal by depth: prediction, measurement and the band in which it is healthy.

    Args:
        subject: which signal.
        rows: the layers, in order.
        band: decades around the intended magnitude.
        worst: severity of the worst finding of each row, or nothing.
    """
    signals = [subject.signal(row) for row in rows]
    known = [s for s in signals if s.predicted is not None or s.measured is not None]
    if not known:
        return Markup("")
    middles = centres(signals)
    edges = [c * 10**d for c in middles if c for d in band]
    marks = [v for s in signals for v in (s.predicted, s.measured) if v is not None]
    axis = axis_for([*marks, *edges])
    across = [SIDE * (index + 0.5) / len(rows) for index in range(len(rows))]
    shapes = [
        *_grid(axis),
        *_band(middles, across, axis, band),
        *_line([signal.predicted for signal in signals], across, axis),
        *_dots([signal.measured for signal in signals], across, axis),
        *_columns(rows, signals, middles, band, worst),
    ]
    drawing = element(
        "svg",
        *shapes,
        class_="profile",
        viewBox="0 0 1000 1000",
        preserveAspectRatio="none",
        role="group",
        tabindex=0,
        aria_label=f"{subject.title}: arrow keys move from layer to layer",
    )
    labels = element("div", *(element("span", tick(t)) for t in reversed(axis.ticks)), class_="y")
    ends = element(
        "div",
        element("span", rows[0].id.show(60)),
        element("span", "depth →"),
        element("span", rows[-1].id.show(60)),
        class_="x",
    )
    return element(
        "figure",
        element("figcaption", element("b", subject.title), " ", subject.note),
        element("div", labels, element("div", drawing, class_="plane"), class_="chart"),
        ends,
        class_="wide",
    )


def comparison_chart(
    title: str,
    note: str,
    layers: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[float | None]]],
    axis: Axis | None = None,
) -> Markup:
    """Magnitudes by depth, a line for each series.

    Args:
        title: what is shown.
        note: behind the title.
        layers: names from the first layer to the last.
        series: name, class and values of each line.
        axis: to share one between charts.
    """
    axis = axis or axis_for([v for _, _, values in series for v in values if v is not None])
    width = SIDE / len(layers)
    across = [width * (index + 0.5) for index in range(len(layers))]
    shapes = list(_grid(axis))
    for _, class_, values in series:
        shapes += _line(values, across, axis, f"line {class_}")
    for index, layer in enumerate(layers):
        told = [f"{name} {number(values[index])}" for name, _, values in series]
        text = " · ".join([layer, *told])
        shapes.append(
            element(
                "rect",
                element("title", text),
                class_="column",
                x=width * index,
                y=0,
                width=width,
                height=SIDE,
                data_tip=text,
            )
        )
    drawing = element(
        "svg",
        *shapes,
        class_="profile",
        viewBox="0 0 1000 1000",
        preserveAspectRatio="none",
        role="group",
        tabindex=0,
        aria_label=f"{title}: arrow keys move from layer to layer",
    )
    labels = element("div", *(element("span", tick(t)) for t in reversed(axis.ticks)), class_="y")
    ends = element("div", element("span", layers[0]), element("span", layers[-1]), class_="x")
    return element(
        "figure",
        element("figcaption", element("b", title), " ", note),
        element("div", labels, element("div", drawing, class_="plane"), class_="chart"),
        ends,
        class_="wide",
    )


def _grid(axis: Axis) -> Iterator[Markup]:
    for decades in axis.ticks:
        y = axis.y(10**decades)
        yield element("line", class_="grid", x1=0, x2=SIDE, y1=y, y2=y)


def _band(
    middles: Sequence[float | None], across: Sequence[float], axis: Axis, band: tuple[float, float]
) -> Iterator[Markup]:
    """A polygon per run of layers whose intended magnitude is known, as wide as their columns."""
    half = SIDE / len(middles) / 2
    run: list[tuple[float, float]] = []
    for x, middle in (*zip(across, middles, strict=True), (0.0, None)):
        if middle is not None:
            run.append((x, middle))
        elif run:
            whole = [(run[0][0] - half, run[0][1]), *run, (run[-1][0] + half, run[-1][1])]
            top = [f"{at:.1f},{axis.y(c * 10 ** band[1]):.1f}" for at, c in whole]
            bottom = [f"{at:.1f},{axis.y(c * 10 ** band[0]):.1f}" for at, c in reversed(whole)]
            yield element("polygon", class_="band", points=" ".join((*top, *bottom)))
            run = []


def _line(
    values: Sequence[float | None],
    across: Sequence[float],
    axis: Axis,
    class_: str = "predicted",
) -> Iterator[Markup]:
    run: list[str] = []
    for x, value in (*zip(across, values, strict=True), (0.0, None)):
        if value is not None:
            run.append(f"{x:.1f},{axis.y(value):.1f}")
        elif run:
            points = run if len(run) > 1 else run * 2
            yield element("polyline", class_=class_, points=" ".join(points))
            run = []


def _dots(values: Sequence[float | None], across: Sequence[float], axis: Axis) -> Iterator[Markup]:
    """Round whatever the stretch: a line of no length with a round end."""
    for x, value in zip(across, values, strict=True):
        if value is not None:
            yield element("path", class_="measured", d=f"M{x:.1f} {axis.y(value):.1f}h0")


def _columns(
    rows: Sequence[Row],
    signals: Sequence[Signal],
    middles: Sequence[float | None],
    band: tuple[float, float],
    worst: Sequence[str],
) -> Iterator[Markup]:
    """A column per layer that can be pointed at, coloured where the layer has a finding."""
    width = SIDE / len(rows)
    for index, (row, signal, middle) in enumerate(zip(rows, signals, middles, strict=True)):
        parts = [row.id.show(120)]
        parts += [f"predicted {number(signal.predicted)}"] if signal.predicted is not None else []
        parts += [f"measured {number(signal.measured)}"] if signal.measured is not None else []
        if middle:
            low, high = (number(middle * 10**edge) for edge in band)
            parts.append(f"healthy from {low} to {high}")
        text = " · ".join(parts)
        yield element(
            "rect",
            element("title", text),
            class_=f"column {worst[index]}".strip(),
            x=width * index,
            y=0,
            width=width,
            height=SIDE,
            data_tip=text,
        )


def histogram(found: Histogram, density: tuple[str, float] | None = None) -> Markup:
    """Bars of a histogram, and the density of the scheme it should have on top."""
    total = sum(found.counts)
    step = (found.high - found.low) / len(found.counts)
    heights = [count / total / step for count in found.counts]
    curve = _curve(found, density) if density else []
    top = max([*heights, *(value for _, value in curve)]) * 1.05
    each = WIDTH / len(heights)
    path = [f"M0 {HEIGHT:g}"]
    for index, height in enumerate(heights):
        y = HEIGHT * (1 - height / top)
        path.append(f"V{y:.1f}H{each * (index + 1):.1f}")
    shapes = [element("path", class_="bars", d="".join(path) + f"V{HEIGHT:g}Z")]
    if curve:
        points = (
            f"{WIDTH * (x - found.low) / (found.high - found.low):.1f},"
            f"{HEIGHT * (1 - value / top):.1f}"
            for x, value in curve
        )
        shapes.append(element("polyline", class_="density", points=" ".join(points)))
    return _small(shapes)


def _curve(found: Histogram, density: tuple[str, float]) -> list[tuple[float, float]]:
    shape, std = density
    count = 48
    xs = [found.low + (found.high - found.low) * n / count for n in range(count + 1)]
    return [(x, density_at(x, shape, std)) for x in xs]


def density_at(x: float, shape: str, std: float) -> float:
    """Probability density of a centred distribution of this shape and standard deviation."""
    if shape == "uniform":
        bound = std * sqrt(3)
        return 1 / (2 * bound) if abs(x) <= bound else 0.0
    if shape == "truncated_normal":
        sigma = std / CUT_STD
        if abs(x) > CUT * sigma:
            return 0.0
        return _normal(x / sigma) / sigma / erf(CUT / sqrt(2))
    return _normal(x / std) / std


def _normal(z: float) -> float:
    return exp(-min(z * z / 2, 700.0)) / sqrt(2 * pi)


def spectrum(found: Spectrum) -> Markup:
    """Singular values from the largest on, between the edges that iid weights would have."""
    top = max(*found.values, *found.edges, 0.0) * 1.05
    shapes = []
    if len(found.edges) == 2:
        low, high = (HEIGHT * (1 - max(edge, 0.0) / top) for edge in found.edges)
        shapes.append(
            element("rect", class_="band", x=0, y=high, width=WIDTH, height=max(low - high, 0.5))
        )
    last = max(len(found.values) - 1, 1)
    points = [
        f"{WIDTH * index / last:.1f},{HEIGHT * (1 - max(value, 0.0) / top):.1f}"
        for index, value in enumerate(found.values)
    ]
    points = points if len(points) > 1 else [points[0], f"{WIDTH:g},{points[0].split(',')[1]}"]
    shapes.append(element("polyline", class_="values", points=" ".join(points)))
    return _small(shapes)


def _small(shapes: Sequence[str]) -> Markup:
    box = f"0 0 {WIDTH:g} {HEIGHT:g}"
    return element(
        "svg", *shapes, class_="small", viewBox=box, preserveAspectRatio="none", aria_hidden="true"
    )


_BLUE, _WHITE, _RED = (33, 102, 172), (247, 247, 247), (178, 24, 43)


def _palette() -> bytes:
    """Seventeen shades from blue over white to red."""
    shades = []
    for step in range(-8, 9):
        end = _BLUE if step < 0 else _RED
        share = abs(step) / 8
        shades.append(bytes(round(w + (e - w) * share) for w, e in zip(_WHITE, end, strict=True)))
    return b"".join(shades)


PALETTE = _palette()


def picture(lines: Sequence[str]) -> str:
    """The picture of a weight as a PNG in a data URI."""
    raw = b"".join(b"\0" + bytes(ord(letter) - ord("a") for letter in line) for line in lines)
    header = struct.pack(">IIBBBBB", len(lines[0]), len(lines), 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", PALETTE),
        (b"IDAT", zlib.compress(raw, 9)),
        (b"IEND", b""),
    )
    body = b"".join(_chunk(kind, data) for kind, data in chunks)
    encoded = base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode("ascii")
    return f"data:image/png;base64,{encoded}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
