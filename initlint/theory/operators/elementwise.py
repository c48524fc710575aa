"""Element-wise functions of one tensor, and gated linear units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from initlint.model.layer import Role
from initlint.model.op import ACTIVATIONS, Op
from initlint.theory.activations import Activation, ActivationMoments, activation, moments
from initlint.theory.node import Node, OperatorRule
from initlint.theory.operators.weighted import scatter_share
from initlint.theory.state import ABSENT, Gradient, State, log, unit

SLOPE_STEP = 0.02
"""Step in ln q of the numerical slope λ: its error is of order step², 4e-4."""


def function_of(node: Node) -> Activation | None:
    """The element-wise function of a layer, learned slopes read from its parameters."""
    attrs: Mapping[str, Any] = node.layer.attrs
    slopes = node.layer.with_role(Role.SLOPE)
    if slopes:
        measured = node.context.moments(slopes[0])
        if measured is None:
            return None
        attrs = {**attrs, "negative_slope": measured[1]}
    return activation(node.layer.op, attrs)


def _cosine(found: ActivationMoments, share: float, mean: float) -> float:
    rest = 1 - mean * mean
    centred = (share - mean * mean) / rest if rest > 1e-9 else 1.0
    return unit(found.cosine(centred)) if found.spectrum or found.log_second > -math.inf else 0.0


def _forward(node: Node) -> State | None:
    x = node.first
    if x is None:
        return None
    function = function_of(node)
    found = moments(function, x.log_q, x.mean) if function else None
    if function is None or found is None:
        return None
    variance, width = x.log_variance, node.channels()
    if function.slopes is not None:
        slope = 1.0
    else:
        above = moments(function, x.log_q + SLOPE_STEP, x.mean)
        slope = (above.log_second - found.log_second) / SLOPE_STEP if above else 1.0
        slope = slope if math.isfinite(slope) else 1.0
    variance *= slope * slope
    if width and math.isfinite(found.kurtosis):
        variance += max(found.kurtosis - 2 * slope * slope, 0.0) * scatter_share(node, x) / width
    return State(
        found.log_second,
        found.mean,
        _cosine(found, x.samples, x.mean),
        _cosine(found, x.positions, x.mean),
        _cosine(found, x.units, x.mean),
        variance,
        tuple((root, weight * found.linear) for root, weight in x.roots),
        unit_axis=x.unit_axis,
    )


def _backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    x, function = node.first, function_of(node)
    found = moments(function, x.log_q, x.mean) if x and function else None
    others: list[Gradient | None] = [ABSENT] * len(node.edges)
    if not node.signals:
        return others
    if found is None:
        others[node.signals[0]] = None
        return others
    keep, passed = found.derivative_mean, found.log_derivative
    if gradient.positive is not None and function is not None and function.slopes is not None:
        left, right = function.slopes
        share = gradient.positive
        passed = log(share * right * right + (1 - share) * left * left)
    others[node.signals[0]] = Gradient(
        gradient.log_g + passed,
        gradient.positions * keep,
        gradient.units * keep,
        gradient.keys,
        gradient.zero_sum,
    )
    return others


_GATES = {"sigmoid": Op.SIGMOID, "relu": Op.RELU, "gelu": Op.GELU, "silu": Op.SILU}


def _glu_moments(node: Node, x: State) -> ActivationMoments | None:
    gate = _GATES.get(str(node.layer.attrs.get("activation", "sigmoid")))
    function = activation(gate) if gate else None
    return moments(function, x.log_q, x.mean) if function else None


def _glu(node: Node) -> State | None:
    x = node.first
    found = _glu_moments(node, x) if x else None
    if x is None or found is None:
        return None
    return State(
        x.log_q + found.log_second,
        x.mean * found.mean,
        x.samples * _cosine(found, x.samples, x.mean),
        x.positions * _cosine(found, x.positions, x.mean),
        x.units * _cosine(found, x.units, x.mean),
        4 * x.log_variance,
        ((node.layer.id, 1.0),),
    )


def _glu_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    x = node.first
    found = _glu_moments(node, x) if x else None
    if x is None or found is None:
        return [None] * len(node.edges)
    half = math.exp(found.log_second) + math.exp(found.log_derivative + min(x.log_q, 600.0))
    return [replace(gradient.scaled(log(0.5 * half)), positions=0.0, units=0.0)]


_FUNCTION = OperatorRule(_forward, _backward)

ELEMENTWISE: dict[Op, OperatorRule] = {
    **dict.fromkeys(sorted(ACTIVATIONS, key=str), _FUNCTION),
    Op.ABS: _FUNCTION,
    Op.NEG: _FUNCTION,
    Op.SQUARE: _FUNCTION,
    Op.CLIP: _FUNCTION,
    Op.GLU: OperatorRule(_glu, _glu_backward),
}
