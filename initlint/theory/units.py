"""Following hidden units through the graph: which weights write them, which read them.

Each layer with weights makes a *space* of units (its output axis). Elementwise operators, norms,
pooling, reshapes and transpositions pass it on, sums tie spaces together, concatenation and splits
cut it in segments. A space that meets an operator through which its axis cannot be followed with
certainty is marked, and nothing is claimed about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from initlint.model.graph import Edge, LayerGraph
from initlint.model.layer import Layer, Param, Role
from initlint.model.op import ACTIVATIONS, NORMALISERS, RECURRENT, Op
from initlint.theory.axes import (
    MOVES,
    Axis,
    Segment,
    Shape,
    broadcasts,
    cuts,
    from_start,
    same_place,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A tensor whose elements belong to units: columns of a weight, or one number per unit.

    Attributes:
        layer: id of the layer that owns it.
        source: the parameter, or a fixed array.
        axis: its axis (from the end) that runs along the units.
        offset: index of the first unit of the space among all units on that axis.
        start, length: the units of the space that it concerns.
        units, outer, inner: layout of the axis, see `Axis`.
        groups: groups of a convolution; 0 for one number per unit.
        target: number of the space of the layer's own units, None where those are not followed.
    """

    layer: str
    source: Param | Any
    axis: int
    offset: int
    start: int
    length: int
    units: int
    outer: int = 1
    inner: int = 1
    groups: int = 1
    target: int | None = None


@dataclass(slots=True)
class Space:
    """Units that are one axis of one or several tensors.

    Attributes:
        size: number of units.
        producers: ids of the layers that write them.
        columns: weights that read them.
        labels: one number per unit (gains, shifts, slopes).
        positions: group index per unit, of group norms.
        consumers: ids of the layers that read them, in order.
        lost: True when the axis could not be followed, or other tensors are mixed in.
        output: True when a graph output shows the units one by one.
        shuffled: True when units become positions (pixel shuffle).
        noise: True when dropout acts on units on their way.
    """

    size: int
    producers: list[str] = field(default_factory=list)
    columns: list[Reading] = field(default_factory=list)
    labels: list[Reading] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    consumers: dict[str, None] = field(default_factory=dict)
    lost: bool = False
    output: bool = False
    shuffled: bool = False
    noise: bool = False


_ELEMENTWISE = ACTIVATIONS | {
    Op.SQUARE,
    Op.SQRT,
    Op.RECIPROCAL,
    Op.RECIPROCAL_SQRT,
    Op.EXP,
    Op.LOG,
    Op.ABS,
    Op.NEG,
    Op.CLIP,
    Op.SOFTMAX,
    Op.LOG_SOFTMAX,
    Op.IDENTITY,
    Op.CAST,
    Op.DROPOUT,
}
"""Operators that treat all units alike."""

_BINARY = frozenset({Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.POW, Op.MAXIMUM, Op.MINIMUM})


class Units:
    """Spaces of a layer graph.

    Attributes:
        spaces: by number; tied spaces are one, see `find`.
        made: number of the space each layer with weights writes.
    """

    def __init__(self, graph: LayerGraph) -> None:
        self.graph = graph
        self.spaces: list[Space] = []
        self.made: dict[str, int] = {}
        self._parent: list[int] = []
        self._axes: dict[tuple[str, int], Axis | None] = {}
        for layer in graph.order:
            edges = graph.inputs(layer.id)
            axes = [self._axes.get((edge.source, edge.output)) for edge in edges]
            for axis in axes:
                for segment in axis.segments if axis else ():
                    self.spaces[segment.space].consumers[layer.id] = None
            found = self._follow(layer, edges, axes)
            outputs = {0} | {edge.output for edge in graph.outputs(layer.id)}
            for output in outputs:
                self._axes[layer.id, output] = found(output) if callable(found) else found
        self._merge()

    def find(self, space: int) -> int:
        """Number of the space that a tied space has become part of."""
        while self._parent[space] != space:
            self._parent[space] = self._parent[self._parent[space]]
            space = self._parent[space]
        return space

    def _merge(self) -> None:
        """Collect what is known of tied spaces in one of them."""
        for index, space in enumerate(self.spaces):
            root = self.find(index)
            if root == index:
                continue
            into = self.spaces[root]
            into.producers += space.producers
            into.columns += space.columns
            into.labels += space.labels
            into.positions += space.positions
            into.consumers |= space.consumers
            for flag in ("lost", "output", "shuffled", "noise"):
                setattr(into, flag, getattr(into, flag) or getattr(space, flag))

    def _new(self, layer: Layer, size: int, at: int) -> Axis:
        number = len(self.spaces)
        self.spaces.append(Space(size, [layer.id]))
        self._parent.append(number)
        self.made[layer.id] = number
        return Axis((Segment(number, 0, size),), at)

    def _mark(self, axis: Axis | None, flag: str = "lost") -> None:
        for segment in axis.segments if axis else ():
            setattr(self.spaces[segment.space], flag, True)

    def _lose(self, axes: Sequence[Axis | None], flag: str = "lost") -> None:
        for axis in axes:
            self._mark(axis, flag)

    def _tie(self, first: Axis, second: Axis) -> bool:
        """Make two axes the same units; False when they are cut differently."""
        layout = (first.outer, first.inner) == (second.outer, second.inner)
        lengths = [(s.start, s.length) for s in first.segments]
        if not layout or lengths != [(s.start, s.length) for s in second.segments]:
            return False
        for a, b in zip(first.segments, second.segments, strict=True):
            left, right = self.find(a.space), self.find(b.space)
            if self.spaces[left].size != self.spaces[right].size:
                return False
            self._parent[max(left, right)] = min(left, right)
        return True

    # one operator at a time

    def _follow(
        self, layer: Layer, edges: tuple[Edge, ...], axes: list[Axis | None]
    ) -> Axis | Callable[[int], Axis | None] | None:
        op, axis = layer.op, axes[0] if axes else None
        if op in (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.EMBEDDING) or op in RECURRENT:
            self._lose(axes[1:])
            return self._weighted(layer, edges, axis)
        if op is Op.OUTPUT:
            self._lose(axes, "output")
            return None
        if op is Op.PIXEL_SHUFFLE:
            self._lose(axes, "shuffled")
        if op is Op.SHAPE or (axis is None and len(axes) < 2):
            return None
        if op in _BINARY and "axis" not in layer.attrs:
            return self._binary(layer, edges, axes)
        if op is Op.CONCAT:
            return self._concat(layer, edges, axes)
        if op is Op.MATMUL and len(axes) == 2 and not axis:
            return self._mixed(layer, edges, axes)
        if axis is not None:
            self._lose(axes[1:])
            handler = MOVES.get(op)
            if op in _ELEMENTWISE:
                self._noise(layer, axis)
                return self._labelled(layer, axis, self._shape(edges[0]))
            if op is Op.SPLIT:
                return self._split(layer, axis, self._shape(edges[0]))
            found = handler(layer, axis, self._shape(edges[0])) if handler else None
            if found is not None:
                if op in NORMALISERS:
                    return self._norm(layer, found, self._shape(edges[0]))
                return found
        self._lose(axes)
        return None

    def _shape(self, edge: Edge) -> Shape | None:
        if edge.shape is not None:
            return edge.shape
        return self.graph[edge.source].output_shape if edge.output == 0 else None

    def _noise(self, layer: Layer, axis: Axis) -> None:
        if layer.op is Op.DROPOUT and layer.attrs.get("p", 0.5) > 0:
            self._mark(axis, "noise")

    def _weighted(self, layer: Layer, edges: tuple[Edge, ...], axis: Axis | None) -> Axis | None:
        weights = layer.with_role(Role.WEIGHT)
        spatial = layer.op in (Op.CONV, Op.CONV_TRANSPOSE)
        made = self._produce(layer, weights)
        if axis is None or layer.op is Op.EMBEDDING:
            return made
        shape = self._shape(edges[0])
        last = axis.at == -1 or (shape is not None and axis.at == len(shape) - 1)
        placed = axis.at == 1 and axis.inner == axis.outer == 1 if spatial else last
        groups = int(layer.attrs.get("groups", 1)) or 1
        total = axis.units * axis.outer * axis.inner
        if not placed or any(weight.shape[1] * groups != total for weight in weights):
            self._mark(axis)
            return made
        for weight in weights:
            self._read(layer, axis, weight, 1 - len(weight.shape), groups, self.made.get(layer.id))
        return made

    def _produce(self, layer: Layer, weights: tuple[Param, ...]) -> Axis | None:
        if layer.op in RECURRENT:
            return self._recurrent(layer)
        if len(weights) != 1 or len(weights[0].shape) < 2:
            return None
        side = 1 if layer.op is Op.EMBEDDING else 0
        spatial = layer.op in (Op.CONV, Op.CONV_TRANSPOSE)
        return self._new(layer, weights[0].shape[side], 1 if spatial else -1)

    def _recurrent(self, layer: Layer) -> Axis | None:
        """Hidden units of one direction; those of two are followed nowhere."""
        blocks = layer.with_role(Role.RECURRENT_WEIGHT)
        plain = not layer.with_role(Role.PROJECTION, Role.PEEPHOLE, Role.INITIAL_STATE)
        one = all(param.direction == 0 for param in layer.params)
        if not blocks or not plain or not one:
            return None
        axis = self._new(layer, blocks[0].shape[1], -1)
        for block in blocks:
            self._read(layer, axis, block, -1, 1, self.made[layer.id])
        return axis

    def _read(
        self, layer: Layer, axis: Axis, source: Any, at: int, groups: int, target: int | None
    ) -> None:
        offset, units = 0, axis.units
        for segment in axis.segments:
            reading = Reading(
                layer.id,
                source,
                at,
                offset,
                segment.start,
                segment.length,
                units,
                axis.outer,
                axis.inner,
                groups,
                target,
            )
            space = self.spaces[segment.space]
            (space.labels if groups == 0 else space.columns).append(reading)
            offset += segment.length

    def _labelled(self, layer: Layer, axis: Axis, shape: Shape | None) -> Axis | None:
        """Attach one number per unit from a layer's parameters and fixed operand."""
        sources: list[Any] = [
            param
            for param in layer.params
            if param.role not in (Role.RUNNING_MEAN, Role.RUNNING_VAR)
        ]
        constant = layer.attrs.get("constant")
        if constant is not None and np.size(constant) > 1:
            sources.append(np.asarray(constant))
        for source in sources:
            sides = tuple(source.shape)
            if prod(sides) == 1:
                continue
            at = self._aligned(layer, axis, shape, sides)
            if at is None:
                self._mark(axis)
                return None
            if sides[at] != 1:
                self._read(layer, axis, source, at, 0, None)
        return axis

    def _aligned(
        self, layer: Layer, axis: Axis, shape: Shape | None, sides: tuple[int, ...]
    ) -> int | None:
        """The operand's axis (from the end) that runs along the units."""
        rank = len(shape) if shape is not None else None
        total = axis.units * axis.outer * axis.inner
        per_channel = layer.op is Op.PRELU or layer.op in NORMALISERS
        if per_channel and len(sides) == 1:
            return -1 if sides[0] == total else None
        at = axis.at if axis.at < 0 else None if rank is None else axis.at - rank
        if at is None or -at > len(sides):
            return None
        return at if sides[at] in (1, total) else None

    def _norm(self, layer: Layer, axis: Axis, shape: Shape | None) -> Axis | None:
        groups = int(layer.attrs.get("groups", 1)) or 1
        if layer.op is Op.GROUP_NORM and groups > 1:
            offset, width = 0, max(axis.units // groups, 1)
            for segment in axis.segments:
                position = (segment.start - offset, segment.length, width)
                self.spaces[segment.space].positions.append(position)
                offset += segment.length
        return self._labelled(layer, axis, shape)

    def _binary(
        self, layer: Layer, edges: tuple[Edge, ...], axes: list[Axis | None]
    ) -> Axis | None:
        shapes = [self._shape(edge) for edge in edges]
        known = [(axis, shape) for axis, shape in zip(axes, shapes, strict=True) if axis]
        if not known:
            return None
        base, base_shape = max(known, key=lambda item: len(item[1] or ()))
        rank = len(base_shape) if base_shape is not None else None
        for axis, shape in zip(axes, shapes, strict=True):
            if axis is base:
                continue
            if broadcasts(base, rank, shape):
                if axis is not None:
                    self._mark(axis)
                continue
            aligned = axis is not None and same_place(base, rank, axis, shape)
            if not aligned or axis is None or not self._tie(base, axis):
                self._lose(axes)
                return None
        return self._labelled(layer, base, base_shape)

    def _mixed(self, layer: Layer, edges: tuple[Edge, ...], axes: list[Axis | None]) -> Axis | None:
        """A product that adds up positions (neighbours of a graph, keys) leaves the units apart."""
        axis, shape, after = axes[1], self._shape(edges[1]), layer.output_shape
        turned = layer.attrs.get("transposed") not in (None, (False, False))
        plain = not (layer.params or turned or "equation" in layer.attrs)
        if axis and shape and after and plain and from_start(axis, shape) == len(shape) - 1:
            return replace(axis, at=len(after) - 1)
        self._lose(axes)
        return None

    def _concat(
        self, layer: Layer, edges: tuple[Edge, ...], axes: list[Axis | None]
    ) -> Axis | None:
        shapes = [self._shape(edge) for edge in edges]
        along = layer.attrs.get("axis", 1)
        known = [(axis, shape) for axis, shape in zip(axes, shapes, strict=True) if axis]
        if len(known) != len(axes) or layer.params or layer.attrs.get("constant_positions"):
            self._lose(axes)
            return None
        places = [from_start(axis, shape) for axis, shape in known]
        ranks = {len(shape) for _, shape in known if shape is not None}
        if len(ranks) != 1 or any(place != places[0] for place in places):
            self._lose(axes)
            return None
        base = known[0][0]
        if along % next(iter(ranks)) != places[0]:
            if all(self._tie(base, axis) for axis, _ in known[1:]):
                return base
            self._lose(axes)
            return None
        if any(axis.outer * axis.inner > 1 for axis, _ in known):
            self._lose(axes)
            return None
        return replace(base, segments=tuple(s for axis, _ in known for s in axis.segments))

    def _split(
        self, layer: Layer, axis: Axis, shape: Shape | None
    ) -> Axis | Callable[[int], Axis | None] | None:
        place, along = from_start(axis, shape), int(layer.attrs.get("axis", -1))
        if along >= 0 and (place is None or place < 0):
            self._mark(axis)
            return None
        if place is not None and shape is not None and along % len(shape) != place:
            return axis
        if along < 0 and shape is None and along != axis.at:
            return axis
        sizes = layer.attrs.get("sizes")
        parts = layer.attrs.get("parts")
        if not sizes and parts:
            sizes = (axis.units // int(parts),) * int(parts)
        if not sizes or axis.outer * axis.inner > 1 or sum(sizes) != axis.units:
            self._mark(axis)
            return None
        return cuts(axis, sizes).__getitem__
