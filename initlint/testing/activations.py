"""The element-wise functions of the vocabulary in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import erf as _scalar_erf
from math import sqrt
from typing import Any

import numpy as np

from initlint.model.op import Op
from initlint.model.tensor import Array

Attrs = Mapping[str, Any]

erf: Callable[[Array], Array] = np.vectorize(_scalar_erf, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    half: Array = 0.5 * (1.0 + np.tanh(0.5 * x))
    return half


def softplus(x: Array) -> Array:
    """ln(1 + exp(x)) without overflow."""
    result: Array = np.logaddexp(0.0, x)
    return result


def _gelu(x: Array, attrs: Attrs) -> Array:
    if attrs.get("approximate") == "tanh":
        inner = sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)
        return 0.5 * x * (1.0 + np.tanh(inner))
    return 0.5 * x * (1.0 + erf(x / sqrt(2.0)))


def _elu(x: Array, attrs: Attrs) -> Array:
    return np.where(x > 0, x, attrs.get("alpha", 1.0) * np.expm1(np.minimum(x, 0)))


def _celu(x: Array, attrs: Attrs) -> Array:
    alpha = attrs.get("alpha", 1.0)
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _selu(x: Array, attrs: Attrs) -> Array:
    alpha = attrs.get("alpha", 1.6732632423543772)
    gamma = attrs.get("gamma", 1.0507009873554805)
    result: Array = gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
    return result


def _hard_sigmoid(x: Array, attrs: Attrs) -> Array:
    result: Array = np.clip(attrs.get("alpha", 1 / 6) * x + attrs.get("beta", 0.5), 0.0, 1.0)
    return result


def _clip(x: Array, attrs: Attrs, low: float | None, high: float | None) -> Array:
    low, high = attrs.get("min", low), attrs.get("max", high)
    if low is not None:
        x = np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _softshrink(x: Array, attrs: Attrs) -> Array:
    result: Array = np.sign(x) * np.maximum(np.abs(x) - attrs.get("lambd", 0.5), 0.0)
    return result


def _snake(x: Array, attrs: Attrs) -> Array:
    alpha = attrs.get("alpha", 1.0)
    result: Array = x + np.sin(alpha * x) ** 2 / alpha
    return result


ELEMENTWISE: Mapping[Op, Callable[[Array, Attrs], Array]] = {
    Op.RELU: lambda x, a: np.maximum(x, 0.0),
    Op.LEAKY_RELU: lambda x, a: np.where(x > 0, x, a.get("negative_slope", 0.01) * x),
    Op.RELU6: lambda x, a: np.clip(x, 0.0, 6.0),
    Op.THRESHOLDED_RELU: lambda x, a: np.where(x > a.get("alpha", 1.0), x, 0.0),
    Op.ELU: _elu,
    Op.CELU: _celu,
    Op.SELU: _selu,
    Op.GELU: _gelu,
    Op.QUICK_GELU: lambda x, a: x * sigmoid(a.get("alpha", 1.702) * x),
    Op.SILU: lambda x, a: x * sigmoid(x),
    Op.MISH: lambda x, a: x * np.tanh(softplus(x)),
    Op.HARD_SWISH: lambda x, a: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    Op.SOFTPLUS: lambda x, a: softplus(a.get("beta", 1.0) * x) / a.get("beta", 1.0),
    Op.SIGMOID: lambda x, a: sigmoid(x),
    Op.HARD_SIGMOID: _hard_sigmoid,
    Op.LOG_SIGMOID: lambda x, a: -softplus(-x),
    Op.TANH: lambda x, a: np.tanh(x),
    Op.HARD_TANH: lambda x, a: _clip(x, a, -1.0, 1.0),
    Op.SOFTSIGN: lambda x, a: x / (1.0 + np.abs(x)),
    Op.ERF: lambda x, a: erf(x),
    Op.ATAN: lambda x, a: np.arctan(x),
    Op.SIN: lambda x, a: np.sin(x),
    Op.COS: lambda x, a: np.cos(x),
    Op.SOFTSHRINK: _softshrink,
    Op.HARDSHRINK: lambda x, a: np.where(np.abs(x) > a.get("lambd", 0.5), x, 0.0),
    Op.GAUSSIAN: lambda x, a: np.exp(-(x**2)),
    Op.SNAKE: _snake,
    Op.SQUARED_RELU: lambda x, a: np.maximum(x, 0.0) ** 2,
    Op.SQUARE: lambda x, a: x * x,
    Op.SQRT: lambda x, a: np.sqrt(x),
    Op.RECIPROCAL: lambda x, a: 1.0 / x,
    Op.RECIPROCAL_SQRT: lambda x, a: 1.0 / np.sqrt(x),
    Op.EXP: lambda x, a: np.exp(x),
    Op.LOG: lambda x, a: np.log(x),
    Op.ABS: lambda x, a: np.abs(x),
    Op.NEG: lambda x, a: -x,
    Op.CLIP: lambda x, a: _clip(x, a, None, None),
}
"""Functions of one input. Settings come from the layer's attributes."""
