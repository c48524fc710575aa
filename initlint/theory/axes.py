"""Where a layer's units lie in a tensor, and where operators move them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from initlint.model.layer import Layer
from initlint.model.op import NORMALISERS, Op

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of units of one space."""

    space: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Axis:
    """Where units lie in a tensor.

    Attributes:
        segments: the units along the axis, in order.
        at: index of the axis; negative (from the end) where the number of axes is unknown.
        outer, inner: positions merged into the axis before and behind the units by a flattening:
            the axis is ``(outer, units, inner)``.
    """

    segments: tuple[Segment, ...]
    at: int
    outer: int = 1
    inner: int = 1

    @property
    def units(self) -> int:
        """Number of units along the axis."""
        return sum(segment.length for segment in self.segments)


def _elements(shape: Sequence[int | None]) -> int | None:
    """Number of elements; None when an axis is dynamic."""
    sides = [side for side in shape if side is not None]
    return prod(sides) if len(sides) == len(shape) else None


def from_start(axis: Axis, shape: Shape | None) -> int | None:
    """The axis from the start; None where the number of axes is unknown."""
    if axis.at >= 0:
        return axis.at
    return None if shape is None else axis.at + len(shape)


def broadcasts(axis: Axis, rank: int | None, shape: Shape | None) -> bool:
    """True when an operand of a broadcast has size one, or no axis, along the units."""
    if shape is None or rank is None:
        return False
    at = axis.at if axis.at < 0 else axis.at - rank
    return -at > len(shape) or shape[at] == 1


def same_place(first: Axis, rank: int | None, second: Axis, shape: Shape | None) -> bool:
    """True when two operands of a broadcast have their units on the same axis."""
    if first.at < 0 and first.at == second.at:
        return True
    if rank is None or shape is None:
        return first.at == second.at and rank is None and shape is None
    a = first.at if first.at < 0 else first.at - rank
    b = second.at if second.at < 0 else second.at - len(shape)
    return a == b


def cuts(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Runs of the units on an axis, one behind the other, in one walk over its segments."""
    found: list[Axis] = []
    segments = list(reversed(axis.segments))
    for size in sizes:
        mine: list[Segment] = []
        while size > 0 and segments:
            segment = segments.pop()
            taken = min(size, segment.length)
            if taken > 0:
                mine.append(Segment(segment.space, segment.start, taken))
            if taken < segment.length:
                rest = segment.length - taken
                segments.append(Segment(segment.space, segment.start + taken, rest))
            size -= taken
        found.append(replace(axis, segments=tuple(mine)))
    return found


def _normalised(layer: Layer, axis: Axis, shape: Shape | None) -> Axis | None:
    return axis


def _spatial(layer: Layer, axis: Axis, shape: Shape | None) -> Axis | None:
    return axis if axis.at == 1 else None


def _reduced(layer: Layer, axis: Axis, shape: Shape | None) -> Axis | None:
    axes = layer.attrs.get("axes", layer.attrs.get("axis"))
    place = from_start(axis, shape)
    if shape is None or place is None or axes is None:
        return None
    gone = {int(item) % len(shape) for item in ((axes,) if isinstance(axes, int) else axes)}
    if place in gone:
        return None
    if layer.attrs.get("keepdims"):
        return replace(axis, at=place)
    return replace(axis, at=place - sum(item < place for item in gone))


def _transposed(layer: Layer, axis: Axis, shape: Shape | None) -> Axis | None:
    perm = layer.attrs.get("perm", layer.attrs.get("axes"))
    if not perm:
        return None
    place = axis.at if axis.at >= 0 else axis.at + len(perm)
    return replace(axis, at=list(perm).index(place))


def _kept(layer: Layer, axis: Axis, shape: Shape | None) -> Axis | None:
    """Slices, gathers, expansions and paddings that leave the axis of units whole."""
    after = layer.output_shape
    if shape is None or after is None:
        return None
    total = axis.units * axis.outer * axis.inner
    place = from_start(axis, shape)
    if place is None:
        return None
    if len(after) == len(shape) and after[place] == total:
        return replace(axis, at=place)
    if place == len(shape) - 1 and after and after[-1] == total:
        return replace(axis, at=len(after) - 1)
    return None


def _reshaped(layer: Layer, axis: Axis, shape: Shape | None) -> Axis | None:
    """The axis after a reshape; None when it is cut, as heads are."""
    after = layer.output_shape
    place = from_start(axis, shape)
    if shape is None or after is None or place is None:
        return None
    total = axis.units * axis.outer * axis.inner
    behind = _elements(shape[place + 1 :])
    if shape[place] != total or behind is None:
        return None
    stride = 1
    for at in range(len(after) - 1, -1, -1):
        side = after[at]
        if side is None:
            return None
        if stride * side > behind:
            inner, rest = divmod(behind, stride)
            outer, left = divmod(side, total * max(inner, 1))
            if rest or left or not outer:
                return None
            plain = inner == outer == 1
            if not plain and axis.outer * axis.inner > 1:
                return None
            return replace(axis, at=at, outer=axis.outer * outer, inner=axis.inner * inner)
        stride *= side
    return None


MOVES: Mapping[Op, Callable[[Layer, Axis, Shape | None], Axis | None]] = {
    **dict.fromkeys(NORMALISERS, _normalised),
    Op.POOL: _spatial,
    Op.RESIZE: _spatial,
    Op.REDUCE: _reduced,
    Op.TRANSPOSE: _transposed,
    Op.RESHAPE: _reshaped,
    **dict.fromkeys((Op.SLICE, Op.GATHER, Op.EXPAND, Op.PAD), _kept),
}
"""What operators with one input do to the axis; None where it cannot be followed."""
