"""Linear maps: dense layers, convolutions, embeddings, bilinear forms.

With measured weights (second moment s, mean μ over the elements) and n products per output,

    E[z²]   = n s q + n(n-1) μ² U           U = E[x_j x_k], two different units
    E[z z'] = μ² (n q + n(n-1) U)           two different outputs

and backward the same with the roles of inputs and outputs exchanged. Zero padding replaces n by
the mean number of taps that fall on data. Where the rows are standardised (each sums to zero), the
measured mean product of two weights of one row, -s/(n-1), stands for μ² in E[z²].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from initlint.model.layer import Param, Role
from initlint.model.op import Op
from initlint.model.record import record
from initlint.theory.node import Node, OperatorRule
from initlint.theory.state import ABSENT, Gradient, State, add, fixed, log, unit

MAX_KERNEL = 100_000
"""Taps along one axis that are counted one by one."""


def _sizes(value: Any, count: int, default: int) -> tuple[int, ...]:
    if value is None or isinstance(value, str):
        return (default,) * count
    values = tuple(int(item) for item in value) if isinstance(value, Sequence) else (int(value),)
    return values * count if len(values) == 1 else values


def _counts(
    inputs: int, outputs: int, kernel: int, stride: int, dilation: int, pad: int
) -> list[int]:
    """Outputs at which each tap reads inside the input, along one axis.

    Output o reads input ``o·stride - pad + tap·dilation``; counted in closed form per tap.
    """
    found = []
    for tap in range(min(kernel, MAX_KERNEL)):
        offset = tap * dilation - pad
        low = max(0, -(offset // stride))
        high = min(outputs - 1, (inputs - 1 - offset) // stride)
        found.append(max(0, high - low + 1))
    return found


@record(frozen=True, slots=True)
class _Taps:
    """What a kernel reads, padding and stride taken in.

    Attributes:
        forward: products per output.
        backward: products per input.
        overlap: share of an output's taps that another output has too: at a border fewer fall on
            data, so that even a constant input gives outputs that differ by position.
    """

    forward: float = 1.0
    backward: float = 1.0
    overlap: float = 1.0


_POINT = _Taps()
"""A product without a kernel."""


def _taps(node: Node, kernel: tuple[int, ...]) -> _Taps:
    """Taps of a kernel on this layer's shapes, as far as they are known."""
    if not kernel:
        return _POINT
    attrs, axes = node.layer.attrs, len(kernel)
    stride = _sizes(attrs.get("stride"), axes, 1)
    dilation = _sizes(attrs.get("dilation"), axes, 1)
    if min((*kernel, *stride, *dilation)) < 1:  # files may claim it; nothing runs with it
        return _Taps()
    transposed = node.layer.op is Op.CONV_TRANSPOSE
    volume, steps = math.prod(kernel), math.prod(stride)
    plain = (
        _Taps(volume / steps, float(volume)) if transposed else _Taps(float(volume), volume / steps)
    )
    before, after = node.input_shape(), node.output_shape
    if before is None or after is None or len(before) < axes or len(after) < axes:
        return plain
    padding = _sizes(attrs.get("padding") or None, axes, 0)
    same = isinstance(attrs.get("padding"), str) or str(attrs.get("auto_pad")).startswith("SAME")
    if len(padding) < axes or len(stride) != axes or len(dilation) != axes:
        return plain
    forward = backward = overlap = 1.0
    zeros = str(attrs.get("padding_mode", "zeros")) in ("zeros", "constant")
    for axis in range(axes):
        n_in, n_out = before[len(before) - axes + axis], after[len(after) - axes + axis]
        k, s, d = kernel[axis], stride[axis], dilation[axis]
        if not n_in or not n_out:
            forward *= k / s if transposed else k
            backward *= k if transposed else k / s
            continue
        pad = padding[axis]
        if same and not transposed:
            pad = max((n_out - 1) * s + d * (k - 1) + 1 - n_in, 0) // 2
        if transposed:
            counts = _counts(n_out, n_in, k, s, d, pad)
        elif zeros:
            counts = _counts(n_in, n_out, k, s, d, pad)
        else:
            counts = [n_out] * k
        pairs = sum(counts)
        forward *= pairs / n_out
        backward *= pairs / n_in
        if pairs and not transposed:
            overlap *= sum(count * count for count in counts) / (n_out * pairs)
    return _Taps(max(forward, 1e-12), max(backward, 1e-12), overlap)


def _common(second: float, mean: float, count: int) -> float:
    """μ² less what the finite number of weights would show by chance."""
    return max(mean * mean - (second - mean * mean) / max(count, 1), 0.0)


def project(
    x: State, fan: float, second: float, mean: float, count: int, product: float | None = None
) -> State:
    """State of n = ``fan`` products summed, for weights of these moments (see the module).

    Args:
        x: state of the inputs.
        fan: products per output.
        second: mean square of the weights.
        mean: their mean.
        count: their number.
        product: mean product of two weights of one row, where it is not that of independent draws.
    """
    shared = _common(second, mean, count)
    spike = fan * (fan - 1) * (shared if product is None else product) if fan > 1 else 0.0
    factor = fan * second + spike * x.units
    if factor <= 0 or x.log_q == -math.inf:
        return State(-math.inf, samples=x.samples, positions=x.positions)
    signed = math.copysign(math.sqrt(shared), mean)
    common = x.mean * x.mean * spike
    return State(
        x.log_q + math.log(factor),
        max(min(fan * signed * x.mean / math.sqrt(factor), 1.0), -1.0),
        unit((fan * second * x.samples + common) / factor),
        unit((fan * second * x.positions + common) / factor),
        unit(shared * fan * (1 + max(fan - 1, 0.0) * x.units) / factor),
        x.log_variance,
        unit_axis=x.unit_axis,
    )


def _scattered(node: Node, state: State) -> float:
    """Var ln q with what finite width adds: 2/n for n units, as far as samples share it."""
    width = node.channels()
    if not width or state.log_q == -math.inf:
        return state.log_variance
    return state.log_variance + 2 * scatter_share(node, state) / width


def scatter_share(node: Node, state: State) -> float:
    """How much of one sample's scatter is left in a mean over many samples and positions.

    For Gaussians of cosine c, Cov(z², z'²) = 2 c² q²: units that differ between samples average
    out, those that all samples share do not.
    """
    shared = min(state.samples, state.positions) if node.positions() > 1 else state.samples
    return shared * shared


def _blocks(node: Node, role: Role) -> list[tuple[Param, float, float]] | None:
    found = []
    for param in node.layer.with_role(role):
        moments = node.context.moments(param)
        if moments is None:
            return None
        found.append((param, *moments))
    return found


def _with_bias(node: Node, state: State, index: int) -> State | None:
    biases = _blocks(node, Role.BIAS)
    if biases is None:
        return None
    if not biases:
        return state
    _, second, mean = biases[min(index, len(biases) - 1)]
    return add(state, fixed(second, mean))


def scale_of(node: Node) -> float:
    """The factor that a fused product carries."""
    scale = node.layer.attrs.get("scale", node.layer.attrs.get("alpha"))
    return float(scale) if isinstance(scale, int | float) else 1.0


def unit_axis_of(node: Node) -> int | None:
    """Axis of a weighted layer's units: the channels of a convolution, else the contracted one."""
    if node.layer.op in (Op.CONV, Op.CONV_TRANSPOSE):
        return 1
    shape = node.output_shape
    if shape is None:
        return None
    axis = node.layer.attrs.get("axis", -2 if node.layer.channel_axis == -2 else -1)
    return int(axis) % len(shape) if isinstance(axis, int) and shape else None


def _linear(node: Node) -> State | None:
    x, weights = node.first, _blocks(node, Role.WEIGHT)
    if x is None or not weights:
        return None
    axis = unit_axis_of(node)
    x = x.facing(axis)
    outputs = []
    for index, (param, second, mean) in enumerate(weights):
        if len(param.shape) < 2:
            return None
        taps = _taps(node, param.shape[2:])
        product = node.context.row_product(param)
        state = project(x, param.shape[1] * taps.forward, second, mean, param.size, product)
        if taps.overlap < 1:
            state = replace(state, positions=state.positions * taps.overlap)
        biased = _with_bias(node, state, index)
        if biased is None:
            return None
        outputs.append((param.shape[0], biased))
    state = mixture(outputs)
    scale = scale_of(node)
    if scale != 1:
        state = state.scaled(2 * log(abs(scale)))
    blocks = tuple(block.log_q for _, block in outputs) if len(outputs) > 1 else ()
    return State(
        state.log_q,
        state.mean,
        state.samples,
        state.positions,
        state.units,
        _scattered(node, state),
        ((node.layer.id, 1.0),),
        blocks=blocks,
        unit_axis=axis,
    )


def mixture(parts: Sequence[tuple[float, State]]) -> State:
    """Statistics of tensors laid side by side along the units, with their numbers of units."""
    if len(parts) == 1:
        return parts[0][1]
    live = [(count, state) for count, state in parts if state.log_q > -math.inf]
    if not live:
        return parts[0][1]
    top = max(state.log_q for _, state in live)
    total = sum(count for count, _ in parts)
    weights = [(count / total) * math.exp(state.log_q - top) for count, state in live]
    q = sum(weights)

    def average(name: str) -> float:
        values = (getattr(state, name) for _, state in live)
        return sum(w * float(value) for w, value in zip(weights, values, strict=True)) / q

    mean = sum(
        count / total * state.mean * math.exp(0.5 * (state.log_q - top)) for count, state in live
    )
    return State(
        top + math.log(q),
        mean / math.sqrt(q),
        average("samples"),
        average("positions"),
        average("units"),
        average("log_variance"),
        unit_axis=parts[0][1].unit_axis,
    )


def _linear_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    weights = _blocks(node, Role.WEIGHT)
    if not weights:
        return [None] * len(node.edges)
    factor = shared_out = 0.0
    for param, second, mean in weights:
        taps = _taps(node, param.shape[2:])
        groups = max(int(node.layer.attrs.get("groups") or 1), 1)
        fan = param.shape[0] / groups * taps.backward
        shared = _common(second, mean, param.size)
        factor += fan * second + max(fan - 1, 0.0) * fan * shared * gradient.units
        shared_out += shared * fan * (1 + max(fan - 1, 0.0) * gradient.units)
    units = unit(shared_out / factor) if factor > 0 else 0.0
    factor *= scale_of(node) ** 2
    if _reads_slices(node, [param for param, _, _ in weights]):
        factor /= len(weights)
    return _to_first(node, Gradient(gradient.log_g + log(factor), gradient.positions, units))


def _reads_slices(node: Node, stack: Sequence[Param]) -> bool:
    """True when each matrix of a stack reads a slice of the input that no other matrix reads.

    Ensembles and heads in one batched product, against packed projections and experts, all blocks
    of which read the same: those make as many outputs more per input.
    """
    before, after = node.input_shape(), node.output_shape
    if len(stack) < 2 or before is None or after is None:
        return False
    if [side for side in before if side is None] != [side for side in after if side is None]:
        return False
    rows, columns = stack[0].shape[:2]
    return abs(node.ratio() * columns / rows - 1.0) < 1e-9


def weight_gain(node: Node) -> float | None:
    """Ln of the factor by which a layer's weights alone change q, its bias left out."""
    x, weights = node.first, _blocks(node, Role.WEIGHT)
    if x is None or not weights or x.log_q == -math.inf or len(weights[0][0].shape) < 2:
        return None
    param, second, mean = weights[0]
    fan = param.shape[1] * _taps(node, param.shape[2:]).forward
    product = node.context.row_product(param)
    return project(x, fan, second, mean, param.size, product).log_q - x.log_q


def _to_first(node: Node, gradient: Gradient | None) -> list[Gradient | None]:
    """The gradient goes to the first signal input; the others get none."""
    found: list[Gradient | None] = [ABSENT] * len(node.edges)
    if node.signals:
        found[node.signals[0]] = gradient
    return found


def _embedding(node: Node) -> State | None:
    weights = _blocks(node, Role.WEIGHT)
    if not weights:
        return None
    param, second, mean = weights[0]
    if second <= 0:
        return State(-math.inf)
    ids = node.states[0] if node.states else None
    table = fixed(second, mean)
    alike = table.mean**2 + (1 - table.mean**2) / max(param.shape[0], 1)
    always = ids is not None and ids.samples == 1.0
    return replace(
        table,
        samples=1.0 if always else alike,
        positions=alike,
        roots=((node.layer.id, 1.0),),
        unit_axis=len(node.output_shape) - 1 if node.output_shape else None,
    )


def _bilinear(node: Node) -> State | None:
    weights = _blocks(node, Role.WEIGHT)
    if not weights or len(node.states) < 2:
        return None
    a, b = node.states[0], node.states[1]
    param, second, mean = weights[0]
    if a is None or b is None or len(param.shape) != 3:
        return None
    product = State(
        a.log_q + b.log_q,
        a.mean * b.mean,
        a.samples * b.samples,
        a.positions * b.positions,
        0.0,
        a.log_variance + b.log_variance,
    )
    state = project(product, param.shape[1] * param.shape[2], second, mean, param.size)
    biased = _with_bias(node, state, 0)
    if biased is None:
        return None
    variance = _scattered(node, biased)
    return replace(biased, log_variance=variance, roots=((node.layer.id, 1.0),))


def _bilinear_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    weights = _blocks(node, Role.WEIGHT)
    if not weights or len(node.states) < 2 or len(weights[0][0].shape) != 3:
        return [None] * len(node.edges)
    (param, second, _) = weights[0]
    outputs, left, right = param.shape
    a, b = node.states[0], node.states[1]
    return [
        gradient.scaled(log(outputs * other * second) + state.log_q) if state else None
        for other, state in ((right, b), (left, a))
    ] + [Gradient(-math.inf)] * (len(node.edges) - 2)


def _nothing(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    return [Gradient(-math.inf)] * len(node.edges)


WEIGHT = {
    Op.LINEAR: OperatorRule(_linear, _linear_backward),
    Op.CONV: OperatorRule(_linear, _linear_backward),
    Op.CONV_TRANSPOSE: OperatorRule(_linear, _linear_backward),
    Op.BILINEAR: OperatorRule(_bilinear, _bilinear_backward),
    Op.EMBEDDING: OperatorRule(_embedding, _nothing),
}
