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
    return x if node.layer.op in ALIGNED else x.moved(node.layer.id)


def _pass_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    """Values that were dropped get no gradient; values that were copied get the sum."""
    found: list[Gradient | None] = [Gradient(-math.inf)] * len(node.edges)
    if not node.signals:
        return found
    index = node.signals[0]
    ratio = node.ratio(index)
    scaled = gradient
    if ratio < 1 and node.layer.op in (Op.SLICE, Op.GATHER, Op.SPLIT):
        scaled = replace(gradient.scaled(math.log(ratio)), positions=gradient.positions * ratio)
    elif ratio > 1 and node.layer.op in (Op.EXPAND, Op.GATHER):
        scaled = gradient.scaled(
            math.log(ratio) + math.log1p((ratio - 1) * unit(gradient.positions))
        )
    found[index] = scaled
    return found


def _input(node: Node) -> State | None:
    kind = str(node.layer.attrs.get("dtype", "float32"))
    if kind.startswith(("int", "uint", "bool", "string")):
        return SIDE
    return State(log(node.context.input_q), roots=((node.layer.id, 1.0),))


def _constant(node: Node) -> State | None:
    """A tensor that is the same for every sample: a table, indices, a learned query."""
    params = node.layer.params
    if params:
        measured = node.context.moments(params[0])
        second, mean = measured if measured else (0.0, 0.0)
        if measured is None:
            return None
    else:
        value = node.layer.attrs.get("constant")
        found = node.context.constant(value) if value is not None else None
        if found is None:
            return replace(SIDE, samples=1.0)
        second, mean, _ = found
    ratio = max(min(mean / math.sqrt(second), 1.0), -1.0) if second > 0 else 0.0
    alike = ratio * ratio
    return State(log(second), ratio, 1.0, alike, alike, roots=((node.layer.id, 1.0),))


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
