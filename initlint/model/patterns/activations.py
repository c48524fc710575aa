"""Activations that exporters write out in arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import e, isinf, log1p, pi, sqrt
from typing import Any

from initlint.model.layer import Layer
from initlint.model.op import Op
from initlint.model.patterns.algebra import Polynomial, base_of, candidates, expand, is_polynomial
from initlint.model.patterns.draft import UNCHANGED, Draft, Ref, close, fixed_operand
from initlint.model.record import record

_GELU_TANH: Polynomial = (0.0, sqrt(2.0 / pi), 0.0, sqrt(2.0 / pi) * 0.044715)
"""Hendrycks and Gimpel 2016, section 2: the argument of tanh."""

_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772
"""Klambauer et al. 2017, equation 14."""


_BROADCAST = UNCHANGED | {Op.EXPAND, Op.RESHAPE}
"""What may stand between a statistic and its use; that both concern one tensor is checked."""


@record(frozen=True, slots=True)
class _Gated:
    """A stage of an expression ``x (slope g(x) + offset)`` for a core function g."""

    last: Layer
    slope: float
    offset: float


def _gated(draft: Draft, core: Layer, base: Ref) -> Iterator[_Gated]:
    """Stages of the product of ``base`` with an affine function of ``core``.

    Follows the single path of consumers through fixed factors and addends in any order.
    """
    slope, offset, multiplied = 1.0, 0.0, False
    last = core
    while True:
        step = draft.sole_user(last.id)
        if step is None or step[0].params:
            return
        user, position = step
        constant = fixed_operand(user)
        inputs = draft.inputs[user.id]
        first = bool(user.attrs.get("constant_first"))
        if constant is not None and len(inputs) == 1:
            if user.op is Op.MUL:
                slope, offset = slope * constant, offset * constant
            elif user.op is Op.DIV and not first and constant:
                slope, offset = slope / constant, offset / constant
            elif user.op is Op.ADD and not multiplied:
                offset += constant
            else:
                return
        elif user.op in (Op.MUL, Op.ADD) and len(inputs) == 2 and "constant" not in user.attrs:
            other = expand(draft, inputs[1 - position], base)
            if other is None or len(other) != 2 or other[0] or multiplied is (user.op is Op.MUL):
                return
            if user.op is Op.MUL:
                slope, offset, multiplied = slope * other[1], offset * other[1], True
            else:
                offset += other[1]
        else:
            return
        last = user
        if multiplied:
            yield _Gated(last, slope, offset)


def _fuse_gated(
    draft: Draft,
    core: Layer,
    base: Ref | None,
    target: tuple[float, float],
    op: Op,
    attrs: Mapping[str, Any] | None = None,
) -> bool:
    """Replace ``x (slope g(x) + offset)`` where the pair equals ``target``."""
    if base is None:
        return False
    for stage in _gated(draft, core, base):
        offset_fits = abs(stage.offset) < 1e-6 if target[1] == 0 else close(stage.offset, target[1])
        if close(stage.slope, target[0]) and offset_fits:
            draft.replace(stage.last, op, [base], attrs=attrs)
            return True
    return False


def gelu(draft: Draft) -> None:
    """GELU, x Φ(x), by erf, and its tanh approximation."""
    for core in draft.of(Op.ERF):
        base = base_of(draft, draft.inputs[core.id][0], (0.0, sqrt(0.5)))
        _fuse_gated(draft, core, base, (0.5, 0.5), Op.GELU, {"approximate": "none"})
    for core in draft.of(Op.TANH):
        base = base_of(draft, draft.inputs[core.id][0], _GELU_TANH)
        _fuse_gated(draft, core, base, (0.5, 0.5), Op.GELU, {"approximate": "tanh"})


def silu(draft: Draft) -> None:
    """SiLU, x σ(x), and QuickGELU, x σ(alpha x) with alpha usually 1.702."""
    for core in draft.of(Op.SIGMOID):
        argument = draft.inputs[core.id][0]
        for base in candidates(draft, argument):
            if _fuse_silu(draft, core, expand(draft, argument, base), base):
                break


def _fuse_silu(draft: Draft, core: Layer, argument: Polynomial | None, base: Ref) -> bool:
    if is_polynomial(argument, (0.0, 1.0)):
        return _fuse_gated(draft, core, base, (1.0, 0.0), Op.SILU)
    if argument is None or len(argument) != 2 or argument[0] or argument[1] <= 0:
        return False
    return _fuse_gated(draft, core, base, (1.0, 0.0), Op.QUICK_GELU, {"alpha": argument[1]})


def mish(draft: Draft) -> None:
    """Mish, x tanh(softplus(x))."""
    for core in draft.of(Op.TANH):
        inner = draft.producer(draft.inputs[core.id][0])
        if inner.op is Op.SOFTPLUS:
            base = draft.skip(draft.inputs[inner.id][0])
            _fuse_gated(draft, core, base, (1.0, 0.0), Op.MISH)


def _bounds(layer: Layer) -> tuple[float | None, float | None]:
    if layer.op is Op.RELU6:
        return 0.0, 6.0
    low, high = layer.attrs.get("min"), layer.attrs.get("max")
    return (None if low is None else float(low), None if high is None else float(high))


def hard_swish(draft: Draft) -> None:
    """Hard swish, x clip(x + 3, 0, 6) / 6, its other spellings, and the hard sigmoid alone."""
    for core in draft.of(Op.CLIP, Op.RELU6, Op.HARD_TANH):
        argument, bounds = draft.inputs[core.id][0], _bounds(core)
        if bounds == (0.0, 6.0):
            base = base_of(draft, argument, (3.0, 1.0))
            if _fuse_gated(draft, core, base, (1 / 6, 0.0), Op.HARD_SWISH) or base is None:
                continue
            step = draft.sole_user(core.id)
            if step and _divides_by(step[0], 6.0):
                attrs = {"alpha": 1 / 6, "beta": 0.5}
                draft.replace(step[0], Op.HARD_SIGMOID, [base], attrs=attrs)
        elif bounds == (0.0, 1.0):
            _hard_sigmoid(draft, core, argument)
    for core in draft.of(Op.HARD_SIGMOID):
        if close(core.attrs.get("alpha", 0.2), 1 / 6) and close(core.attrs.get("beta", 0.5), 0.5):
            base = draft.skip(draft.inputs[core.id][0])
            _fuse_gated(draft, core, base, (1.0, 0.0), Op.HARD_SWISH)


def _divides_by(layer: Layer, divisor: float) -> bool:
    constant = fixed_operand(layer)
    if layer.op is Op.DIV and not layer.attrs.get("constant_first"):
        return close(constant, divisor)
    return layer.op is Op.MUL and close(constant, 1.0 / divisor)


def _hard_sigmoid(draft: Draft, core: Layer, argument: Ref) -> None:
    for base in candidates(draft, argument):
        found = expand(draft, argument, base)
        if found is not None and len(found) == 2 and close(found[0], 0.5) and 0 < found[1] < 1:
            attrs = {"alpha": found[1], "beta": 0.5}
            draft.replace(core, Op.HARD_SIGMOID, [base], attrs=attrs)
            return


def clipped(draft: Draft) -> None:
    """ReLU, ReLU6, hard tanh and leaky ReLU as maxima, minima and clips."""
    for layer in draft.of(Op.MAXIMUM, Op.MINIMUM):
        constant = fixed_operand(layer)
        inputs = draft.inputs[layer.id]
        if constant is not None and isinf(constant) and len(inputs) == 1:
            draft.bypass(layer)  # the neutral start of a reduction, as JAX writes it
        elif constant is not None and len(inputs) == 1:
            _clip(draft, layer, constant)
        elif layer.op is Op.MAXIMUM and len(inputs) == 2:
            _leaky_maximum(draft, layer)
    for layer in draft.of(Op.CLIP, Op.HARD_TANH):  # torch's ReLU6 is a hard tanh by its bounds
        low, high = _bounds(layer)
        inputs = draft.inputs[layer.id][:1]
        if (low, high) == (0.0, None):
            draft.replace(layer, Op.RELU, inputs)
        elif (low, high) == (0.0, 6.0):
            draft.replace(layer, Op.RELU6, inputs)
        elif low is not None and high is not None and low == -high < 0:
            if layer.op is Op.CLIP:
                draft.replace(layer, Op.HARD_TANH, inputs, attrs={"min": low, "max": high})
        elif layer.op is Op.HARD_TANH:
            draft.replace(layer, Op.CLIP, inputs, attrs={"min": low, "max": high})


def _clip(draft: Draft, layer: Layer, constant: float) -> None:
    """A one-sided clip, joined with the clip below it."""
    source = draft.inputs[layer.id][0]
    low, high = (constant, None) if layer.op is Op.MAXIMUM else (None, constant)
    inner = draft.producer(source)
    joined = inner.op in (Op.CLIP, Op.RELU) and draft.sole_user(inner.id) is not None
    if joined:
        inner_low, inner_high = (0.0, None) if inner.op is Op.RELU else _bounds(inner)
        if (low is None) != (inner_low is None) and (high is None) != (inner_high is None):
            low, high = (low, inner_high) if low is not None else (inner_low, high)
            source = draft.inputs[inner.id][0]
    draft.replace(layer, Op.CLIP, [source], attrs={"min": low, "max": high})


def _leaky_maximum(draft: Draft, layer: Layer) -> None:
    first, second = draft.operands(layer)
    for base, scaled in ((first, second), (second, first)):
        found = expand(draft, scaled, base)
        if found is not None and len(found) == 2 and not found[0] and 0 < found[1] < 1:
            draft.replace(layer, Op.LEAKY_RELU, [base], attrs={"negative_slope": found[1]})
            return


def squared_relu(draft: Draft) -> None:
    """max(x, 0)²."""
    for core in draft.of(Op.RELU):
        base = Ref(core.id)
        for target, _ in tuple(draft.users[core.id])[:2]:
            layer = draft.layers[target]
            squares = layer.op in (Op.MUL, Op.SQUARE, Op.POW) and not layer.params
            if squares and is_polynomial(expand(draft, Ref(target), base), (0.0, 0.0, 1.0)):
                draft.replace(layer, Op.SQUARED_RELU, draft.inputs[core.id])
                break


def _one_plus_exp(draft: Draft, layer: Layer) -> Ref | None:
    """The argument z of ``1 + exp(z)``."""
    if layer.op is not Op.ADD or not close(fixed_operand(layer), 1.0):
        return None
    inner = draft.producer(draft.inputs[layer.id][0])
    return draft.inputs[inner.id][0] if inner.op is Op.EXP else None


def exponentials(draft: Draft) -> None:
    """Sigmoid as 1/(1 + exp(-x)), its product x/(1 + exp(-x)), softplus as ln(1 + exp(x))."""
    for exp in draft.of(Op.EXP):
        step = draft.sole_user(exp.id)
        argument = step and _one_plus_exp(draft, step[0])
        if step is None or argument is None:
            continue
        after = draft.sole_user(step[0].id)
        if after is None:
            continue
        user, position = after
        if user.op is Op.LOG:
            _softplus(draft, user, argument)
            continue
        base = base_of(draft, argument, (0.0, -1.0))
        if base is None:
            continue
        constant = fixed_operand(user)
        inverse = user.op is Op.RECIPROCAL or (
            user.op is Op.DIV and close(constant, 1.0) and bool(user.attrs.get("constant_first"))
        )
        if inverse:
            draft.replace(user, Op.SIGMOID, [base])
        elif user.op is Op.DIV and position == 1:
            factor = expand(draft, draft.inputs[user.id][0], base)
            if is_polynomial(factor, (0.0, 1.0)):
                draft.replace(user, Op.SILU, [base])


def _softplus(draft: Draft, log: Layer, argument: Ref) -> None:
    """ln(1 + exp(x)), and its stable form max(x, 0) + ln(1 + exp(-|x|))."""
    inner = draft.producer(argument)
    if inner.op is Op.NEG:
        inner = draft.producer(draft.inputs[inner.id][0])
    if inner.op is not Op.ABS:
        draft.replace(log, Op.SOFTPLUS, [draft.skip(argument)])
        return
    base = draft.skip(draft.inputs[inner.id][0])
    step = draft.sole_user(log.id)
    if step is None or step[0].op is not Op.ADD or len(draft.inputs[step[0].id]) != 2:
        return
    other = draft.producer(draft.inputs[step[0].id][1 - step[1]])
    if other.op is Op.RELU and draft.operands(other)[0] == base:
        draft.replace(step[0], Op.SOFTPLUS, [base])


def chosen(draft: Draft) -> None:
    """Leaky ReLU, ELU and SELU written as where(x > 0, …, …); softplus that ends in a line."""
    for layer in draft.of(Op.WHERE):
        inputs = draft.inputs[layer.id]
        if len(inputs) != 3:
            continue
        test = draft.producer(inputs[0])
        upward = str(test.attrs.get("kind", "")).lower().startswith(("greater", "gt", "ge"))
        bound = fixed_operand(test)
        if test.op is not Op.COMPARE or not upward or bound is None or bound < 0.0:
            continue
        if test.attrs.get("constant_first"):
            continue
        base = draft.operands(test)[0]
        if bound > 0.0:
            _linear_above(draft, layer, base, bound)
            continue
        positive = expand(draft, inputs[1], base)
        if positive is None or len(positive) != 2 or positive[0]:
            continue
        _piecewise(draft, layer, base, positive[1], inputs[2])


def _linear_above(draft: Draft, layer: Layer, base: Ref, bound: float) -> None:
    """PyTorch's softplus, ln(1 + exp(b x)) / b, and x itself where b x is above a bound."""
    _, above, below = draft.inputs[layer.id]
    source = draft.skip(above)
    tested = expand(draft, base, source)
    if tested is None or len(tested) != 2 or not close(bound + log1p(e**-bound), bound):
        return
    beta = tested[1]
    for ref in candidates(draft, below):
        inner = draft.layers[ref.layer]
        if inner.op is not Op.SOFTPLUS or beta <= 0:
            continue
        argument = expand(draft, draft.inputs[inner.id][0], source)
        scaled = is_polynomial(expand(draft, below, ref), (0.0, 1.0 / beta))
        if scaled and is_polynomial(argument, tested) and not tested[0]:
            draft.replace(layer, Op.SOFTPLUS, [source], attrs={"beta": beta})
            return


def _piecewise(draft: Draft, layer: Layer, base: Ref, slope: float, below: Ref) -> None:
    """``slope x`` above zero and ``below`` under it."""
    linear = expand(draft, below, base)
    if linear is not None and len(linear) == 2 and not linear[0] and close(slope, 1.0):
        draft.replace(layer, Op.LEAKY_RELU, [base], attrs={"negative_slope": linear[1]})
        return
    for inner in candidates(draft, below):
        exp = draft.layers[inner.layer]
        if exp.op is not Op.EXP:
            continue
        found = expand(draft, below, inner)
        argument = draft.producer(draft.inputs[exp.id][0])
        if argument.op is Op.MINIMUM and fixed_operand(argument) == 0.0:
            source = draft.operands(argument)[0]
        else:
            source = draft.operands(exp)[0]
        if source != base or found is None or len(found) != 2 or not close(-found[0], found[1]):
            return
        if close(slope, _SELU_SCALE) and close(found[1], _SELU_SCALE * _SELU_ALPHA):
            draft.replace(layer, Op.SELU, [base])
        elif close(slope, 1.0):
            draft.replace(layer, Op.ELU, [base], attrs={"alpha": found[1]})
        return


def selu_from_elu(draft: Draft) -> None:
    """λ · ELU(x, α) with the constants of SELU."""
    for elu in draft.of(Op.ELU):
        step = draft.sole_user(elu.id)
        if step is None or not close(elu.attrs.get("alpha", 1.0), _SELU_ALPHA):
            continue
        if step[0].op is Op.MUL and close(fixed_operand(step[0]), _SELU_SCALE):
            draft.replace(step[0], Op.SELU, draft.inputs[elu.id])


def softmax(draft: Draft) -> None:
    """exp(x − max x) / Σ exp(x − max x), and its logarithm."""
    for exp in draft.of(Op.EXP):
        for target, _ in tuple(draft.users[exp.id]):
            layer = draft.layers.get(target)
            if layer is not None and layer.op is Op.REDUCE and layer.attrs.get("kind") == "sum":
                _softmax(draft, exp, layer)
                break


def _softmax(draft: Draft, exp: Layer, total: Layer) -> None:
    step = draft.sole_user(total.id, _BROADCAST)
    axes = reduced_axes(total)
    if step is None or axes is None or len(axes) != 1:
        return
    attrs = {"axis": axes[0]}
    shifted = draft.operands(exp)[0]
    user, position = step
    if user.op is Op.DIV and position == 1 and draft.operands(user)[0].layer == exp.id:
        draft.replace(user, Op.SOFTMAX, [_unshifted(draft, shifted)], attrs=attrs)
    elif user.op is Op.LOG:
        after = draft.sole_user(user.id, _BROADCAST)
        subtracted = after is not None and after[0].op is Op.SUB and after[1] == 1
        if after and subtracted and draft.operands(after[0])[0] == shifted:
            draft.replace(after[0], Op.LOG_SOFTMAX, [_unshifted(draft, shifted)], attrs=attrs)


def _unshifted(draft: Draft, ref: Ref) -> Ref:
    """The tensor behind ``x − max(x)``."""
    layer = draft.layers[ref.layer]
    if layer.op is not Op.SUB or len(draft.inputs[layer.id]) != 2:
        return ref
    first, second = draft.operands(layer)
    maximum = draft.producer(second, _BROADCAST)
    of_same = maximum.op is Op.REDUCE and draft.operands(maximum)[0] == first
    return first if of_same and maximum.attrs.get("kind") == "max" else ref


def reduced_axes(layer: Layer) -> tuple[int, ...] | None:
    """Axes of a reduction as a tuple; None when it is over everything or unknown."""
    axis = layer.attrs.get("axes", layer.attrs.get("axis"))
    if isinstance(axis, int):
        return (axis,)
    return tuple(int(item) for item in axis) if isinstance(axis, (tuple, list)) and axis else None
