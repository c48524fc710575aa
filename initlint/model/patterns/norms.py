"""Normalisers that exporters write out in arithmetic."""

from __future__ import annotations

from math import prod
from typing import Any

from initlint.model.layer import Layer, Param
from initlint.model.op import Op
from initlint.model.patterns.activations import reduced_axes
from initlint.model.patterns.algebra import expand, is_polynomial
from initlint.model.patterns.draft import UNCHANGED, Draft, Ref, close, fixed_operand
from initlint.model.patterns.parameters import is_uniform, one_per_feature
from initlint.model.record import record

_BROADCAST = UNCHANGED | {Op.EXPAND, Op.RESHAPE}
"""What may stand between a statistic and its use; that both concern one tensor is checked."""

_LARGEST_EPS = 0.1
"""An addend under the root above this is part of the function, not a guard against zero."""


@record(frozen=True, slots=True)
class _Spread:
    """A root of a moment: ``sqrt(mean((x - centre)^2) + eps)``, or the Euclidean norm."""

    of: Ref
    axes: tuple[int, ...]
    eps: float
    centred: bool = False
    mean: bool = True


def _mean_of(draft: Draft, ref: Ref) -> tuple[Ref, tuple[int, ...]] | None:
    layer = draft.producer(ref, _BROADCAST)
    if layer.op is Op.POOL:
        pooled = _pooled_axes(draft, layer)
        return (draft.operands(layer)[0], pooled) if pooled else None
    factor = fixed_operand(layer)
    if factor is not None and layer.op in (Op.MUL, Op.DIV) and len(draft.inputs[layer.id]) == 1:
        share = factor if layer.op is Op.MUL else 1.0 / factor if factor else None
        layer = draft.producer(draft.inputs[layer.id][0], _BROADCAST)
        if layer.attrs.get("kind") != "sum" or not close(share, 1.0 / _count(draft, layer)):
            return None
    elif layer.attrs.get("kind") != "mean":
        return None
    axes = reduced_axes(layer)
    return (draft.operands(layer)[0], axes) if layer.op is Op.REDUCE and axes else None


def _pooled_axes(draft: Draft, layer: Layer) -> tuple[int, ...]:
    """Axes that a global mean pooling averages: all behind the second; none where that is unknown.

    tf2onnx writes a mean over the last axis of three that way.
    """
    if layer.attrs.get("kind") != "mean" or not layer.attrs.get("global"):
        return ()
    source = draft.inputs[layer.id][0]
    shape = source.shape or draft.layers[source.layer].output_shape or layer.output_shape
    return tuple(range(2, len(shape))) if shape else ()


def _count(draft: Draft, layer: Layer) -> float:
    """Elements that a reduction adds; infinite when not known."""
    axes = reduced_axes(layer)
    source = draft.inputs[layer.id][0] if draft.inputs[layer.id] else None
    shape = source and (source.shape or draft.layers[source.layer].output_shape)
    if not shape or not axes or any(not -len(shape) <= axis < len(shape) for axis in axes):
        return float("inf")
    sides = [shape[axis] for axis in axes]
    return float(prod(side for side in sides if side)) if all(sides) else float("inf")


def _centred(draft: Draft, ref: Ref) -> tuple[Ref, tuple[int, ...]] | None:
    """The tensor and the axes of ``x - mean(x)``."""
    layer = draft.producer(ref)
    if layer.op is not Op.SUB or len(draft.inputs[layer.id]) != 2:
        return None
    first, second = draft.operands(layer)
    mean = _mean_of(draft, second)
    return mean if mean is not None and mean[0] == first else None


def _square_of(draft: Draft, ref: Ref) -> Ref | None:
    """The tensor that is squared, in any spelling."""
    layer = draft.producer(ref)
    if layer.op not in (Op.SQUARE, Op.POW, Op.MUL) or layer.params:
        return None
    base = draft.operands(layer)[0]
    return base if is_polynomial(expand(draft, ref, base), (0.0, 0.0, 1.0)) else None


def _guard(layer: Layer) -> float | None:
    """The small number of ``x + eps`` or ``max(x, eps)``."""
    if layer.op is Op.RELU:
        return 0.0
    if layer.op is Op.CLIP:
        low = layer.attrs.get("min")
        eps = None if low is None or layer.attrs.get("max") is not None else float(low)
    elif layer.op in (Op.ADD, Op.MAXIMUM):
        eps = fixed_operand(layer)
    else:
        return None
    return eps if eps is not None and 0.0 <= eps <= _LARGEST_EPS else None


def _moment(draft: Draft, ref: Ref, eps: float = 0.0) -> _Spread | None:
    """A second moment, its guard included."""
    layer = draft.producer(ref, _BROADCAST)
    guard = _guard(layer)
    if guard is not None and len(draft.inputs[layer.id]) == 1:
        return _moment(draft, draft.inputs[layer.id][0], max(eps, guard))
    if layer.op is Op.SUB and len(draft.inputs[layer.id]) == 2:
        return _difference_of_moments(draft, layer, eps)
    if layer.op not in (Op.REDUCE, Op.POOL):
        return None
    pooled = layer.op is Op.POOL
    kind = layer.attrs.get("kind")
    axes = _pooled_axes(draft, layer) or None if pooled else reduced_axes(layer)
    source = draft.inputs[layer.id][0]
    if axes is None:
        return None
    if kind == "var":
        return _Spread(draft.skip(source), axes, eps, centred=True)
    square = _square_of(draft, source)
    if kind == "sum_square":
        return _Spread(draft.skip(source), axes, eps, mean=False)
    if square is None or kind not in ("mean", "sum"):
        return None
    centred = _centred(draft, square)
    if centred is not None and centred[1] == axes and kind == "mean":
        return _Spread(centred[0], axes, eps, centred=True)
    return _Spread(square, axes, eps, mean=kind == "mean")


def _difference_of_moments(draft: Draft, layer: Layer, eps: float) -> _Spread | None:
    """E[x²] − E[x]²."""
    first, second = draft.operands(layer)
    whole = _mean_of(draft, first)
    square = _square_of(draft, draft.skip(second, _BROADCAST))
    part = square and _mean_of(draft, square)
    if whole is None or not part or part[1] != whole[1]:
        return None
    return _Spread(part[0], part[1], eps, True) if _square_of(draft, whole[0]) == part[0] else None


def _root(draft: Draft, ref: Ref, eps: float = 0.0) -> _Spread | None:
    """A standard deviation or a norm: what a normaliser divides by."""
    layer = draft.producer(ref, _BROADCAST)
    if not draft.inputs[layer.id]:
        return None
    source = draft.inputs[layer.id][0]
    guard = _guard(layer)
    if guard is not None and len(draft.inputs[layer.id]) == 1:
        return _root(draft, source, max(eps, guard))
    if layer.op is Op.SQRT or (layer.op is Op.POW and close(fixed_operand(layer), 0.5)):
        return _moment(draft, source, eps)
    if layer.op is Op.REDUCE:
        axes = reduced_axes(layer)
        if axes is not None and layer.attrs.get("kind") == "std":
            return _Spread(draft.skip(source), axes, eps, centred=True)
        if axes is not None and layer.attrs.get("kind") == "l2":
            return _Spread(draft.skip(source), axes, eps, mean=False)
    return None


def _inverse_root(draft: Draft, ref: Ref) -> _Spread | None:
    """The reciprocal of `_root`: what a normaliser multiplies by."""
    layer = draft.producer(ref, _BROADCAST)
    if not draft.inputs[layer.id]:
        return None
    source, constant = draft.inputs[layer.id][0], fixed_operand(layer)
    if layer.op is Op.RECIPROCAL:
        return _root(draft, source)
    if layer.op is Op.DIV and layer.attrs.get("constant_first") and close(constant, 1.0):
        return _root(draft, source)
    power = layer.op is Op.POW and not layer.attrs.get("constant_first")
    if layer.op is Op.RECIPROCAL_SQRT or (power and close(constant, -0.5)):
        return _moment(draft, source)
    return None


def _gained(draft: Draft, ref: Ref) -> tuple[_Spread | None, tuple[Param, ...]]:
    """`_inverse_root` with a gain that was multiplied into it first, and that gain."""
    layer = draft.producer(ref)
    gain: tuple[Param, ...] = ()
    if layer.op is Op.MUL and len(layer.params) == 1 and len(draft.inputs[layer.id]) == 1:
        gain, ref = layer.params, draft.inputs[layer.id][0]
    return _inverse_root(draft, ref), gain


def standardised(draft: Draft) -> None:
    """Quotients by a standard deviation: layer, RMS, instance, batch and Euclidean norms."""
    for layer in draft.of(Op.DIV, Op.MUL):
        inputs = draft.inputs[layer.id]
        if len(inputs) != 2 or layer.params or "constant" in layer.attrs:
            continue
        if layer.op is Op.DIV:
            _standardise(draft, layer, inputs[0], _root(draft, inputs[1]))
            continue
        for numerator, inverse in (inputs, inputs[::-1]):
            spread, gain = _gained(draft, inverse)
            if spread is not None:
                _standardise(draft, layer, numerator, spread, gain)
                break


def _standardise(
    draft: Draft,
    last: Layer,
    numerator: Ref,
    spread: _Spread | None,
    gain: tuple[Param, ...] = (),
) -> None:
    if spread is None or draft.is_fixed(spread.of):
        return  # a normalised parameter (weight standardisation) is no normaliser of activations
    numerator = draft.skip(numerator)
    centred = _centred(draft, numerator)
    if spread.centred and centred == (spread.of, spread.axes):
        _put_norm(draft, last, spread, gain, centre=True)
    elif spread.of == numerator and not spread.centred and (spread.mean or not gain):
        _put_norm(draft, last, spread, gain, centre=False)


def _put_norm(
    draft: Draft, last: Layer, spread: _Spread, params: tuple[Param, ...] = (), *, centre: bool
) -> Layer:
    rank = _rank(draft, last, spread.of)
    axes = spread.axes
    if rank is not None:
        axes = tuple(sorted(axis % rank for axis in axes))
    attrs: dict[str, Any] = {"eps": spread.eps}
    if not spread.mean:
        attrs |= {"axis": spread.axes[0], "p": 2}
        return draft.replace(last, Op.LP_NORM, [spread.of], attrs=attrs)
    op = Op.LAYER_NORM if centre else Op.RMS_NORM
    channel_axis = -1
    if centre and rank is not None and rank >= 3:
        if axes == tuple(range(2, rank)) and rank >= 4:
            op, channel_axis = Op.INSTANCE_NORM, 1
        elif axes == tuple(range(1, rank)) and rank >= 4:
            op, channel_axis = Op.GROUP_NORM, 1
            attrs["groups"] = 1
        elif 0 in axes and len(axes) == rank - 1:
            op = Op.BATCH_NORM
            channel_axis = next(axis for axis in range(rank) if axis not in axes)
    if op in (Op.LAYER_NORM, Op.RMS_NORM):
        attrs["axis"] = spread.axes[0] if len(spread.axes) == 1 else axes[0]
        if rank is not None and axes != tuple(range(axes[0], rank)):
            attrs["axes"] = axes
            channel_axis = axes[0]
    params = tuple(one_per_feature(param) for param in params)
    return draft.replace(
        last, op, [spread.of], attrs=attrs, params=params, channel_axis=channel_axis
    )


def _rank(draft: Draft, last: Layer, source: Ref) -> int | None:
    shape = last.output_shape or source.shape or draft.layers[source.layer].output_shape
    return None if shape is None else len(shape)


def scaled_and_shifted(draft: Draft) -> None:
    """Normalisation as ``x a + (beta − mean(x) a)`` with ``a = gamma / std`` (TensorFlow)."""
    for layer in draft.of(Op.ADD):
        inputs = draft.operands(layer)
        if len(inputs) != 2:
            continue
        for product, rest in (inputs, inputs[::-1]):
            if _scaled_and_shifted(draft, layer, draft.layers[product.layer], rest):
                break


def _subtracted(draft: Draft, rest: Ref) -> tuple[tuple[Ref, ...], tuple[Param, ...]] | None:
    """The factors of what ``beta − mean a`` subtracts, and beta, in the orders that are written."""
    layer = draft.layers[rest.layer]
    shift: tuple[Param, ...] = ()
    if layer.op is Op.ADD and len(draft.inputs[layer.id]) == 1 and "constant" not in layer.attrs:
        shift, rest = layer.params, draft.operands(layer)[0]
        layer = draft.layers[rest.layer]
    elif layer.op in (Op.SUB, Op.NEG):
        shift, offset = layer.params, draft.operands(layer)
        if len(offset) != 1 or "constant" in layer.attrs:
            return None
        if shift and not layer.attrs.get("constant_first"):
            return None
        product = draft.layers[offset[0].layer]
        return (draft.operands(product), shift) if product.op is Op.MUL else None
    if layer.op is not Op.MUL or layer.params:
        return None
    factors = draft.operands(layer)
    negated = [draft.layers[ref.layer].op is Op.NEG for ref in factors]
    if sum(negated) != 1:
        return None
    opened = (
        draft.operands(draft.layers[ref.layer])[0] if minus else ref
        for ref, minus in zip(factors, negated, strict=True)
    )
    return tuple(opened), shift


def _scaled_and_shifted(draft: Draft, last: Layer, product: Layer, rest: Ref) -> bool:
    if product.op is not Op.MUL or len(draft.inputs[product.id]) != 2:
        return False
    found = _subtracted(draft, rest)
    if found is None:
        return False
    factors, shift = found
    for source, factor in (draft.operands(product), draft.operands(product)[::-1]):
        spread, gain = _gained(draft, factor)
        means = [_mean_of(draft, ref) for ref in factors]
        same = spread is not None and spread.centred and (spread.of, spread.axes) in means
        if spread is not None and same and spread.of == source:
            _put_norm(draft, last, spread, (*gain, *shift), centre=True)
            return True
    return False


def grouped(draft: Draft) -> None:
    """GroupNorm as reshape, InstanceNorm without effect of its affine part, reshape."""
    for norm in draft.of(Op.INSTANCE_NORM):
        step = draft.sole_user(norm.id)
        before = draft.producer(draft.inputs[norm.id][0])
        if step is None or step[0].op is not Op.RESHAPE or before.op is not Op.RESHAPE:
            continue
        source = draft.inputs[before.id][0]
        shape = source.shape or draft.layers[source.layer].output_shape
        after = step[0].output_shape
        if not shape or not after or len(shape) != len(after) or len(shape) < 3:
            continue
        if shape[1] is None or shape[1] != after[1] or not all(map(is_uniform, norm.params)):
            continue
        sizes = [param.size for param in norm.params]
        inner = before.output_shape
        groups = sizes[0] if sizes else inner[1] if inner and len(inner) > 1 else None
        if groups is None or shape[1] % groups:
            continue
        attrs = {"groups": groups, "eps": norm.attrs.get("eps", 1e-5)}
        draft.replace(step[0], Op.GROUP_NORM, [source], attrs=attrs, channel_axis=1)
