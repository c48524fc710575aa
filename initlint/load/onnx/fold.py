"""Operators on constants: from what is stored to what an operator uses, lazily.

Pure rearrangements, products and sums with small constants become views of the stored tensor.
Anything else becomes a source that computes when it is read. Small integer arithmetic on shapes is
evaluated at once, with None for sizes that only a run can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from initlint.load.onnx import shapes
from initlint.load.onnx.call import Call
from initlint.load.onnx.computed import ComputedSource, Evaluator
from initlint.load.onnx.dequantise import dequantised
from initlint.load.onnx.extents import fold_extents, settled
from initlint.load.onnx.tensors import representable
from initlint.load.onnx.values import (
    SMALL_ELEMENTS,
    Dynamic,
    Extent,
    Fixed,
    RuntimeScale,
    Shape,
    Value,
    scaled,
    shifted,
)
from initlint.model import ConstantSource, Tensor, from_array
from initlint.model.tensor import Array

MAX_COMPUTED_ELEMENTS = 1 << 26
"""Largest constant that is computed from others (256 MiB of float32); small files can ask for
more by broadcasting, and no exporter does."""

MAX_PRODUCT_TERMS = 1 << 31
"""Multiplications in a product of two constants: about a second of one core."""

_UNARY: dict[str, Callable[[Array], Array]] = {
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Abs": np.abs,
    "Reciprocal": lambda x: 1 / x,
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Relu": lambda x: np.maximum(x, 0),
    "Sign": np.sign,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Cos": np.cos,
    "Sin": np.sin,
    "Not": np.logical_not,
}

_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Max": np.maximum,
    "Min": np.minimum,
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Mod": np.fmod,
}

_LOGICAL = frozenset(
    {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not"}
)

_REDUCE: dict[str, Callable[..., Array]] = {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceL1": lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims),
    "ReduceL2": lambda x, axis, keepdims: np.sqrt((x * x).sum(axis=axis, keepdims=keepdims)),
    "ReduceSumSquare": lambda x, axis, keepdims: (x * x).sum(axis=axis, keepdims=keepdims),
}


def fold(call: Call) -> list[Value] | None:
    """The results of a node whose inputs are all constants or shapes; None when not foldable."""
    if call.domain != "" or any(isinstance(value, RuntimeScale) for value in call.inputs):
        return None
    rule = _RULES.get(call.op)
    try:
        if any(isinstance(value, Extent) for value in call.inputs):
            extent = fold_extents(call)
            if extent is not None:
                return [extent]
        if rule is not None:
            return rule(call)
        return _fold_numeric(call)
    except (ValueError, IndexError, ZeroDivisionError, OverflowError, TypeError):
        return None


def _computed(
    call: Call, evaluate: Evaluator, operands: Sequence[Fixed], shape: Shape | None, **changes: Any
) -> list[Value] | None:
    if shape is None or None in shape:
        return None
    sides = tuple(side for side in shape if side is not None)
    total = sum(operand.size for operand in operands)
    limit = min(MAX_COMPUTED_ELEMENTS, 64 * total + SMALL_ELEMENTS)
    if prod(sides) > limit or not representable(sides):
        return None
    if any(operand.tensor.dtype == "string" for operand in operands):
        return None
    main = max(operands, key=lambda operand: operand.size)
    source = ComputedSource(evaluate, tuple(operand.tensor for operand in operands), sides)
    tensor = Tensor(main.tensor.name, main.tensor.dtype, sides, source)
    settings: dict[str, Any] = {
        "quantised": any(operand.quantised for operand in operands),
        "integer": all(operand.integer for operand in operands),
        "stored": main.stored,
    } | changes
    return [Fixed(tensor, main.names, **settings)]


def _fold_numeric(call: Call) -> list[Value] | None:
    operands = [value for value in call.inputs if isinstance(value, Fixed)]
    if len(operands) != len(call.inputs) or not operands:
        return None
    integer = all(operand.integer for operand in operands)
    if call.op in _UNARY and len(operands) == 1:
        function = _UNARY[call.op]
        return _computed(call, lambda a: function(a[0]), operands, operands[0].shape)
    if call.op in _BINARY and len(operands) >= 2:
        binary = _BINARY[call.op]
        shape = shapes.broadcast(*(operand.shape for operand in operands))

        def evaluate(arrays: list[Array]) -> Array:
            result = arrays[0]
            for array in arrays[1:]:
                result = binary(result, array)
            return np.trunc(result) if integer and call.op == "Div" else result

        logical = {"integer": True} if call.op in _LOGICAL else {}
        return _computed(call, evaluate, operands, shape, **logical)
    if call.op == "Where" and len(operands) == 3:
        shape = shapes.broadcast(*(operand.shape for operand in operands))
        branches = all(operand.integer for operand in operands[1:])
        return _computed(
            call, lambda a: np.where(a[0] != 0, a[1], a[2]), operands, shape, integer=branches
        )
    return None


def _fold_clip(call: Call) -> list[Value] | None:
    operand = call.fixed(0)
    bounds = [
        call.fixed(index) if call.value(index) is not None else call.attrs.get(name)
        for index, name in ((1, "min"), (2, "max"))
    ]
    low, high = (value.scalar() if isinstance(value, Fixed) else value for value in bounds)
    if operand is None or not all(
        value is None or isinstance(value, (int, float)) for value in (low, high)
    ):
        return None
    return _computed(call, lambda a: np.clip(a[0], low, high), [operand], operand.shape)


def _fold_softmax(call: Call) -> list[Value] | None:
    operand = call.fixed(0)
    axis = call.integer("axis", -1)
    if call.opset < 13:  # there it runs over all axes from this one on
        return None
    if operand is None or not -len(operand.shape) <= axis < len(operand.shape):
        return None

    def evaluate(arrays: list[Array]) -> Array:
        powers = np.exp(arrays[0] - arrays[0].max(axis=axis, keepdims=True))
        return np.asarray(powers / powers.sum(axis=axis, keepdims=True))

    return _computed(call, evaluate, [operand], operand.shape)


def _fold_reduce(call: Call) -> list[Value] | None:
    operand = call.fixed(0)
    if operand is None:
        return None
    axes = call.integers("axes", 1)
    if axes == ():
        axes = None
    if axes is None and call.integer("noop_with_empty_axes", 0):
        return [operand]
    keep = bool(call.integer("keepdims", 1))
    function = _REDUCE[call.op]
    return _computed(
        call,
        lambda a: function(a[0], axis=axes, keepdims=keep),
        [operand],
        shapes.reduced(operand.shape, axes, keep),
    )


def _fold_matmul(call: Call) -> list[Value] | None:
    left, right = call.fixed(0), call.fixed(1)
    if left is None or right is None:
        return None
    shape = shapes.matmul(left.shape, right.shape)
    if shape is None or left.size * max(right.shape[-1], 1) > MAX_PRODUCT_TERMS:
        return None
    if left.shape[-1] != right.shape[max(-2, -len(right.shape))]:
        return None
    return _computed(call, lambda a: np.matmul(a[0], a[1]), [left, right], shape)


def _fold_scale(call: Call) -> list[Value] | None:
    """Mul, Div, Add, Sub with one small operand: a view, so that streaming stays possible."""
    left, right = call.fixed(0), call.fixed(1)
    if left is None or right is None or left.integer or right.integer:
        return _fold_numeric(call)
    big, small, reverse = (left, right, False) if left.size >= right.size else (right, left, True)
    plain = call.op in ("Mul", "Add") or not reverse
    if not plain or not small.small or shapes.broadcast(big.shape, small.shape) != big.shape:
        return _fold_numeric(call)
    values = small.values()
    with np.errstate(all="ignore"):
        if call.op in ("Mul", "Div"):
            tensor = scaled(big.tensor, values if call.op == "Mul" else 1 / values)
        else:
            tensor = shifted(big.tensor, values if call.op == "Add" else -values)
    return [big.seen_as(tensor)]


def _fold_identity(call: Call) -> list[Value] | None:
    operand = call.value(0)
    if isinstance(operand, Fixed):
        return [operand.called(call.outputs[0])]
    return None if operand is None else [operand]


def _fold_cast(call: Call) -> list[Value] | None:
    operand = call.fixed(0)
    if operand is None or operand.tensor.dtype == "string":
        return None
    if call.op == "CastLike":
        like = call.fixed(1)
        to_integer = like is not None and like.integer
    else:
        to_integer = call.integer("to", 1) in _INTEGER_TYPES
    if to_integer and not operand.integer:
        return _computed(call, lambda a: np.trunc(a[0]), [operand], operand.shape, integer=True)
    if operand.integer and not to_integer:
        return [operand.seen_as(operand.tensor, integer=False, quantised=True)]
    return [operand]


_INTEGER_TYPES = frozenset({2, 3, 4, 5, 6, 7, 9, 12, 13, 21, 22, 25, 26})


def _fold_transpose(call: Call) -> list[Value] | None:
    operand = call.fixed(0)
    if operand is None:
        return None
    axes = call.ints("perm") or tuple(range(len(operand.shape)))[::-1]
    if shapes.transpose(operand.shape, axes) is None:
        return None
    return [operand.seen_as(operand.tensor.transpose(*axes))]


def _reshaped(operand: Fixed, shape: Shape | None) -> list[Value] | None:
    if shape is None or None in shape:
        return None
    sides = tuple(side for side in shape if side is not None)
    if prod(sides) != operand.size or not representable(sides):
        return None
    if sides == operand.shape:
        return [operand]
    return [operand.seen_as(operand.tensor.reshape(*sides))]


def _fold_reshape(call: Call) -> list[Value] | None:
    operand, wanted = call.fixed(0), call.integers("shape", 1)
    if operand is None or wanted is None:
        return None
    zero_copies = not call.integer("allowzero", 0)
    return _reshaped(operand, shapes.reshape(operand.shape, wanted, zero_copies))


def _fold_flatten(call: Call) -> list[Value] | None:
    operand = call.fixed(0)
    if operand is None:
        return None
    axis = call.integer("axis", 1)
    axis += len(operand.shape) if axis < 0 else 0
    rows = prod(operand.shape[:axis])
    return _reshaped(operand, (rows, prod(operand.shape[axis:])))


def _fold_squeeze(call: Call) -> list[Value] | None:
    operand = call.fixed(0)
    if operand is None:
        return None
    axes = call.integers("axes", 1)
    return _reshaped(operand, shapes.squeezed(operand.shape, axes))


def _fold_unsqueeze(call: Call) -> list[Value] | None:
    operand, axes = call.fixed(0), call.integers("axes", 1)
    if operand is None or axes is None:
        return None
    return _reshaped(operand, shapes.unsqueezed(operand.shape, axes))


def _fold_slice(call: Call) -> list[Value] | None:
    operand = call.fixed(0)
    starts, stops = call.integers("starts", 1), call.integers("ends", 2)
    if operand is None or starts is None or stops is None:
        return None
    axes = call.integers("axes", 3) or tuple(range(len(starts)))
    steps = call.integers("steps", 4) or (1,) * len(starts)
    tensor, index = operand.tensor, [slice(None)] * len(operand.shape)
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        side = operand.shape[axis]
        open_end = step < 0 and stop < -side
        index[axis] = slice(start, None if open_end else stop, step)
        first, last, _ = slice(start, stop).indices(side)
        if step == 1:
            tensor = tensor.take(axis, first, max(first, last))
    if all(step == 1 for step in steps):
        return [operand.seen_as(tensor)]
    shape = tuple(
        len(range(*piece.indices(side))) for piece, side in zip(index, operand.shape, strict=True)
    )
    return _computed(call, lambda a: a[0][tuple(index)], [operand], shape)


def _fold_split(call: Call) -> list[Value] | None:
    operand = call.fixed(0)
    if operand is None:
        return None
    axis = call.integer("axis", 0)
    sizes = call.integers("split", 1) or split_sizes(operand.shape[axis], len(call.outputs))
    if sizes is None or len(sizes) != len(call.outputs) or sum(sizes) != operand.shape[axis]:
        return None
    found: list[Value] = []
    start = 0
    for size in sizes:
        found.append(operand.seen_as(operand.tensor.take(axis, start, start + size)))
        start += size
    return found


def split_sizes(side: int | None, parts: int) -> tuple[int, ...] | None:
    """Sizes of an equal split; the last part is smaller when it does not divide."""
    if side is None or parts < 1:
        return None
    size = -(-side // parts)
    return (*(size,) * (parts - 1), side - size * (parts - 1))


def _fold_gather(call: Call) -> list[Value] | None:
    operand, index = call.fixed(0), call.fixed(1)
    if operand is None or index is None or not operand.shape:
        return None
    axis = call.integer("axis", 0) % len(operand.shape)
    side = operand.shape[axis]
    shape = (*operand.shape[:axis], *index.shape, *operand.shape[axis + 1 :])
    rows = index.integers()
    if rows is not None and rows:
        rows = tuple(row + side if row < 0 else row for row in rows)
        if not all(0 <= row < side for row in rows):
            return None
        if rows == tuple(range(rows[0], rows[0] + len(rows))):
            block = operand.tensor.take(axis, rows[0], rows[0] + len(rows))
            return [operand.seen_as(block if block.shape == shape else block.reshape(*shape))]
    return _computed(
        call,
        lambda a: np.take(a[0], a[1].astype(np.int64), axis=axis, mode="wrap"),
        [operand, index],
        shape,
        integer=operand.integer,
    )


def _fold_concat(call: Call) -> list[Value] | None:
    operands = [value for value in call.inputs if isinstance(value, Fixed)]
    if len(operands) != len(call.inputs) or not operands:
        return None
    axis = call.integer("axis", 0)
    shape = shapes.concatenate([operand.shape for operand in operands], axis)
    return _computed(call, lambda a: np.concatenate(a, axis=axis), operands, shape)


def _fold_expand(call: Call) -> list[Value] | None:
    """Broadcasting a constant repeats it: what is stored stays the operand."""
    operand = call.fixed(0)
    if operand is None:
        return None
    wanted = call.integers("shape", 1)
    shape = None if wanted is None else shapes.broadcast(operand.shape, wanted)
    if shape is not None and prod(side or 0 for side in shape) <= SMALL_ELEMENTS:
        return _computed(call, lambda a: a[0], [operand], shape)
    return [operand]


def _fold_range(call: Call) -> list[Value] | None:
    limits = [value.scalar() if isinstance(value, Fixed) else None for value in call.inputs]
    if len(limits) != 3 or None in limits:
        return None
    start, stop, step = (float(limit) for limit in limits if limit is not None)
    if not step or (stop - start) / step > SMALL_ELEMENTS:
        return None
    integer = all(isinstance(value, Fixed) and value.integer for value in call.inputs)
    array = np.arange(start, stop, step)
    return [Fixed(from_array(call.outputs[0], array), stored=False, integer=integer)]


def _fold_constant_of_shape(call: Call) -> list[Value] | None:
    sides = call.integers("", 0)
    if sides is None or any(side < 0 for side in sides) or not representable(sides):
        return None
    if prod(sides) > MAX_COMPUTED_ELEMENTS:
        return None
    fill = call.attrs.get("fill")
    value, integer = (0.0, False) if fill is None else fill
    name = call.outputs[0]
    tensor = Tensor(name, "int64" if integer else "float32", sides, ConstantSource(value))
    return [Fixed(tensor, (name,), stored=False, integer=integer)]


def _fold_dequantize(call: Call) -> list[Value] | None:
    operand, scale, zero = call.fixed(0), call.fixed(1), call.fixed(2)
    if operand is None or scale is None or (zero is None and call.value(2) is not None):
        return None
    block = call.integer("block_size", 0)
    return [dequantised(operand, scale, zero, call.integer("axis", 1), block)]


def _fold_quantize(call: Call) -> list[Value] | None:
    """Quantising a constant of real numbers: the rounded integers."""
    operand, scale, zero = call.fixed(0), call.fixed(1), call.fixed(2)
    if operand is None or scale is None or not scale.small:
        return None
    axis = call.integer("axis", 1)
    one_axis = [
        -1 if at == axis % max(len(operand.shape), 1) else 1 for at in range(len(operand.shape))
    ]
    factor = scale.values() if scale.size == 1 else scale.values().reshape(one_axis)
    offset: Any = 0.0
    if zero is not None and zero.small:
        offset = zero.values() if zero.size == 1 else zero.values().reshape(one_axis)
    return _computed(
        call,
        lambda a: np.rint(a[0] / factor) + offset,
        [operand],
        operand.shape,
        integer=True,
        quantised=True,
    )


def _fold_shape(call: Call) -> list[Value] | None:
    operand = call.value(0)
    if operand is None or operand.shape is None:
        return None
    start, stop = call.integer("start", 0), call.attrs.get("end")
    entries: Shape = operand.shape[start : stop if isinstance(stop, int) else None]
    if call.op == "Size":
        known = [side for side in operand.shape if side is not None]
        entries = (prod(known) if len(known) == len(operand.shape) else None,)
    source = operand if isinstance(operand, Dynamic) else None
    if isinstance(operand, Extent):
        source = operand.source
    return [settled(Extent(entries, call.op == "Size", source), call.outputs[0])]


def fold_shape(call: Call) -> Value | None:
    """The result of Shape or Size of an activation."""
    found = _fold_shape(call)
    return found[0] if found else None


_RULES: dict[str, Callable[[Call], list[Value] | None]] = {
    "Identity": _fold_identity,
    "Cast": _fold_cast,
    "CastLike": _fold_cast,
    "Clip": _fold_clip,
    "Softmax": _fold_softmax,
    "Transpose": _fold_transpose,
    "Reshape": _fold_reshape,
    "Flatten": _fold_flatten,
    "Squeeze": _fold_squeeze,
    "Unsqueeze": _fold_unsqueeze,
    "Slice": _fold_slice,
    "Split": _fold_split,
    "Gather": _fold_gather,
    "Concat": _fold_concat,
    "Expand": _fold_expand,
    "Range": _fold_range,
    "ConstantOfShape": _fold_constant_of_shape,
    "DequantizeLinear": _fold_dequantize,
    "QuantizeLinear": _fold_quantize,
    "Shape": _fold_shape,
    "Size": _fold_shape,
    "MatMul": _fold_matmul,
    "Mul": _fold_scale,
    "Div": _fold_scale,
    "Add": _fold_scale,
    "Sub": _fold_scale,
    **dict.fromkeys(_REDUCE, _fold_reduce),
}
