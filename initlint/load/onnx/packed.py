"""Packed projections: one matrix whose output is cut into query, key and value."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from initlint.load.onnx.values import Draft, ParamDraft
from initlint.model import Op, Role, Tensor
from initlint.model.record import record

GATES = ("query", "key", "value")

_CARRIES = frozenset(
    {
        Op.RESHAPE,
        Op.TRANSPOSE,
        Op.MUL,
        Op.DIV,
        Op.ADD,
        Op.SUB,
        Op.NEG,
        Op.CONCAT,
        Op.SLICE,
        Op.SPLIT,
        Op.GATHER,
        Op.CAST,
        Op.EXPAND,
        Op.IDENTITY,
        Op.RMS_NORM,
        Op.LAYER_NORM,
        Op.LP_NORM,
        Op.WHERE,
        Op.PAD,
        Op.DROPOUT,
    }
)
"""What may stand between a projection and the products of attention: head reshapes, scaling,
rotary embeddings, normalised queries and keys, caches."""

_CUTTING = frozenset({Op.SPLIT, Op.SLICE, Op.GATHER})
"""What takes a projection apart."""

_REACH = 400
"""Layers looked at from one part of a projection: a rotary embedding written out takes some 40."""


@record(frozen=True, slots=True)
class _Cut:
    """A part of the projection's output.

    Attributes:
        sides: the output axis seen as these sides (heads, parts…).
        axis: which side is cut.
        start: first index.
        stop: index after the last.
        layer: the layer that makes the cut.
        output: which of its outputs.
    """

    sides: tuple[int, ...]
    axis: int
    start: int
    stop: int
    layer: Draft
    output: int


Readers = Mapping[int, Sequence[tuple[Draft, int]]]


def readers_of(drafts: Sequence[Draft]) -> dict[int, list[tuple[Draft, int]]]:
    """For every layer, the layers that read it and which of its outputs."""
    found: dict[int, list[tuple[Draft, int]]] = {}
    for draft in drafts:
        for _, value in draft.inputs:
            key = id(value.layer)
            if key in found:
                found[key].append((draft, value.output))
            else:
                found[key] = [(draft, value.output)]
    return found


def split_packed(drafts: Sequence[Draft]) -> None:
    """Give packed projections one parameter per query, key and value block."""
    if _CUTTING.isdisjoint([draft.op for draft in drafts]):
        return
    readers = readers_of(drafts)
    for draft in drafts:
        if draft.op is not Op.LINEAR or draft.channel_axis != -1:
            continue
        weight = draft.param(Role.WEIGHT)
        if weight is None:
            continue
        if weight.packed != 1 or len(weight.tensor.shape) != 2 or weight.tensor.shape[0] < 3:
            continue
        part = prod(weight.tensor.stored_shape) != weight.tensor.size
        cuts = _cuts(draft, weight.tensor.shape[0], readers, part)
        if cuts is not None and all(_reaches_product(cut, readers) for cut in cuts):
            sizes = tuple(cut.stop - cut.start for cut in cuts)
            draft.params = [piece for param in draft.params for piece in _pieces(param, cuts)]
            draft.attrs["packed"] = sizes


def _cuts(draft: Draft, units: int, readers: Readers, part: bool) -> list[_Cut] | None:
    """Three cuts that together are the whole output, in order; None for anything else.

    Two, key and value, where the weight is ``part`` of a stored one, whose rest makes the query.
    """
    sides: tuple[int, ...] = (units,)
    axes: list[int] | None = None
    layer = draft
    for _ in range(8):
        found = readers.get(id(layer), ())
        cuts = _cuts_here(found, sides, axes, layer, part)
        if cuts is not None:
            return cuts
        if len(found) != 1:
            return None
        layer = found[0][0]
        if layer.op is Op.RESHAPE and layer.shape is not None and layer.inputs:
            before = layer.inputs[0][1].shape
            moved = _reshaped(before, layer.shape, sides, axes, units)
            if moved is None:
                return None
            sides, axes = moved
        elif layer.op is Op.TRANSPOSE:
            order = layer.attrs.get("axes", ())
            if axes is None:
                axes = [len(order) - 1]
            if not order or any(axis not in order for axis in axes):
                return None
            axes = [order.index(axis) for axis in axes]
        elif layer.op not in (Op.IDENTITY, Op.CAST):
            return None
    return None


def _reshaped(
    before: Sequence[int | None] | None,
    after: Sequence[int | None],
    sides: tuple[int, ...],
    axes: list[int] | None,
    units: int,
) -> tuple[tuple[int, ...], list[int]] | None:
    """Where the units are after a reshape: trailing axes, or the same axes among others of 1."""
    if axes is not None and axes != list(range(axes[0], axes[0] + len(axes))):
        kept = _ones_removed(before, after, axes)
        return None if kept is None else (sides, kept)
    if axes is not None and before is not None and axes[-1] != len(before) - 1:
        kept = _ones_removed(before, after, axes)
        return None if kept is None else (sides, kept)
    tail: list[int] = []
    for side in reversed(after):
        if prod(tail) >= units or side is None:
            break
        tail.insert(0, side)
    if prod(tail) != units:
        return None
    return tuple(tail), list(range(len(after) - len(tail), len(after)))


def _ones_removed(
    before: Sequence[int | None] | None, after: Sequence[int | None], axes: list[int]
) -> list[int] | None:
    """Positions of ``axes`` when a reshape only adds or removes sides of 1."""
    if before is None:
        return None
    kept = [axis for axis, side in enumerate(before) if side != 1]
    left = [axis for axis, side in enumerate(after) if side != 1]
    if len(kept) != len(left) or any(axis not in kept for axis in axes):
        return None
    return [left[kept.index(axis)] for axis in axes]


def _cuts_here(
    found: Sequence[tuple[Draft, int]],
    sides: tuple[int, ...],
    axes: list[int] | None,
    layer: Draft,
    part: bool,
) -> list[_Cut] | None:
    """The cuts that the readers of one layer make: query, key and value, or key and value."""
    cuts: list[_Cut] = []
    rank = len(layer.shape) if layer.shape is not None else None
    for reader, _ in found:
        if reader.op is Op.SPLIT:
            sizes = reader.attrs.get("sizes")
            position = _position(reader.attrs.get("axis", 0), axes, rank, len(sides))
            if sizes is None or position is None:
                return None
            start = 0
            for output, size in enumerate(sizes):
                cuts.append(_Cut(sides, position, start, start + size, reader, output))
                start += size
        elif reader.op is Op.SLICE:
            cut = _slice_cut(reader, sides, axes, rank)
            if cut is not None:
                cuts.append(cut)
        elif reader.op is Op.GATHER:
            indices = reader.attrs.get("indices")
            position = _position(reader.attrs.get("axis", 0), axes, rank, len(sides))
            if indices is None or len(indices) != 1 or position is None:
                return None
            index = indices[0] % sides[position]
            cuts.append(_Cut(sides, position, index, index + 1, reader, 0))
    if len(cuts) not in (2, 3) or len({cut.axis for cut in cuts}) != 1:
        return None
    cuts.sort(key=lambda cut: cut.start)
    bounds = [cuts[0].start, *(cut.stop for cut in cuts)]
    contiguous = all(cut.start == before for cut, before in zip(cuts, bounds, strict=False))
    if len(cuts) == 2 and not part:  # a rotary embedding cuts in two as well
        return None
    query, key, value = (cut.stop - cut.start for cut in (cuts[0], *cuts[-2:]))
    whole = bounds[0] == 0 and bounds[-1] == sides[cuts[0].axis]
    return cuts if contiguous and whole and key == value and query >= key > 0 else None


def _position(axis: int, axes: list[int] | None, rank: int | None, count: int) -> int | None:
    """Which of the unit sides an axis of the current tensor is."""
    if axes is None:
        last = axis == -1 or (rank is not None and axis == rank - 1)
        return 0 if last or (rank is None and axis == 2) else None
    if axis < 0:
        if rank is None:
            return None
        axis += rank
    return axes.index(axis) if axis in axes and len(axes) == count else None


def _slice_cut(
    reader: Draft, sides: tuple[int, ...], axes: list[int] | None, rank: int | None
) -> _Cut | None:
    given = reader.attrs
    if len(given.get("axes", ())) != 1 or given["steps"] != (1,):
        return None
    position = _position(given["axes"][0], axes, rank, len(sides))
    if position is None:
        return None
    start, stop, _ = slice(given["starts"][0], given["stops"][0]).indices(sides[position])
    return _Cut(sides, position, start, stop, reader, 0)


def _reaches_product(cut: _Cut, readers: Readers) -> bool:
    """True when a part ends in a product of activations, as attention's parts do."""
    queue = deque(layer for layer, output in readers.get(id(cut.layer), ()) if output == cut.output)
    seen: set[int] = set()
    while queue and len(seen) < _REACH:
        layer = queue.popleft()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if layer.op in (Op.MATMUL, Op.ATTENTION):
            return True
        if layer.op in _CARRIES:
            queue.extend(reader for reader, _ in readers.get(id(layer), ()))
    return False


def _pieces(param: ParamDraft, cuts: Sequence[_Cut]) -> list[ParamDraft]:
    units = prod(cuts[0].sides)
    if param.role not in (Role.WEIGHT, Role.BIAS) or param.tensor.shape[:1] != (units,):
        return [param]
    whole = prod(param.tensor.stored_shape) == param.tensor.size
    packed = len(cuts) if whole else len(GATES)
    return [
        replace(param, tensor=_piece(param.tensor, cut), gate=gate, packed=packed)
        for gate, cut in zip(GATES[-len(cuts) :], cuts, strict=True)
    ]


def _piece(tensor: Tensor, cut: _Cut) -> Tensor:
    """The units of one cut, in their stored order."""
    if len(cut.sides) == 1:
        return tensor.take(0, cut.start, cut.stop)
    rest = tensor.shape[1:]
    inner = prod(cut.sides[cut.axis + 1 :])
    if cut.axis == 0:
        return tensor.take(0, cut.start * inner, cut.stop * inner)
    seen = tensor.reshape(*cut.sides, *rest).take(cut.axis, cut.start, cut.stop)
    return seen.reshape(prod(seen.shape[: len(cut.sides)]), *rest)
