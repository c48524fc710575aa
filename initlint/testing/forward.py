"""A forward pass over a layer graph in NumPy: slow, small, and independent of every framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from initlint.model.graph import LayerGraph
from initlint.model.layer import Layer, Param, Role
from initlint.model.op import RECURRENT, TRANSPARENT, Op
from initlint.model.tensor import Array
from initlint.testing.activations import ELEMENTWISE
from initlint.testing.convolution import convolve, convolve_transposed, pool
from initlint.testing.recurrent import recur

Inputs = Sequence[Array]


def _read(param: Param) -> Array:
    if param.tensor is None:
        raise ValueError(f"{param.name} has no values to compute with")
    return param.tensor.read().astype(np.float64)


def _first(layer: Layer, *roles: Role) -> Array | None:
    found = layer.with_role(*roles)
    return _read(found[0]) if found else None


def _weight(layer: Layer) -> Array:
    weight = _first(layer, Role.WEIGHT)
    if weight is None:
        raise ValueError(f"{layer.id} has no weight")
    return weight


def _along(vector: Array, axis: int, ndim: int) -> Array:
    """A per-unit vector shaped to broadcast along ``axis``."""
    shape = [1] * ndim
    shape[axis] = -1
    return vector.reshape(shape)


def _with_bias(layer: Layer, x: Array, axis: int) -> Array:
    bias = _first(layer, Role.BIAS)
    return x if bias is None else x + _along(bias, axis, x.ndim)


def _linear(layer: Layer, x: Inputs) -> Array:
    return _with_bias(layer, x[0] @ _weight(layer).T, -1)


def _conv(layer: Layer, x: Inputs) -> Array:
    compute = convolve_transposed if layer.op is Op.CONV_TRANSPOSE else convolve
    return _with_bias(layer, compute(x[0], _weight(layer), layer.attrs), 1)


def _bilinear(layer: Layer, x: Inputs) -> Array:
    return _with_bias(layer, np.einsum("...i,oij,...j->...o", x[0], _weight(layer), x[1]), -1)


def _embedding(layer: Layer, x: Inputs) -> Array:
    result: Array = _weight(layer)[x[0].astype(np.int64)]
    return result


def _operands(layer: Layer, x: Inputs) -> list[Array]:
    """Operands of an arithmetic primitive: inputs, trainable ones, then the constant."""
    operands = list(x)
    operands += [_read(param) for param in layer.params]
    if "constant" in layer.attrs:
        constant = np.asarray(layer.attrs["constant"], dtype=np.float64)
        operands.insert(0 if layer.attrs.get("constant_first") else len(operands), constant)
    elif layer.params and layer.attrs.get("constant_first"):
        operands = operands[len(x) :] + operands[: len(x)]
    return operands


def _fold(function: Callable[[Any, Any], Any]) -> Callable[[Layer, Inputs], Array]:
    def compute(layer: Layer, x: Inputs) -> Array:
        first, *rest = _operands(layer, x)
        for operand in rest:
            first = np.asarray(function(first, operand))
        return first

    return compute


def _normalise(x: Array, axes: tuple[int, ...], eps: float, centre: bool = True) -> Array:
    mean = x.mean(axis=axes, keepdims=True) if centre else 0.0
    spread = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    result: Array = (x - mean) / np.sqrt(spread + eps)
    return result


def _affine(layer: Layer, x: Array, axis: int | None) -> Array:
    gain, shift = _first(layer, Role.GAIN), _first(layer, Role.SHIFT)
    if gain is not None:
        x = x * (gain if axis is None else _along(gain, axis, x.ndim))
    if shift is not None:
        x = x + (shift if axis is None else _along(shift, axis, x.ndim))
    return x


def _feature_norm(layer: Layer, x: Inputs) -> Array:
    first = int(layer.attrs.get("axis", -1)) % x[0].ndim
    axes = tuple(layer.attrs.get("axes", range(first, x[0].ndim)))
    eps = float(layer.attrs.get("eps", 1e-5))
    centre = layer.op is Op.LAYER_NORM
    single = axes[0] if len(axes) == 1 else None
    return _affine(layer, _normalise(x[0], axes, eps, centre), single)


def _batch_norm(layer: Layer, x: Inputs) -> Array:
    ndim = x[0].ndim
    axis = 1 if ndim > 2 else ndim - 1
    eps = float(layer.attrs.get("eps", 1e-5))
    if layer.attrs.get("training", True):
        axes = tuple(index for index in range(ndim) if index != axis)
        return _affine(layer, _normalise(x[0], axes, eps), axis)
    mean, var = _first(layer, Role.RUNNING_MEAN), _first(layer, Role.RUNNING_VAR)
    if mean is None or var is None:
        raise ValueError(f"{layer.id} has no running statistics")
    centred = x[0] - _along(mean, axis, ndim)
    return _affine(layer, centred / np.sqrt(_along(var, axis, ndim) + eps), axis)


def _group_norm(layer: Layer, x: Inputs) -> Array:
    samples, channels = x[0].shape[:2]
    groups = channels if layer.op is Op.INSTANCE_NORM else int(layer.attrs.get("groups", 1))
    eps = float(layer.attrs.get("eps", 1e-5))
    normal = _normalise(x[0].reshape(samples, groups, -1), (2,), eps)
    return _affine(layer, normal.reshape(x[0].shape), 1)


def _lp_norm(layer: Layer, x: Inputs) -> Array:
    axis, order = int(layer.attrs.get("axis", -1)), int(layer.attrs.get("p", 2))
    norm = np.linalg.norm(x[0], ord=order, axis=axis, keepdims=True)
    result: Array = x[0] / np.maximum(norm, float(layer.attrs.get("eps", 1e-12)))
    return result


def _softmax(layer: Layer, x: Inputs) -> Array:
    axis = int(layer.attrs.get("axis", -1))
    shifted = x[0] - x[0].max(axis=axis, keepdims=True)
    if layer.op is Op.LOG_SOFTMAX:
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))
    weights = np.exp(shifted)
    result: Array = weights / weights.sum(axis=axis, keepdims=True)
    return result


def _split_heads(x: Array, heads: int) -> Array:
    return np.moveaxis(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def _attention(layer: Layer, x: Inputs) -> Array:
    """Attention over ``(batch, heads, time, width)``, or ``(batch, time, width)`` with heads."""
    query, key, value = x[:3]
    split = query.ndim == 3 and int(layer.attrs.get("heads") or 1) > 1
    if split:
        query, key, value = (_split_heads(item, layer.attrs["heads"]) for item in x[:3])
    scale = layer.attrs.get("scale")
    scale = 1.0 / sqrt(query.shape[-1]) if scale is None else scale
    logits = scale * query @ np.swapaxes(key, -1, -2)
    if len(x) > 3:
        logits = logits + x[3]
    for param in layer.params:
        logits = logits + _read(param)
    if layer.attrs.get("causal"):
        logits = np.where(np.tri(*logits.shape[-2:]) > 0, logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ value
    if not split:
        result: Array = mixed
        return result
    joined = np.moveaxis(mixed, -3, -2)
    return np.asarray(joined.reshape(*joined.shape[:-2], -1))


def _reduce(layer: Layer, x: Inputs) -> Array:
    axis = layer.attrs.get("axes", layer.attrs.get("axis"))
    axes = tuple(axis) if isinstance(axis, tuple | list) else axis
    kind = layer.attrs.get("kind", "mean")
    keep = bool(layer.attrs.get("keepdims", False))
    if kind == "l2":
        return np.asarray(np.sqrt((x[0] ** 2).sum(axis=axes, keepdims=keep)))
    if kind in ("var", "std"):
        spread = getattr(x[0], kind)(axis=axes, keepdims=keep, ddof=layer.attrs.get("ddof", 0))
        return np.asarray(spread)
    functions: dict[str, Callable[..., Any]] = {
        "mean": np.mean,
        "sum": np.sum,
        "max": np.max,
        "min": np.min,
        "prod": np.prod,
    }
    return np.asarray(functions[kind](x[0], axis=axes, keepdims=keep))


def _reshape(layer: Layer, x: Inputs) -> Array:
    """Every axis but the first from ``shape``; the batch keeps its size."""
    shape = layer.attrs.get("shape")
    return x[0] if shape is None else x[0].reshape(x[0].shape[0], *shape)


def _transpose(layer: Layer, x: Inputs) -> Array:
    return x[0].transpose(layer.attrs.get("perm", layer.attrs.get("axes")))


def _slice(layer: Layer, x: Inputs) -> Array:
    axis = int(layer.attrs["axis"])
    index: list[slice] = [slice(None)] * x[0].ndim
    index[axis] = slice(layer.attrs["start"], layer.attrs["stop"])
    result: Array = x[0][tuple(index)]
    return result


def _concat(layer: Layer, x: Inputs) -> Array:
    return np.concatenate(list(x), axis=int(layer.attrs.get("axis", 1)))


def _pixel_shuffle(layer: Layer, x: Inputs) -> Array:
    factor = int(layer.attrs["factor"])
    samples, channels, height, width = x[0].shape
    deep = channels // factor**2
    apart = x[0].reshape(samples, deep, factor, factor, height, width)
    return apart.transpose(0, 1, 4, 2, 5, 3).reshape(samples, deep, height * factor, width * factor)


def _resize(layer: Layer, x: Inputs) -> Array:
    factor, result = int(layer.attrs.get("factor", 2)), x[0]
    for axis in range(2, result.ndim):
        result = np.repeat(result, factor, axis=axis)
    return result


def _glu(layer: Layer, x: Inputs) -> Array:
    value, gate = np.split(x[0], 2, axis=int(layer.attrs.get("axis", -1)))
    return value * ELEMENTWISE[Op.SIGMOID](gate, {})


def _prelu(layer: Layer, x: Inputs) -> Array:
    slope = _first(layer, Role.SLOPE)
    if slope is None:
        slope = np.full(1, 0.25)
    return np.where(x[0] > 0, x[0], _along(slope, 1 if slope.size > 1 else -1, x[0].ndim) * x[0])


def _compare(layer: Layer, x: Inputs) -> Array:
    if layer.attrs.get("kind") == "IsNaN":
        return np.isnan(x[0])
    left, right = _operands(layer, x)
    kinds = {"greater": np.greater, "less": np.less, "equal": np.equal}
    kinds |= {"greater_equal": np.greater_equal, "less_equal": np.less_equal}
    return np.asarray(kinds[layer.attrs.get("kind", "greater")](left, right))


def _where(layer: Layer, x: Inputs) -> Array:
    operands = list(x)
    if "constant" in layer.attrs:
        position = int(layer.attrs.get("constant_position", 1))
        operands.insert(position, np.asarray(layer.attrs["constant"], dtype=np.float64))
    return np.where(operands[0], operands[1], operands[2])


def _constant(layer: Layer, x: Inputs) -> Array:
    if layer.params:
        return _read(layer.params[0])
    return np.asarray(layer.attrs["constant"], dtype=np.float64)


_FUNCTIONS: Mapping[Op, Callable[[Layer, Inputs], Array]] = {
    Op.LINEAR: _linear,
    Op.CONV: _conv,
    Op.CONV_TRANSPOSE: _conv,
    Op.BILINEAR: _bilinear,
    Op.EMBEDDING: _embedding,
    Op.ADD: _fold(np.add),
    Op.SUB: _fold(np.subtract),
    Op.MUL: _fold(np.multiply),
    Op.DIV: _fold(np.divide),
    Op.POW: _fold(np.power),
    Op.MAXIMUM: _fold(np.maximum),
    Op.MINIMUM: _fold(np.minimum),
    Op.MATMUL: _fold(np.matmul),
    Op.LAYER_NORM: _feature_norm,
    Op.RMS_NORM: _feature_norm,
    Op.BATCH_NORM: _batch_norm,
    Op.GROUP_NORM: _group_norm,
    Op.INSTANCE_NORM: _group_norm,
    Op.LP_NORM: _lp_norm,
    Op.SOFTMAX: _softmax,
    Op.LOG_SOFTMAX: _softmax,
    Op.ATTENTION: _attention,
    Op.REDUCE: _reduce,
    Op.RESHAPE: _reshape,
    Op.TRANSPOSE: _transpose,
    Op.SLICE: _slice,
    Op.CONCAT: _concat,
    Op.PIXEL_SHUFFLE: _pixel_shuffle,
    Op.RESIZE: _resize,
    Op.GLU: _glu,
    Op.PRELU: _prelu,
    Op.COMPARE: _compare,
    Op.WHERE: _where,
    Op.CONSTANT: _constant,
    Op.POOL: lambda layer, x: pool(x[0], layer.attrs),
    Op.OUTPUT: lambda layer, x: x[0],
}


def compute(layer: Layer, inputs: Inputs) -> tuple[Array, ...]:
    """Outputs of one layer for its inputs, in float64.

    Dropout passes values unchanged. Batch normalisation uses batch statistics unless the layer's
    attribute ``training`` is False.

    Raises:
        ValueError: the operator has no rule here (`Op.OTHER`), or its parameters have no values.
    """
    if layer.op is Op.SPLIT:
        axis, parts = int(layer.attrs.get("axis", -1)), int(layer.attrs["parts"])
        return tuple(np.split(inputs[0], parts, axis=axis))
    if layer.op in RECURRENT:
        return (recur(layer, inputs[0]),)
    if layer.op in ELEMENTWISE:
        return (np.asarray(ELEMENTWISE[layer.op](inputs[0], layer.attrs)),)
    if layer.op in _FUNCTIONS:
        return (_FUNCTIONS[layer.op](layer, inputs),)
    if layer.op in TRANSPARENT:
        return (inputs[0],)
    raise ValueError(f"no rule to compute {layer.op} ({layer.id})")


def evaluate(graph: LayerGraph, feeds: Mapping[str, Array]) -> dict[str, tuple[Array, ...]]:
    """Outputs of every layer, by layer id, for one value per `Op.INPUT` layer.

    Raises:
        ValueError: an input is missing, or a layer cannot be computed (see `compute`).
    """
    values: dict[str, tuple[Array, ...]] = {}
    for layer in graph.order:
        if layer.op is Op.INPUT:
            if layer.id not in feeds:
                raise ValueError(f"no value for input {layer.id!r}")
            values[layer.id] = (np.asarray(feeds[layer.id], dtype=np.float64),)
            continue
        inputs = [values[edge.source][edge.output] for edge in graph.inputs(layer.id)]
        values[layer.id] = compute(layer, inputs)
    return values
