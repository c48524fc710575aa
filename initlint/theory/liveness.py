"""Where exact zeros stop a signal or a gradient: one Boolean rule per operator.

A tensor is *alive* when it is not identically zero for generic inputs and generic non-zero weights;
cancellations of measure zero do not count. The derivative of ReLU at zero is taken as zero, as
every framework does. Operators outside the vocabulary are alive in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from initlint.model.layer import Layer, Param, Role
from initlint.model.op import NORMALISERS, RECURRENT, Op
from initlint.theory.recurrent_liveness import recurrent_alive, recurrent_learns, recurrent_passes

NonZero = Callable[[Param], bool]
"""Whether a parameter is not exactly zero at the moment."""

Inputs = Sequence[bool]
"""Which inputs of a layer are alive, by position."""

_MAPS = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.BILINEAR})

_NON_ZERO_AT_ZERO = frozenset(
    {
        Op.INPUT,
        Op.OTHER,
        Op.EXP,
        Op.COS,
        Op.SIGMOID,
        Op.LOG_SIGMOID,
        Op.SOFTPLUS,
        Op.GAUSSIAN,
        Op.SOFTMAX,
        Op.LOG_SOFTMAX,
        Op.LOG,
        Op.RECIPROCAL,
        Op.RECIPROCAL_SQRT,
        Op.COMPARE,
        Op.SHAPE,
    }
)
"""Operators whose output is not zero when their input is."""

_FLAT_AT_ZERO = frozenset(
    {
        Op.RELU,
        Op.RELU6,
        Op.THRESHOLDED_RELU,
        Op.SQUARED_RELU,
        Op.SQUARE,
        Op.ABS,
        Op.COS,
        Op.GAUSSIAN,
        Op.SOFTSHRINK,
        Op.HARDSHRINK,
    }
)
"""Operators whose derivative at zero is zero."""

_NO_GRADIENT = frozenset({Op.COMPARE, Op.SHAPE, Op.EMBEDDING})

_FLAT_REDUCTIONS = frozenset({"prod", "l1", "l2", "var", "std", "sum_square"})


def _constant(layer: Layer) -> bool | None:
    """Whether the fixed operand is non-zero somewhere; None without one."""
    value: Any = layer.attrs.get("constant")
    return None if value is None else bool(np.any(np.asarray(value) != 0))


def _weights(layer: Layer) -> tuple[Param, ...]:
    return layer.with_role(Role.WEIGHT)


def _factors(layer: Layer) -> tuple[Param, ...]:
    """The parameters of a product that multiply, a bias behind it left out."""
    return tuple(param for param in layer.params if param.role is not Role.BIAS)


def alive(layer: Layer, inputs: Inputs, non_zero: NonZero) -> bool:
    """Whether a layer's output is alive."""
    op, first = layer.op, inputs[0] if inputs else True
    constant = _constant(layer)
    if op in _NON_ZERO_AT_ZERO:
        return True
    if op in _MAPS:
        mapped = all(inputs) and (not _weights(layer) or any(map(non_zero, _weights(layer))))
        return mapped or any(map(non_zero, layer.with_role(Role.BIAS)))
    if op is Op.EMBEDDING:
        return any(map(non_zero, _weights(layer)))
    if op in RECURRENT:
        return recurrent_alive(layer, inputs, non_zero)
    if op in NORMALISERS:
        gains = layer.with_role(Role.GAIN)
        scaled = first and all(map(non_zero, gains))
        return scaled or any(map(non_zero, layer.with_role(Role.SHIFT)))
    if op is Op.CONSTANT:
        return any(map(non_zero, layer.params)) if layer.params else constant is not False
    if op in (Op.MUL, Op.MATMUL):
        product = all(inputs) and all(map(non_zero, _factors(layer))) and constant is not False
        return product or any(map(non_zero, layer.with_role(Role.BIAS)))
    if op is Op.DIV:
        return bool(constant) if layer.attrs.get("constant_first") else first
    if op is Op.POW:
        return first or not _raises(layer)
    if op is Op.ATTENTION:
        return inputs[2] if len(inputs) > 2 else True
    if op in (Op.ADD, Op.SUB, Op.CONCAT, Op.WHERE, Op.MAXIMUM, Op.MINIMUM, Op.GATHER):
        values = inputs[1:] if op is Op.WHERE else inputs
        return any(values) or any(map(non_zero, layer.params)) or bool(constant) or not inputs
    if op is Op.CLIP:
        low, high = layer.attrs.get("min"), layer.attrs.get("max")
        return first or bool(low is not None and low > 0) or bool(high is not None and high < 0)
    if op is Op.HARD_SIGMOID:
        return first or layer.attrs.get("beta", 0.5) != 0
    return first


def _raises(layer: Layer) -> bool:
    """True for a power with a fixed positive exponent, which keeps zero at zero."""
    exponent = layer.attrs.get("constant")
    if exponent is None or layer.attrs.get("constant_first"):
        return False
    return bool(np.all(np.asarray(exponent) > 0))


def _others(inputs: Inputs, position: int) -> bool:
    """Whether all inputs but one are alive."""
    return all(item for index, item in enumerate(inputs) if index != position)


def passes(layer: Layer, position: int, inputs: Inputs, non_zero: NonZero) -> bool:
    """Whether a gradient at a layer's output reaches its input at ``position``."""
    op = layer.op
    here = inputs[position] if position < len(inputs) else True
    if op in _NO_GRADIENT:
        return False
    if op in _MAPS:
        mapped = not _weights(layer) or any(map(non_zero, _weights(layer)))
        return mapped and _others(inputs, position)
    if op in RECURRENT:
        return position > 0 or recurrent_passes(layer, inputs, non_zero)
    if op in NORMALISERS:
        return all(map(non_zero, layer.with_role(Role.GAIN)))
    if op in (Op.MUL, Op.MATMUL):
        factors = all(map(non_zero, _factors(layer)))
        return factors and _others(inputs, position) and _constant(layer) is not False
    if op is Op.DIV:
        return position == 0 or _others(inputs, position)
    if op is Op.ATTENTION:
        return position == 2 or all(inputs[i] for i in range(min(3, len(inputs))) if i != position)
    if op in _FLAT_AT_ZERO:
        return here
    if op is Op.PRELU:
        return here or any(map(non_zero, layer.with_role(Role.SLOPE)))
    if op is Op.POW:
        exponent = layer.attrs.get("constant")
        linear = exponent is None or bool(np.all(np.asarray(exponent) <= 1))
        return here or linear
    if op is Op.REDUCE:
        return here or layer.attrs.get("kind") not in _FLAT_REDUCTIONS
    if op is Op.CLIP:
        return here or not alive(layer, [False], non_zero)
    return not (op is Op.WHERE and position == 0 and len(inputs) == 3)


def learns(layer: Layer, param: Param, inputs: Inputs, non_zero: NonZero) -> bool:
    """Whether a gradient at a layer's output reaches one of its parameters."""
    op, role = layer.op, param.role
    if op in RECURRENT:
        return recurrent_learns(layer, param, inputs, non_zero)
    if op in _MAPS:
        return role is not Role.WEIGHT or all(inputs)
    if op in NORMALISERS:
        return role is not Role.GAIN or all(inputs)
    if op in (Op.MUL, Op.MATMUL, Op.DIV):
        if role is Role.BIAS:
            return True
        others = [item for item in _factors(layer) if item is not param]
        return all(inputs) and all(map(non_zero, others)) and _constant(layer) is not False
    if op is Op.PRELU:
        return all(inputs)
    if op is Op.ATTENTION:
        return inputs[2] if len(inputs) > 2 else True
    return True
