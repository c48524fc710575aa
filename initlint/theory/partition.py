"""Units that can never differ: symmetry by partition refinement.

Two hidden units with equal incoming weights compute the same function; when their outgoing weights
are equal too they receive the same gradient, so every optimiser whose update depends on gradients
and weights alone keeps them equal for ever. Starting from the groups with equal incoming weights,
groups are split until the outgoing weights agree within each group, where units that are themselves
indistinguishable count together (the coarsest equitable partition). A recurrent layer's own state
is both: its rows and columns are compared up to exchanges within the groups, so that an identity
matrix separates nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from initlint.measure.precision import distinct
from initlint.model.graph import LayerGraph
from initlint.model.layer import Layer, Param, Role
from initlint.model.model import Model
from initlint.model.op import RECURRENT, Op
from initlint.theory.units import Reading, Space, Units

Array = NDArray[Any]
Labels = NDArray[np.int64]

_INCOMING = (Role.WEIGHT, Role.RECURRENT_WEIGHT)
_FROM_BELOW = (Role.WEIGHT,)
_BIASES = (Role.BIAS, Role.RECURRENT_BIAS)
_FEED_FORWARD = (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE)

_LARGEST_COLUMN_BLOCK = 1 << 26
"""Elements of a weight that are read to compare columns (256 MiB of float32); groups that larger
weights read are left alone."""


class Weights(Protocol):
    """What the search asks of the measurements."""

    def duplicates(self, param: Param) -> tuple[tuple[int, ...], ...]:
        """Groups of equal output units (rows) of a parameter."""
        ...

    def read(self, param: Param) -> Array | None:
        """The values of a parameter in canonical orientation; None when not known."""
        ...


@dataclass(frozen=True, slots=True)
class SymmetricGroup:
    """Units of one layer that start equal.

    Attributes:
        layer: id of the layer that computes them; the first one for a residual stream.
        units: their indices, in order.
        symmetric: True when outgoing weights are equal as well: the units can never differ. False
            when only the incoming weights are: the first update is rank one, then they separate.
        size: number of units of the layer.
        layers: ids of all layers that write these units (several for a residual stream).
        consumers: ids of the layers that read them.
        param: key of the parameter with the equal rows.
        zero: True when the incoming weights are all zero.
        noise: True when dropout acts on the units, which separates them after all.
        output: True when a graph output shows the units, so that labels separate them.
        shuffled: True when the units become positions (sub-pixel kernels are equal on purpose).
        followed: False when the units could not be followed to all their consumers.
    """

    layer: str
    units: tuple[int, ...]
    symmetric: bool
    size: int
    layers: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    param: str = ""
    zero: bool = False
    noise: bool = False
    output: bool = False
    shuffled: bool = False
    followed: bool = True

    @property
    def lost(self) -> int:
        """Units that the group wastes: all but one."""
        return len(self.units) - 1


def symmetric_units(model: Model, weights: Weights) -> tuple[SymmetricGroup, ...]:
    """Groups of units with equal incoming weights, by layer in topological order.

    Symmetric groups come first for each layer, then the groups that are equal on the incoming side
    alone. Not reported at all: rows of embeddings, rows of different groups of a grouped
    convolution (they read different inputs), frozen layers, groups of zero rows that outgoing
    weights tell apart, and groups that become positions in a pixel shuffle. Where the units cannot
    be followed with certainty no symmetry is claimed. Cost: one comparison of rows per weight; only
    consumers of layers with equal rows are read further.

    Raises:
        LoadError: the file does not hold what its header says.
    """
    packed = tuple(group for layer in model.graph.weighted for group in _in_blocks(layer, weights))
    recurrent = any(layer.op in RECURRENT for layer in model.graph)
    if not recurrent and not any(_has_copies(layer, weights) for layer in model.graph.order):
        return packed
    alike = _all_incoming(model, weights, _INCOMING)
    if not recurrent and not any(_repeats(labels) for labels in alike.values()):
        return packed
    incoming = _all_incoming(model, weights, _FROM_BELOW, biases=True)
    if not any(_repeats(labels) for labels in (*alike.values(), *incoming.values())):
        return packed
    if not model.connected:
        return packed + tuple(
            group
            for key, labels in incoming.items()
            for group in _rows_alone(model.graph[key], labels, None, weights, [], ())
        )
    search = _Search(Units(model.graph), model, weights, incoming)
    return packed + search.groups(alike)


def _has_copies(layer: Layer, weights: Weights) -> bool:
    """True when some rows of a weight are equal: without them no units of the layer are."""
    return layer.op in _FEED_FORWARD and any(
        row.trainable and weights.duplicates(row) for row in layer.with_role(*_INCOMING)
    )


def _in_blocks(layer: Layer, weights: Weights) -> Iterator[SymmetricGroup]:
    """Groups of equal rows within the blocks of a packed projection (query, key and value).

    Its units are not followed: heads that are copies read equal rows in every block.
    """
    blocks = layer.with_role(Role.WEIGHT)
    if layer.op is not Op.LINEAR or len(blocks) < 2 or len({row.stored_name for row in blocks}) > 1:
        return
    size = sum(row.shape[0] for row in blocks)
    start = 0
    for row in blocks:
        if row.tensor is not None and row.trainable:
            values = weights.read(row)
            for group in weights.duplicates(row):
                if values is not None and np.any(values[group[0]]):
                    yield SymmetricGroup(
                        layer=layer.id,
                        units=tuple(start + unit for unit in group),
                        symmetric=False,
                        size=size,
                        layers=(layer.id,),
                        param=row.key,
                        followed=False,
                    )
        start += row.shape[0]


def _all_incoming(
    model: Model, weights: Weights, roles: Sequence[Role], *, biases: bool = False
) -> dict[str, Labels]:
    """Labels by layer; without ``biases`` units with equal weights are alike whatever theirs are.

    A bias parts the units of a recurrent layer in any case, and thresholds of one value.
    """
    result: dict[str, Labels] = {}
    for layer in model.graph.order:
        labels = _incoming(layer, weights, roles)
        if labels is None:
            continue
        parted = biases or layer.op in RECURRENT or _reads_one_value(layer)
        if parted and _repeats(labels) and not _is_centred(model.graph, layer):
            labels = _refine_by_biases(labels, layer, weights)
        result[layer.id] = labels
    return result


def _reads_one_value(layer: Layer) -> bool:
    """True when units of equal weights are thresholds of one value, told apart by their biases."""
    return layer.weight is not None and prod(layer.weight.shape[1:]) == 1


def _is_centred(graph: LayerGraph, layer: Layer) -> bool:
    """True when each unit's mean is taken off right behind the layer, and its bias with it."""
    after = graph.effective_consumers(layer.id)
    return bool(after) and all(item.op in (Op.BATCH_NORM, Op.INSTANCE_NORM) for item in after)


def _incoming(layer: Layer, weights: Weights, roles: Sequence[Role]) -> Labels | None:
    """Label per unit: equal where the incoming weights of these roles are.

    None for layers whose output units are not the rows of one trainable weight per gate. The units
    of a layer that reads in two directions are those of the first, then those of the second.
    """
    rows = layer.with_role(*roles)
    single = layer.op in RECURRENT or len(layer.with_role(Role.WEIGHT)) == 1
    plain = not layer.with_role(Role.PROJECTION, Role.PEEPHOLE, Role.INITIAL_STATE)
    fits = layer.op in _FEED_FORWARD or layer.op in RECURRENT
    if not rows or not fits or not single or not plain or len({row.shape[0] for row in rows}) != 1:
        return None
    if any(row.tensor is None or not row.trainable for row in rows):
        return None
    length = rows[0].shape[0]
    size = length * (1 + max(row.direction for row in rows))
    labels = np.arange(size) // length
    for row in rows:
        units = slice(length * row.direction, length * (row.direction + 1))
        labels = _refine(labels, _among(_from_groups(weights.duplicates(row), length), units, size))
        if not _repeats(labels):
            return labels
    groups = int(layer.attrs.get("groups", 1)) or 1
    if groups > 1 and not _is_depthwise(layer):
        labels = _refine(labels, np.arange(size) // max(size // groups, 1))
    return labels


def _refine_by_biases(labels: Labels, layer: Layer, weights: Weights) -> Labels:
    for bias in layer.with_role(*_BIASES):
        values = weights.read(bias)
        start = bias.direction * bias.shape[0] if bias.shape else 0
        if values is None or values.ndim != 1 or start + len(values) > len(labels):
            return np.arange(len(labels))
        units = slice(start, start + len(values))
        labels = _refine(labels, _among(_distinct(values[:, None]), units, len(labels)))
    return labels


def _among(labels: Labels, units: slice, size: int) -> Labels:
    """Labels of some units among all; the others share one label."""
    result: Labels = np.full(size, -1, np.int64)
    result[units] = labels
    return result


def _is_depthwise(layer: Layer) -> bool:
    weight = layer.weight
    groups = int(layer.attrs.get("groups", 1)) or 1
    return weight is not None and groups > 1 and weight.shape[:2] == (groups, 1)


def _from_groups(groups: Sequence[Sequence[int]], size: int) -> Labels:
    labels = np.arange(size, dtype=np.int64)
    for group in groups:
        labels[list(group)] = group[0]
    return labels


def _distinct(rows: Array) -> Labels:
    """Label per row of a matrix, by exact value; zero has one sign."""
    table = np.ascontiguousarray(rows.reshape(rows.shape[0], -1) + 0.0)
    if table.shape[1] == 0:
        return np.zeros(len(table), np.int64)
    view = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1]))).reshape(-1)
    return np.asarray(np.unique(view, return_inverse=True)[1], np.int64).reshape(-1)


def _refine(first: Labels, second: Labels) -> Labels:
    """Labels that are equal where both are."""
    return _distinct(np.stack([first, second], axis=1).astype(np.int64))


def _repeats(labels: Labels) -> bool:
    return distinct(labels) < len(labels)


def _classes(labels: Labels) -> list[tuple[int, ...]]:
    """Units by label, groups of two and more, in order of their first unit."""
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    groups = [tuple(int(unit) for unit in part) for part in np.split(order, cuts)]
    return sorted(group for group in groups if len(group) > 1)


class _Search:
    """Refines the labels of all spaces together until nothing changes."""

    def __init__(
        self, units: Units, model: Model, weights: Weights, incoming: Mapping[str, Labels]
    ) -> None:
        self._units = units
        self._model = model
        self._weights = weights
        self._incoming = incoming
        self._labels: dict[int, Labels] = {}
        roots = {units.find(number) for number in units.made.values()}
        for root in sorted(roots):
            self._labels[root] = self._start(units.spaces[root])
        self._read_by: dict[str, list[tuple[int, Reading]]] = {}
        for root in self._labels:
            for reading in units.spaces[root].columns:
                self._read_by.setdefault(reading.layer, []).append((root, reading))
        changed = True
        while changed:
            changed = False
            for root in sorted(roots):
                labels = self._labels[root]
                if not _repeats(labels):
                    continue
                finer = self._step(units.spaces[root], labels)
                if distinct(finer) > distinct(labels):
                    self._labels[root], changed = finer, True

    def groups(self, incoming: Mapping[str, Labels]) -> tuple[SymmetricGroup, ...]:
        """All groups, by layer in topological order.

        ``incoming`` are labels from all incoming weights, a layer's own state included.
        """
        result: list[SymmetricGroup] = []
        reported: dict[int, tuple[list[tuple[int, ...]], tuple[str, ...]]] = {}
        for key, labels in incoming.items():
            layer = self._model.graph[key]
            made = self._units.made.get(key)
            if made is None:
                result += _rows_alone(layer, labels, None, self._weights, [], ())
                continue
            root = self._units.find(made)
            space = self._units.spaces[root]
            if root not in reported:
                symmetric = _classes(self._labels[root])
                result += [self._symmetric(layer, space, group) for group in symmetric]
                reported[root] = symmetric, tuple(space.consumers)
            # A residual stream has as many readers as writers: all groups share one tuple.
            symmetric, consumers = reported[root]
            result += _rows_alone(layer, labels, space, self._weights, symmetric, consumers)
        return tuple(result)

    def _symmetric(self, layer: Layer, space: Space, units: tuple[int, ...]) -> SymmetricGroup:
        return SymmetricGroup(
            layer=layer.id,
            units=units,
            symmetric=True,
            size=space.size,
            layers=tuple(space.producers),
            consumers=tuple(space.consumers),
            param=layer.with_role(*_INCOMING)[0].key,
            zero=_zero_rows(layer, self._weights, units),
            noise=space.noise,
        )

    def _start(self, space: Space) -> Labels:
        """Labels from everything on the incoming side, and from one number per unit."""
        discrete: Labels = np.arange(space.size, dtype=np.int64)
        if space.lost or space.output or space.shuffled:
            return discrete
        if not space.columns or not all(key in self._incoming for key in space.producers):
            return discrete
        labels: Labels = np.zeros(space.size, np.int64)
        for producer in space.producers:
            labels = _refine(labels, self._incoming[producer])
        for start, length, width in space.positions:
            group = np.arange(space.size)
            group[max(start, 0) : max(start, 0) + length] = np.arange(length) // width
            labels = _refine(labels, group)
        for reading in space.labels:
            labels = _refine(labels, self._elements(reading, space.size))
        return labels

    def _elements(self, reading: Reading, size: int) -> Labels:
        values = self._read(reading)
        if values is None:
            return np.arange(size)
        return _placed(_distinct(_by_unit(values, reading)), reading, size)

    def _read(self, reading: Reading) -> Array | None:
        if not isinstance(reading.source, Param):
            return np.asarray(reading.source)
        if reading.source.tensor is None or reading.source.size > _LARGEST_COLUMN_BLOCK:
            return None
        return self._weights.read(reading.source)

    def _step(self, space: Space, labels: Labels) -> Labels:
        """Split groups whose outgoing weights differ."""
        for reading in space.columns:
            if not _repeats(labels):
                break
            labels = _refine(labels, self._outgoing(reading, space.size))
        for producer in space.producers:
            layer = self._model.graph[producer]
            if _is_depthwise(layer) and _repeats(labels):
                labels = _refine(labels, self._depthwise_inputs(layer, space.size))
            for block in layer.with_role(Role.RECURRENT_WEIGHT):
                values = self._weights.read(block)
                if values is None:
                    return np.arange(space.size)
                labels = _refine(labels, _distinct(_merged(values, labels)))
        return labels

    def _depthwise_inputs(self, layer: Layer, size: int) -> Labels:
        """Labels of the channels that a depthwise convolution reads, one per output unit."""
        for root, reading in self._read_by.get(layer.id, ()):
            if (reading.offset, reading.length) == (0, size):
                return self._labels[root][reading.start : reading.start + reading.length]
        return np.arange(size)

    def _outgoing(self, reading: Reading, size: int) -> Labels:
        values = self._read(reading)
        if values is None or reading.target is None:
            return np.arange(size)
        classes = self._labels[self._units.find(reading.target)]
        if reading.groups > 1:
            return self._grouped(reading, values, classes, size)
        columns = _by_unit(values, reading, keep_first=True)
        return _placed(_distinct(_merged(columns, classes)), reading, size)

    def _grouped(self, reading: Reading, values: Array, classes: Labels, size: int) -> Labels:
        """Columns of a grouped convolution: units of different groups differ unless depthwise."""
        depth = values.shape[1]
        if depth == 1 and len(values) == reading.groups:
            window = slice(reading.offset, reading.offset + reading.length)
            kernels = _distinct(values[window].reshape(reading.length, -1))
            return _placed(_refine(kernels, classes[window]), reading, size)
        return np.arange(size)


def _by_unit(values: Array, reading: Reading, *, keep_first: bool = False) -> Array:
    """Elements per unit: ``(length, …)``, or ``(length, rows, …)`` with the rows of a weight."""
    at = reading.axis % values.ndim
    layout = (reading.outer, reading.units, reading.inner)
    apart = values.reshape(*values.shape[:at], *layout, *values.shape[at + 1 :])
    chosen = apart.take(range(reading.offset, reading.offset + reading.length), axis=at + 1)
    moved = np.moveaxis(chosen, at + 1, 0)
    if keep_first:
        return moved.reshape(reading.length, values.shape[0], -1)
    return moved.reshape(reading.length, -1)


def _merged(columns: Array, classes: Labels) -> Array:
    """Weights per unit with those from or to indistinguishable units added: second axis merged.

    Sums are rounded to single precision, so that the order of addition does not tell units apart.
    """
    if len(classes) != columns.shape[1] or not _repeats(classes):
        return columns
    order = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(classes[order]) != 0])
    sums = np.add.reduceat(columns[:, order].astype(np.float64), starts, axis=1)
    return sums.astype(np.float32)


def _placed(labels: Labels, reading: Reading, size: int) -> Labels:
    """Labels of a run of units among all units of the space; the others share one label."""
    return _among(labels, slice(reading.start, reading.start + reading.length), size)


def _zero_rows(layer: Layer, weights: Weights, units: Sequence[int]) -> bool:
    for row in layer.with_role(*_INCOMING):
        unit = units[0] - row.direction * row.shape[0]
        values = weights.read(row)
        if values is None or (0 <= unit < len(values) and np.any(values[unit])):
            return False
    return True


def _rows_alone(
    layer: Layer,
    labels: Labels,
    space: Space | None,
    weights: Weights,
    symmetric: Sequence[tuple[int, ...]],
    consumers: tuple[str, ...],
) -> list[SymmetricGroup]:
    """Groups with equal rows that no symmetric group covers."""
    if _is_depthwise(layer) or (space is not None and space.shuffled):
        return []
    covered = set(symmetric)
    groups = [group for group in _classes(labels) if group not in covered]
    return [
        SymmetricGroup(
            layer=layer.id,
            units=group,
            symmetric=False,
            size=len(labels),
            layers=(layer.id,),
            consumers=consumers,
            param=layer.with_role(*_INCOMING)[0].key,
            noise=space is not None and space.noise,
            output=space is not None and space.output,
            followed=space is not None and not space.lost,
        )
        for group in groups
        if not _zero_rows(layer, weights, group)
    ]
