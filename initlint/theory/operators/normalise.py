"""Normalisers: whatever comes in, a known scale goes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from initlint.model.layer import Role
from initlint.model.op import Op
from initlint.model.record import record
from initlint.theory.node import Node, OperatorRule
from initlint.theory.state import ABSENT, Gradient, State, add, fixed, log, unit

_DEFAULT_EPS = {Op.LP_NORM: 1e-12}


@record(frozen=True, slots=True)
class _Affine:
    """γ and β of a normaliser: mean square and mean of each."""

    gain: tuple[float, float]
    shift: tuple[float, float]


def _affine(node: Node) -> _Affine | None:
    gain, shift = (1.0, 1.0), (0.0, 0.0)
    for param in node.layer.with_role(Role.GAIN, Role.SHIFT):
        measured = node.context.moments(param)
        if measured is None:
            return None
        if param.role is Role.GAIN:
            gain = measured
        else:
            shift = measured
    return _Affine(gain, shift)


def _removed(node: Node, x: State) -> float:
    """Share of E[z²] that the subtracted mean takes away.

    BatchNorm averages over samples and positions, LayerNorm over the units, GroupNorm over a
    group's units and positions, InstanceNorm over positions; RMS and Lp norms subtract nothing.
    """
    op = node.layer.op
    if op is Op.BATCH_NORM:
        return min(x.samples, x.positions) if node.positions() > 1 else x.samples
    if op is Op.LAYER_NORM:
        return x.units
    if op in (Op.GROUP_NORM, Op.INSTANCE_NORM):
        units = node.channels() or 1
        groups = units if op is Op.INSTANCE_NORM else int(node.layer.attrs.get("groups") or 1)
        members, places = max(units // max(groups, 1), 1), node.positions()
        pairs = 1 + (places - 1) * x.positions + (members - 1) * x.units
        pairs += (members - 1) * (places - 1) * x.mean**2
        return pairs / (members * places)
    return 0.0


def _log_divisor(node: Node, x: State) -> float | None:
    """Ln of the squared divisor: variance plus ε (Lp: the sum of squares over the units)."""
    if node.layer.op is Op.LP_NORM:
        return x.log_q + log(float(node.channels() or 1))
    eps = float(node.layer.attrs.get("eps", 1e-5) or 0.0)
    variance = x.log_q + log(max(1 - _removed(node, x), 0.0))
    if variance == -math.inf and eps <= 0:
        return None
    small = log(eps)
    top = max(variance, small)
    return top + math.log(math.exp(variance - top) + math.exp(small - top))


def _normalised(node: Node, x: State) -> State | None:
    if node.layer.op in (Op.LAYER_NORM, Op.RMS_NORM):
        shape = node.output_shape
        x = x.facing(len(shape) - 1 if shape else None)
    divisor = _log_divisor(node, x)
    if divisor is None or math.isnan(divisor):
        return None
    removed = min(_removed(node, x), 1.0)
    rest = 1 - removed
    if x.log_q == -math.inf or rest <= 1e-12:
        return State(-math.inf)
    if removed == 0:
        return replace(x, log_q=x.log_q - divisor, blocks=())
    common = x.mean * x.mean
    if node.layer.op is Op.BATCH_NORM:
        return State(
            x.log_q + math.log(rest) - divisor,
            0.0,
            unit((x.samples - removed) / rest),
            unit((x.positions - removed) / rest),
            unit((x.units - common) / rest),
            roots=x.roots,
            unit_axis=x.unit_axis,
        )
    own = removed if node.layer.op is Op.INSTANCE_NORM else common
    return State(
        x.log_q + math.log(rest) - divisor,
        0.0,
        unit((x.samples - common) / rest),
        unit((x.positions - own) / rest),
        unit((x.units - removed) / rest) if node.layer.op is Op.LAYER_NORM else 0.0,
        roots=x.roots,
        unit_axis=x.unit_axis,
    )


def reset(node: Node) -> State | None:
    """The state behind a normaliser whose input is unknown: γ² + β², samples independent."""
    affine = _affine(node)
    if affine is None:
        return None
    start = State(0.0)
    if node.layer.op is Op.LP_NORM:
        start = State(-log(float(node.channels() or 1)))
    return replace(_scaled(start, affine), roots=((node.layer.id, 1.0),))


def _scaled(state: State, affine: _Affine) -> State:
    second, mean = affine.gain
    if second == mean == 1 and affine.shift[0] == 0:
        return state
    alike = mean / math.sqrt(second) if second > 0 else 0.0
    gained = replace(
        state.scaled(log(second)), mean=state.mean * alike, units=state.units * alike * alike
    )
    return add(gained, fixed(*affine.shift)) if affine.shift[0] > 0 else gained


def _forward(node: Node) -> State | None:
    x, affine = node.first, _affine(node)
    if affine is None:
        return None
    if x is None:
        return reset(node)
    state = _normalised(node, x)
    if state is None:
        return None
    # the norm fixes the sum of squares itself: nothing of its scatter is left
    state = _scaled(state, affine)
    return replace(state, log_variance=0.0) if state.log_variance else state


def _backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    x, affine = node.first, _affine(node)
    others: list[Gradient | None] = [ABSENT] * len(node.edges)
    if not node.signals:
        return others
    divisor = _log_divisor(node, x) if x else None
    if affine is None or divisor is None:
        others[node.signals[0]] = None
        return others
    kept, positions = 1.0, gradient.positions
    units = float(node.channels() or 0)
    if node.layer.op is Op.INSTANCE_NORM:
        kept, positions = max(1 - gradient.positions, 1e-12), 0.0
    elif node.layer.op in (Op.LAYER_NORM, Op.RMS_NORM, Op.LP_NORM) and units > 2:
        removed = 2 if node.layer.op is Op.LAYER_NORM else 1
        kept = 1 - removed / units
        if node.layer.op is Op.LAYER_NORM:
            kept *= max(1 - gradient.units, 1e-12)
    others[node.signals[0]] = Gradient(
        gradient.log_g + (log(affine.gain[0]) - divisor + math.log(kept)),
        positions,
        gradient.units,
        gradient.keys,
        gradient.zero_sum,
        gradient.positive,
    )
    return others


def _local_response(node: Node) -> State | None:
    """X (k + α q)^-β: with the usual α of 1e-4 a fixed scale near 1."""
    x = node.first
    if x is None or x.log_q > 50:
        return None
    return replace(x.scaled(_local_factor(node, x)))


def _local_factor(node: Node, x: State) -> float:
    attrs = node.layer.attrs
    alpha, beta, k = (
        float(attrs.get(name, default))
        for name, default in (("alpha", 1e-4), ("beta", 0.75), ("k", attrs.get("bias", 1.0)))
    )
    base = k + alpha * math.exp(x.log_q)
    return -2 * beta * math.log(base) if base > 0 else 0.0


def _local_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    x = node.first
    return [gradient.scaled(_local_factor(node, x)) if x and x.log_q <= 50 else None]


_NORM = OperatorRule(_forward, _backward)

NORMALISATION = {
    Op.BATCH_NORM: _NORM,
    Op.LAYER_NORM: _NORM,
    Op.RMS_NORM: _NORM,
    Op.GROUP_NORM: _NORM,
    Op.INSTANCE_NORM: _NORM,
    Op.LP_NORM: _NORM,
    Op.LOCAL_RESPONSE_NORM: OperatorRule(_local_response, _local_backward),
}
