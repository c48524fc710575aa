"""The layer graph beside the list of layers: a dot per row, and a lane for every edge that leaps.

Every row draws its own slice, so the graph stays in line with rows that wrap or open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from initlint.report.html.markup import Markup, element
from initlint.report.profile import Row

LANES = 6
"""Lanes beside the spine: more would leave no room for names on a phone."""

SPINE, FIRST, STEP = 10, 22, 9
"""Horizontal positions in pixels: the spine, the first lane, and from lane to lane."""

MIDDLE = 16
"""Vertical position of a dot in its row, in pixels."""


@dataclass(frozen=True, slots=True)
class Leap:
    """An edge over at least one row, and its lane."""

    start: int
    end: int
    lane: int
    skip: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the edges of a graph are drawn.

    Attributes:
        leaps: edges with a lane, by lane and start.
        steps: rows that the row before them feeds.
        lanes: lanes in use.
        hidden: edges for which no lane was left.
    """

    leaps: tuple[Leap, ...]
    steps: frozenset[int]
    lanes: int
    hidden: int
    slices: dict[int, list[Leap]] = field(default_factory=dict)


def lay_out(rows: Sequence[Row]) -> Layout:
    """Give every edge that leaps the first free lane, residual skips before all others."""
    edges = [
        (source not in row.skips, row.index - source, source, row.index)
        for row in rows
        for source in row.sources
        if row.index - source > 1
    ]
    taken: list[list[tuple[int, int]]] = [[] for _ in range(LANES)]
    leaps: list[Leap] = []
    for other, _, start, end in sorted(edges):
        lane = next((n for n, spans in enumerate(taken) if _free(spans, start, end)), None)
        if lane is not None:
            taken[lane].append((start, end))
            leaps.append(Leap(start, end, lane, not other))
    slices: dict[int, list[Leap]] = {}
    for leap in leaps:
        for index in range(leap.start, leap.end + 1):
            slices.setdefault(index, []).append(leap)
    return Layout(
        leaps=tuple(sorted(leaps, key=lambda leap: (leap.lane, leap.start))),
        steps=frozenset(row.index for row in rows if row.index - 1 in row.sources),
        lanes=max((leap.lane + 1 for leap in leaps), default=0),
        hidden=len(edges) - len(leaps),
        slices=slices,
    )


def _free(spans: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    """True when an edge fits into a lane; one may start in the row where another ends."""
    return all(end <= low or start >= high for low, high in spans)


def gutter(row: Row, layout: Layout, severity: str) -> Markup:
    """The slice of the graph in one row."""
    shapes: list[Markup] = []
    if row.index in layout.steps:
        shapes.append(_line("edge", SPINE, 0, SPINE, MIDDLE))
    if row.index + 1 in layout.steps:
        shapes.append(_line("edge", SPINE, MIDDLE, SPINE, "100%"))
    for leap in layout.slices.get(row.index, ()):
        name = "edge skip" if leap.skip else "edge"
        x = FIRST + STEP * leap.lane
        if leap.start == row.index:
            shapes.append(_line(name, SPINE, MIDDLE, x, MIDDLE + 10))
            shapes.append(_line(name, x, MIDDLE + 10, x, "100%"))
        elif leap.end == row.index:
            shapes.append(_line(name, x, 0, x, MIDDLE - 10))
            shapes.append(_line(name, x, MIDDLE - 10, SPINE, MIDDLE))
        else:
            shapes.append(_line(name, x, 0, x, "100%"))
    radius = 5 if row.weights else 3
    shapes.append(
        element("circle", class_=f"node {severity}".strip(), cx=SPINE, cy=MIDDLE, r=radius)
    )
    return element("svg", *shapes, class_="gutter", width=FIRST + STEP * LANES, aria_hidden="true")


def _line(name: str, x1: int, y1: int, x2: int, y2: int | str) -> Markup:
    return element("line", class_=name, x1=x1, y1=y1, x2=x2, y2=y2)
