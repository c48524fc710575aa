"""Products of two activations, softmax, and attention as one operator."""

from __future__ import annotations

import math
from collections.abc import Sequence

from initlint.model.op import Op
from initlint.model.record import record
from initlint.theory.node import Node, OperatorRule
from initlint.theory.operators.weighted import scale_of
from initlint.theory.softmax import causal, concentration
from initlint.theory.state import Gradient, State, log, unit


def _mix(value: State, peak: float, keys: int, root: str, *, is_causal: bool = False) -> State:
    """Σ_j a_j v_j for softmax weights with E[Σ a²] = ``peak``."""
    r = value.positions
    own = r + (1 - r) * peak
    if own <= 0 or value.log_q == -math.inf:
        return State(-math.inf)
    overlap = (2.0 if is_causal else 1.0) / max(keys, 1)
    both = min(value.samples, r)
    return State(
        value.log_q + math.log(own),
        max(min(value.mean / math.sqrt(own), 1.0), -1.0),
        unit((both + (value.samples - both) * peak) / own),
        unit((r + (1 - r) * min(overlap, peak)) / own),
        value.units,
        value.log_variance,
        ((root, 1.0),),
    )


def _value_gradient(gradient: Gradient, peak: float, keys: int, per_key: float) -> Gradient:
    """Gradient at the values: each key hears from all queries with its weights."""
    coherent = gradient.positions
    own = peak * (1 - coherent) + coherent
    across = (1 - coherent) / max(keys, 1) + coherent
    if own <= 0:
        return Gradient(-math.inf)
    return Gradient(gradient.log_g + math.log(own) + log(per_key), unit(across / own))


# attention as one operator


@record(frozen=True, slots=True)
class _Attention:
    log_logits: float
    peak: float
    response: float
    queries: int
    keys: int
    width: float
    log_scale: float
    is_causal: bool


def _axis(node: Node, index: int, axis: int) -> int | None:
    shape = node.input_shape(index)
    return shape[axis] if shape is not None and len(shape) >= -axis else None


def _attention_of(node: Node) -> _Attention | None:
    if len(node.states) < 3:
        return None
    query, key, value = node.states[:3]
    if query is None or key is None or value is None:
        return None
    attrs, shape = node.layer.attrs, node.input_shape(0)
    width = attrs.get("head_dim") or _axis(node, 0, -1)
    if width is None:
        return None
    if not attrs.get("head_dim") and shape is not None and len(shape) == 3:
        width = int(width) // max(int(attrs.get("heads") or 1), 1)
    scale = attrs.get("scale")
    scale = float(scale) if scale is not None else float(width) ** -0.5
    keys = _axis(node, 1, -2) or node.context.sequence_length
    queries = _axis(node, 0, -2) or keys
    log_scale = log(scale * scale)
    log_logits = log_scale + log(float(width)) + query.log_q + key.log_q
    variance = math.exp(min(log_logits, 40.0)) * max(1 - key.positions, 0.0)
    peak, response = concentration(variance, int(keys))
    is_causal = bool(attrs.get("causal"))
    return _Attention(
        log_logits,
        causal(peak) if is_causal else peak,
        causal(response) if is_causal and response > 0 else response,
        int(queries),
        int(keys),
        float(width),
        log_scale,
        is_causal,
    )


def _attention(node: Node) -> State | None:
    found = _attention_of(node)
    value = node.states[2] if len(node.states) > 2 else None
    if found is None or value is None:
        return None
    return _mix(value, found.peak, found.keys, node.layer.id, is_causal=found.is_causal)


def _attention_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    found = _attention_of(node)
    if found is None:
        return [None] * min(len(node.edges), 3) + [Gradient(-math.inf)] * (len(node.edges) - 3)
    query, key, value = node.states[:3]
    if query is None or key is None or value is None:
        return [None] * len(node.edges)
    per_key = found.queries / max(found.keys, 1)
    common = (
        gradient.log_g
        + found.log_scale
        + math.log(found.width)
        + value.log_q
        + log(found.response)
        + log(1 - value.positions)
    )
    return [
        Gradient(common + key.log_q + log(1 - key.positions)),
        Gradient(common + query.log_q + log(per_key)),
        _value_gradient(gradient, found.peak, found.keys, per_key),
        *[Gradient(-math.inf)] * (len(node.edges) - 3),
    ]


# attention as its parts


def _matmul(node: Node) -> State | None:
    if len(node.states) < 2:
        return None
    left, right = node.states[0], node.states[1]
    count = _axis(node, 0, -1) or _axis(node, 1, -2)
    if left is None or right is None or left.side or right.side:
        return None
    if left.peak is not None:
        keys = int(count or node.context.sequence_length)
        return _mix(right, left.peak, keys, node.layer.id)
    if not count:
        return None
    factor = count * (1 + (count - 1) * left.units * right.units) * scale_of(node) ** 2
    if factor <= 0:
        return State(-math.inf)
    return State(
        left.log_q + right.log_q + math.log(factor),
        0.0,
        unit(left.samples * right.samples),
        unit(left.positions * right.positions),
        0.0,
        left.log_variance + right.log_variance,
        ((node.layer.id, 1.0),),
        keys=right.positions,
    )


def _matmul_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    if len(node.states) < 2:
        return [None] * len(node.edges)
    left, right = node.states[0], node.states[1]
    columns = node.output_shape[-1] if node.output_shape else None
    rows = (
        node.output_shape[-2]
        if node.output_shape is not None and len(node.output_shape) > 1
        else None
    )
    if left is None or right is None or columns is None or rows is None:
        return [None] * len(node.edges)
    if left.peak is not None:
        keys = int(_axis(node, 0, -1) or node.context.sequence_length)
        weights = Gradient(gradient.log_g + math.log(columns) + right.log_q, keys=right.positions)
        return [weights, _value_gradient(gradient, left.peak, keys, rows / max(keys, 1))]
    varying = log(1 - right.positions) if gradient.zero_sum else 0.0
    scale = 2 * log(abs(scale_of(node)))
    return [
        Gradient(gradient.log_g + math.log(columns) + right.log_q + varying + scale),
        Gradient(gradient.log_g + math.log(rows) + left.log_q + scale),
    ]


def _softmax_of(node: Node) -> tuple[State, int, float, float] | None:
    x = node.first
    axis = node.layer.attrs.get("axis", -1)
    shape = node.output_shape or node.input_shape()
    if (
        x is None
        or shape is None
        or not isinstance(axis, int)
        or not -len(shape) <= axis < len(shape)
    ):
        return None
    count = shape[axis] or node.context.sequence_length
    alike = x.keys if x.keys is not None else x.units
    variance = math.exp(min(x.log_q, 40.0)) * max(1 - alike, 0.0)
    peak, response = concentration(variance, int(count))
    return x, int(count), peak, response


def _softmax(node: Node) -> State | None:
    found = _softmax_of(node)
    if found is None:
        return None
    _, count, peak, _ = found
    common = 1 / (peak * count)
    return State(
        math.log(peak / count),
        math.sqrt(unit(common)),
        unit(common),
        unit(common),
        unit(common),
        peak=peak,
    )


def _softmax_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    found = _softmax_of(node)
    if found is None:
        return [None] * len(node.edges)
    _, count, _, response = found
    kept = log(response / count) + log(1 - gradient.keys)
    return [Gradient(gradient.log_g + kept, zero_sum=True)]


def _log_softmax(node: Node) -> State | None:
    found = _softmax_of(node)
    if found is None or found[0].log_q > 40:
        return None
    x, count, _, _ = found
    variance = math.exp(x.log_q)
    mean = -(math.log(count) + 0.5 * variance)
    second = mean * mean + variance
    share = mean * mean / second if second > 0 else 0.0
    return State(log(second), -math.sqrt(unit(share)), unit(share), unit(share), unit(share))


def _log_softmax_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    found = _softmax_of(node)
    if found is None:
        return [None] * len(node.edges)
    _, _, peak, _ = found
    return [gradient.scaled(math.log1p(peak))]


ATTENTION = {
    Op.ATTENTION: OperatorRule(_attention, _attention_backward),
    Op.MATMUL: OperatorRule(_matmul, _matmul_backward),
    Op.SOFTMAX: OperatorRule(_softmax, _softmax_backward),
    Op.LOG_SOFTMAX: OperatorRule(_log_softmax, _log_softmax_backward),
}
