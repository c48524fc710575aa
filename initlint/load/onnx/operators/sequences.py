"""Sequences of tensors with a known number of items: PyTorch's exporter writes splits this way."""

from __future__ import annotations

from dataclasses import replace

from initlint.load.onnx.builder import Builder
from initlint.load.onnx.call import Call
from initlint.load.onnx.fold import split_sizes
from initlint.load.onnx.operators.registry import HANDLERS, Result, handles
from initlint.load.onnx.values import Dynamic, Fixed, Pieces, Value
from initlint.model import Op

MAX_PIECES = 4096
"""Items followed one by one; a split into more is no layer's."""

SEQUENCE_READERS = frozenset({"SequenceAt", "ConcatFromSequence"})
"""Operators that are given sequences as such."""


@handles("SplitToSequence")
def _split(builder: Builder, call: Call) -> Result:
    value, axis = call.value(0), call.integer("axis", 0)
    shape = call.shape(0)
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    sizes = _sizes(call, shape[axis])
    if sizes is None or not 0 < len(sizes) <= MAX_PIECES:
        return None
    if isinstance(value, Fixed):
        if sum(sizes) != shape[axis]:
            return None
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        return Pieces(
            tuple(
                value.seen_as(value.tensor.take(axis, start, start + size))
                for start, size in zip(starts, sizes, strict=True)
            )
        )
    at = axis % len(shape)
    parts = [(*shape[:at], size, *shape[at + 1 :]) for size in sizes]
    attrs = {"axis": axis, "sizes": sizes}
    result = builder.emit(Op.SPLIT, call, [value], attrs=attrs, shape=parts[0])
    result.layer.outputs = []  # a sequence is no tensor that a probe could read
    items = [Dynamic(result.layer, index, part) for index, part in enumerate(parts)]
    return Pieces(tuple(items))


def _sizes(call: Call, side: int | None) -> tuple[int, ...] | None:
    """Sizes of the pieces along the split axis; None where only a run can tell."""
    split = call.fixed(1)
    if split is None:
        whole = call.value(1) is None and call.integer("keepdims", 1) and side is not None
        return (1,) * min(side or 0, MAX_PIECES + 1) if whole else None
    sizes = split.integers()
    if sizes is None or split.shape:
        return sizes
    if side is None or sizes[0] < 1:
        return None
    return split_sizes(side, -(-side // sizes[0])) if side % sizes[0] == 0 else None


@handles("SequenceConstruct")
def _construct(builder: Builder, call: Call) -> Result:
    return Pieces(tuple(value for value in call.inputs if value is not None))


@handles("SequenceAt")
def _at(builder: Builder, call: Call) -> Result:
    pieces, index = call.value(0), call.fixed(1)
    position = index.scalar() if index is not None else None
    if not isinstance(pieces, Pieces) or position is None:
        return None
    if not -len(pieces.items) <= position < len(pieces.items):
        return None
    item: Value = pieces.items[int(position)]
    if isinstance(item, Dynamic) and item.output == 0 and not item.layer.outputs:
        item.layer.outputs = [name for name in call.outputs if name]
    return item


@handles("ConcatFromSequence")
def _concat(builder: Builder, call: Call) -> Result:
    pieces = call.value(0)
    if not isinstance(pieces, Pieces) or call.integer("new_axis", 0):
        return None
    return HANDLERS["", "Concat"](builder, replace(call, op="Concat", inputs=pieces.items))


def flattened(call: Call) -> Call:
    """The call with the items of sequences in their place, for operators that know no sequence."""
    for value in call.inputs:
        if isinstance(value, Pieces):
            break
    else:
        return call
    inputs: list[Value | None] = []
    for value in call.inputs:
        inputs.extend(value.items if isinstance(value, Pieces) else (value,))
    return replace(call, inputs=inputs)
