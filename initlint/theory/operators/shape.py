"""Operators that move, copy, drop or join values without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from initlint.model.op import Op
from initlint.theory.node import Node, OperatorRule
from initlint.theory.operators.weighted import mixture
from initlint.theory.state import SIDE, Gradient, State, log, unit

ALIGNED = frozenset({Op.IDENTITY, Op.CAST, Op.RESHAPE, Op.DROPOUT, Op.EXPAND, Op.OUTPUT})
"""Operators after which values stand where they stood (dropout: in expectation)."""


MOVING = (
    Op.OUTPUT,
    Op.IDENTITY,
    Op.CAST,
    Op.RESHAPE,
    Op.TRANSPOSE,
    Op.EXPAND,
    Op.SLICE,
    Op.SPLIT,
    Op.GATHER,
    Op.PAD,
    Op.PIXEL_SHUFFLE,
    Op.DROPOUT,
)
"""Operators whose output holds values of their first input."""


def _pass(node: Node) -> State | None:
    x = node.first
    if x is None:
        return None
    state = x if node.layer.op in ALIGNED else x.moved(node.layer.id)
    if x.unit_axis is not None and node.layer.op in _RESHAPING:
        axis = _axis_after(node, x.unit_axis)
        if axis is None and node.layer.op is Op.RESHAPE:
            state = _flattened(node, state)
        state = replace(state, unit_axis=axis)
    if x.blocks and node.layer.op is Op.SLICE:
        return _block(node, state)
    if node.layer.op is Op.PAD and node.ratio() > 1 and node.layer.attrs.get("mode") in _ZERO_PAD:
        share = 1 / node.ratio()
        return replace(state.scaled(math.log(share)), mean=state.mean * math.sqrt(share))
    return state


def _flattened(node: Node, state: State) -> State:
    """Units and positions laid out on one axis: the mean cosine over its pairs."""
    shape, axis = node.input_shape(), state.unit_axis
    if shape is None or axis is None or not 0 < axis < len(shape):
        return state
    units = shape[axis] or 1
    places = math.prod(side or 1 for i, side in enumerate(shape) if i not in (0, axis))
    mean = state.mean**2
    pairs = (state.positions - mean) / units + (state.units - mean) / places
    return replace(state, units=unit(mean + pairs), positions=state.samples)


_RESHAPING = frozenset(
    {Op.RESHAPE, Op.TRANSPOSE, Op.SLICE, Op.GATHER, Op.EXPAND, Op.PIXEL_SHUFFLE, Op.SPLIT}
)
_ZERO_PAD = (None, "constant")


def _axis_after(node: Node, axis: int) -> int | None:
    """Where the axis of the units is after a change of shape; None for the last one."""
    before, after = node.input_shape(), node.output_shape
    if before is None or after is None or axis >= len(before):
        return None
    if node.layer.op is Op.TRANSPOSE:
        perm = node.layer.attrs.get("perm", node.layer.attrs.get("axes"))
        order = [int(item) % len(before) for item in perm] if perm else []
        return order.index(axis) if axis in order else None
    if len(before) == len(after) and node.layer.op is not Op.RESHAPE:
        return axis
    if axis == len(before) - 1:
        return len(after) - 1
    if node.layer.op is Op.RESHAPE and before[: axis + 1] == after[: axis + 1]:
        # flattened to the end, the units' own axis goes with the others
        return axis if len(after) > axis + 1 else None
    if node.layer.op is Op.SLICE and len(after) == len(before) - 1:
        gone = int(node.layer.attrs.get("axis", 0)) % len(before)
        return axis - (gone < axis)
    return None


def _only(value: Any) -> int | None:
    """The one number of a setting that some exporters write as a list."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    return int(value) if isinstance(value, int) else None


def _block(node: Node, state: State) -> State:
    """The part of a packed projection that a slice takes."""
    attrs, shape = node.layer.attrs, node.input_shape()
    axis, start, stop = (
        _only(attrs.get(name, attrs.get(plural)))
        for name, plural in (("axis", "axes"), ("start", "starts"), ("stop", "stops"))
    )
    if shape is None or axis is None or start is None or stop is None:
        return state
    length, parts = shape[axis % len(shape)], len(state.blocks)
    if not length or length % parts:
        return state
    part = length // parts
    first, last = start // part, (min(stop, length) - 1) // part
    if first != last or not 0 <= first < parts:
        return state
    return replace(state, log_q=state.blocks[first], blocks=())


def _pass_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    """Values that were dropped get no gradient; values that were copied get the sum."""
    found: list[Gradient | None] = [Gradient(-math.inf)] * len(node.edges)
    if not node.signals:
        return found
    index = node.signals[0]
    ratio = node.ratio(index)
    scaled = gradient
    if ratio < 1 and node.layer.op in (Op.SLICE, Op.GATHER):
        scaled = replace(gradient.scaled(math.log(ratio)), positions=gradient.positions * ratio)
    elif ratio > 1 and node.layer.op in (Op.EXPAND, Op.GATHER):
        scaled = gradient.scaled(
            math.log(ratio) + math.log1p((ratio - 1) * unit(gradient.positions))
        )
    found[index] = scaled
    return found


def _input(node: Node) -> State | None:
    """The input's statistics; pixels are taken as even over 0 to 255, independent of each other.

    Then q = 255²/3, and what any two pixels share is their mean, (255/2)² = 3/4 of it.
    """
    kind = str(node.layer.attrs.get("dtype", "float32"))
    shape = node.output_shape
    axis = None if shape is None else 1 if len(shape) in (4, 5) else len(shape) - 1
    if node.layer.attrs.get("pixels"):
        roots = ((node.layer.id, 1.0),)
        return State(
            math.log(255.0**2 / 3), 0.75**0.5, 0.75, 0.75, 0.75, 0.0, roots, unit_axis=axis
        )
    if kind.startswith(("int", "uint", "bool", "string")):
        return SIDE
    return State(log(node.context.input_q), roots=((node.layer.id, 1.0),), unit_axis=axis)


def _constant(node: Node) -> State | None:
    """A tensor that is the same for every sample: a table, indices, a learned query."""
    params = node.layer.params
    if params:
        measured = node.context.moments(params[0])
        second, mean = measured if measured else (0.0, 0.0)
        if measured is None:
            return None
    else:
        if node.layer.attrs.get("kind") == "noise":
            return _noise(node)
        value = node.layer.attrs.get("constant")
        found = node.context.constant(value) if value is not None else None
        if found is None:
            return replace(SIDE, samples=1.0)
        second, mean, _ = found
    ratio = max(min(mean / math.sqrt(second), 1.0), -1.0) if second > 0 else 0.0
    alike = ratio * ratio
    return State(log(second), ratio, 1.0, alike, alike, roots=((node.layer.id, 1.0),))


def _noise(node: Node) -> State:
    """Independent numbers, drawn again for every sample."""
    mean, std = float(node.layer.attrs["mean"]), float(node.layer.attrs["std"])
    second = mean * mean + std * std
    alike = mean * mean / second if second > 0 else 0.0
    ratio = math.copysign(math.sqrt(alike), mean)
    return State(log(second), ratio, alike, alike, alike, roots=((node.layer.id, 1.0),))


def _concat(node: Node) -> State | None:
    axis = _number(node.layer.attrs.get("axis"))
    parts: list[tuple[float, State]] = []
    for index in node.signals:
        state = node.states[index]
        if state is None:
            return None
        shape = node.input_shape(index)
        known = shape is not None and axis is not None and -len(shape) <= axis < len(shape)
        count = shape[axis] if known and shape is not None and axis is not None else None
        parts.append((float(count or 1), state))
    if not parts:
        return None
    return mixture(parts).moved(node.layer.id)


def _number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _copy_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    return [
        gradient if index in node.signals else Gradient(-math.inf)
        for index in range(len(node.edges))
    ]


def _linear_share(node: Node, index: int = 0) -> float:
    """E[Σ w²] of the interpolation weights of a resize: 1 for nearest.

    Linear interpolation by an even factor f mixes two neighbours with weights (w, 1-w), w spread
    evenly over [0, 1): the mean of w² + (1-w)² tends to 2/3 (5/8 at f = 2) per resized axis.
    """
    mode = str(node.layer.attrs.get("mode", "nearest"))
    before, after = node.input_shape(index), node.output_shape
    if mode not in ("linear", "bilinear", "trilinear", "cubic", "bicubic") or not before:
        return 1.0
    axes = sum(
        1
        for a, b in zip(before[2:], (after or before)[2:], strict=False)
        if a is not None and b is not None and a != b and a > 1
    )
    return float(0.65**axes)


def _resize(node: Node) -> State | None:
    x = node.first
    if x is None:
        return None
    share = _linear_share(node)
    factor = share + (1 - share) * x.positions
    if factor <= 0:
        return None
    return replace(
        x.scaled(math.log(factor)).moved(node.layer.id),
        positions=unit(x.positions / factor),
        mean=x.mean / math.sqrt(factor),
        samples=unit((share * x.samples + (1 - share) * min(x.samples, x.positions)) / factor),
    )


def _resize_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    found: list[Gradient | None] = [Gradient(-math.inf)] * len(node.edges)
    if node.signals:
        index = node.signals[0]
        share, copies = _linear_share(node, index), node.ratio(index)
        mixed = share + (copies - share) * unit(gradient.positions) if copies > 1 else share
        found[index] = gradient.scaled(log(copies) + log(mixed))
    return found


def _side(node: Node) -> State | None:
    return SIDE


def _nothing(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    return [Gradient(-math.inf)] * len(node.edges)


_PASS = OperatorRule(_pass, _pass_backward)

SHAPE = {
    Op.INPUT: OperatorRule(_input, _nothing),
    Op.CONSTANT: OperatorRule(_constant, _nothing),
    Op.SHAPE: OperatorRule(_side, _nothing),
    Op.COMPARE: OperatorRule(_side, _nothing),
    Op.CONCAT: OperatorRule(_concat, _copy_backward),
    Op.RESIZE: OperatorRule(_resize, _resize_backward),
    **dict.fromkeys(MOVING, _PASS),
}
