"""Sums, products and other primitives of two operands: residual additions, gates, scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initlint.model.layer import Role
from initlint.model.op import Op
from initlint.theory.activations import Activation, activation, moments
from initlint.theory.node import Node, OperatorRule
from initlint.theory.state import ABSENT, Gradient, State, add, fixed, log, multiply, unit


def _masks(node: Node) -> bool:
    """True when the result goes to a softmax: what is added there is a mask or a bias table."""
    graph = node.context.graph
    consumers = graph.effective_consumers(node.layer.id)
    return any(layer.op is Op.SOFTMAX for layer in consumers)


def _operands(node: Node) -> list[State] | None:
    """The signal operands of a sum; None when one is unknown."""
    states = [node.states[index] for index in node.signals]
    known = [state for state in states if state is not None]
    if len(known) < len(states):
        return known if known and _masks(node) else None
    return known


def _added(node: Node) -> list[State] | None:
    """Trainable and fixed addends as states; None when one is unknown."""
    found = []
    for param in node.layer.params:
        if param.role is Role.GAIN:
            continue
        measured = node.context.moments(param)
        if measured is None:
            return None
        found.append(fixed(*measured, by_position=param.role is Role.TABLE))
    if "constant" in node.layer.attrs:
        constant = node.context.constant(node.layer.attrs["constant"])
        if constant is None:
            return None
        second, mean, single = constant
        width = node.channels() or 1
        by_position = not single and np.size(node.layer.attrs["constant"]) > width
        found.append(fixed(second, mean, by_position=by_position))
    return found


def _sum(node: Node) -> State | None:
    operands = _operands(node)
    if not operands:
        return None
    if operands[0].keys is not None:
        return operands[0]
    added = _added(node)
    if added is None:
        return operands[0] if _masks(node) else None
    sign = -1.0 if node.layer.op is Op.SUB else 1.0
    total = operands[0]
    for state in (*operands[1:], *added):
        total = add(total, state, sign)
    if sign < 0 and node.layer.attrs.get("constant_first"):
        total = replace(total, mean=-total.mean)
    return total


def _spread(node: Node, index: int, gradient: Gradient, coherence: float) -> Gradient:
    """Sum over the positions to which a smaller operand was broadcast."""
    copies = node.ratio(index)
    if copies <= 1:
        return gradient
    return gradient.scaled(math.log(copies) + math.log1p((copies - 1) * unit(coherence)))


def _sum_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    return [
        _spread(node, index, gradient, gradient.positions) if index in node.signals else ABSENT
        for index in range(len(node.edges))
    ]


def _factor(node: Node) -> tuple[float, float] | None:
    """Ln E[γ²] and E[γ]/sqrt(E[γ²]) of the fixed and trainable factors; None when unknown."""
    log_square, alike = 0.0, 1.0
    values = []
    for param in node.layer.params:
        values.append(node.context.moments(param))
    if "constant" in node.layer.attrs:
        constant = node.context.constant(node.layer.attrs["constant"])
        values.append(constant[:2] if constant else None)
    for value in values:
        if value is None:
            return None
        second, mean = value
        log_square += log(second)
        alike *= mean / math.sqrt(second) if second > 0 else 0.0
    return log_square, max(min(alike, 1.0), -1.0)


def _gained(state: State, log_square: float, alike: float) -> State:
    squared = alike * alike
    return replace(
        state.scaled(log_square),
        mean=state.mean * alike,
        units=state.units * squared,
        roots=tuple((root, weight * alike) for root, weight in state.roots),
    )


def _product(node: Node) -> State | None:
    states = [node.states[index] for index in node.signals]
    factor = _factor(node)
    if not states or states[0] is None or factor is None:
        return None
    total = states[0]
    for state in states[1:]:
        if state is None:
            return None
        total = multiply(total, state, node.layer.id)
    log_square, alike = factor
    return _gained(total, log_square, alike)


def _product_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    factor = _factor(node)
    found: list[Gradient | None] = []
    for index in range(len(node.edges)):
        if index not in node.signals:
            found.append(ABSENT)
            continue
        others = [node.states[i] for i in node.signals if i != index]
        if factor is None or any(other is None for other in others):
            found.append(None)
            continue
        scaled = gradient.scaled(factor[0])
        coherence = gradient.positions
        for other in others:
            if other is not None:
                scaled = scaled.scaled(other.log_q)
                coherence *= other.positions
        scaled = replace(scaled, positions=coherence, units=scaled.units * factor[1] ** 2)
        found.append(_spread(node, index, scaled, coherence))
    return found


def _divisor(node: Node) -> tuple[float, float] | None:
    """The fixed divisor; None when it is a signal, or the constant is the dividend."""
    if len(node.signals) != 1 or node.layer.attrs.get("constant_first"):
        return None
    return _factor(node)


def _quotient(node: Node) -> State | None:
    x, factor = node.first, _divisor(node)
    if x is None or factor is None or factor[0] == -math.inf:
        return None
    return _gained(x, -factor[0], factor[1])


def _quotient_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    factor = _divisor(node)
    if factor is None or factor[0] == -math.inf:
        return [None if i in node.signals else ABSENT for i in range(len(node.edges))]
    return [
        gradient.scaled(-factor[0]) if index in node.signals else ABSENT
        for index in range(len(node.edges))
    ]


def _fixed_number(value: Any) -> float | None:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return float(array.reshape(-1)[0]) if array.size == 1 else None


def _function(node: Node) -> Activation | None:
    """POW, MAXIMUM and MINIMUM with a fixed number are functions of one tensor."""
    number = _fixed_number(node.layer.attrs.get("constant"))
    if number is None or len(node.signals) != 1 or node.layer.attrs.get("constant_first"):
        return None
    if node.layer.op is Op.POW:
        return {1.0: activation(Op.IDENTITY), 2.0: activation(Op.SQUARE)}.get(number)
    if node.layer.op is Op.MAXIMUM:
        return activation(Op.RELU) if number == 0 else activation(Op.CLIP, {"min": number})
    return activation(Op.CLIP, {"max": number})


def _of_number(node: Node) -> State | None:
    x, function = node.first, _function(node)
    if x is None or function is None:
        return None
    found = moments(function, x.log_q, x.mean)
    if found is None:
        return None

    def cosine(share: float) -> float:
        rest = 1 - x.mean * x.mean
        return unit(found.cosine((share - x.mean**2) / rest if rest > 1e-9 else 1.0))

    return State(
        found.log_second,
        found.mean,
        cosine(x.samples),
        cosine(x.positions),
        cosine(x.units),
        x.log_variance,
        tuple((root, weight * found.linear) for root, weight in x.roots),
        unit_axis=x.unit_axis,
    )


def _of_number_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    x, function = node.first, _function(node)
    found = moments(function, x.log_q, x.mean) if x and function else None
    return [
        (gradient.scaled(found.log_derivative) if found else None)
        if index in node.signals
        else ABSENT
        for index in range(len(node.edges))
    ]


def _where(node: Node) -> State | None:
    """A choice between a signal and a fixed value is a mask; between two signals, unknown."""
    states = [node.states[index] for index in node.signals]
    return states[0] if len(states) == 1 else None


def _where_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    single = len(node.signals) == 1
    return [
        (gradient if single else None) if index in node.signals else ABSENT
        for index in range(len(node.edges))
    ]


def _root(node: Node) -> State | None:
    """sqrt(x) of a tensor that is not negative: E[y²] = E[x]."""
    x = node.first
    if x is None or x.mean <= 0:
        return None
    # E[sqrt x] from a log-normal x with the same first two moments
    share = unit((x.mean * x.mean) ** 0.25)
    return State(
        0.5 * x.log_q + math.log(x.mean),
        math.sqrt(share),
        unit(share + (1 - share) * x.samples),
        unit(share + (1 - share) * x.positions),
        unit(share + (1 - share) * x.units),
        x.log_variance,
        unit_axis=x.unit_axis,
    )


def _no_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    return [None if i in node.signals else ABSENT for i in range(len(node.edges))]


_SUM = OperatorRule(_sum, _sum_backward)
_NUMBER = OperatorRule(_of_number, _of_number_backward)

ARITHMETIC = {
    Op.ADD: _SUM,
    Op.SUB: _SUM,
    Op.MUL: OperatorRule(_product, _product_backward),
    Op.DIV: OperatorRule(_quotient, _quotient_backward),
    Op.POW: _NUMBER,
    Op.MAXIMUM: _NUMBER,
    Op.MINIMUM: _NUMBER,
    Op.SQRT: OperatorRule(_root, _no_backward),
    Op.WHERE: OperatorRule(_where, _where_backward),
}
