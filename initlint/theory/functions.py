"""The element-wise functions of the vocabulary, with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from initlint.model.op import Op
from initlint.theory.gaussian import Array, erf, normal_density, normal_distribution, sigmoid

Function = Callable[[Array], Array]

_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


@dataclass(frozen=True, slots=True)
class Activation:
    """An element-wise function, its derivative and what is known in closed form.

    Attributes:
        name: for people.
        function: φ.
        derivative: φ'.
        kinks: arguments where φ or φ' jumps (0 is always assumed).
        slopes: (left, right) slopes when φ is piecewise linear with its only kink at 0.
        frequency: ω when φ is sin(ωz); a wave has no useful Hermite series once q > 10.
    """

    name: str
    function: Function
    derivative: Function
    kinks: tuple[float, ...] = ()
    slopes: tuple[float, float] | None = None
    frequency: float | None = None


def _piecewise(name: str, left: float, right: float) -> Activation:
    return Activation(
        name,
        lambda z: np.where(z > 0, right * z, left * z),
        lambda z: np.where(z > 0, right, left),
        slopes=(left, right),
    )


def _elu(alpha: float, scale: float, inner: float, name: str) -> Activation:
    def function(z: Array) -> Array:
        return scale * np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0) / inner))

    def derivative(z: Array) -> Array:
        return scale * np.where(z > 0, 1.0, alpha / inner * np.exp(np.minimum(z, 0) / inner))

    return Activation(name, function, derivative)


def _gelu_tanh() -> Activation:
    scale = math.sqrt(2 / math.pi)

    def function(z: Array) -> Array:
        return np.asarray(0.5 * z * (1 + np.tanh(scale * (z + 0.044715 * z**3))))

    def derivative(z: Array) -> Array:
        t = np.tanh(scale * (z + 0.044715 * z**3))
        inner = scale * (1 + 3 * 0.044715 * z * z)
        return np.asarray(0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner)

    return Activation("gelu (tanh)", function, derivative)


def _gelu_erf() -> Activation:
    return Activation(
        "gelu",
        lambda z: z * normal_distribution(z),
        lambda z: normal_distribution(z) + z * normal_density(z),
    )


def _swish(beta: float, name: str) -> Activation:
    def derivative(z: Array) -> Array:
        s = sigmoid(beta * z)
        return s * (1 + beta * z * (1 - s))

    return Activation(name, lambda z: z * sigmoid(beta * z), derivative)


def _mish() -> Activation:
    def derivative(z: Array) -> Array:
        t = np.tanh(np.logaddexp(0, z))
        return np.asarray(t + z * (1 - t * t) * sigmoid(z))

    return Activation("mish", lambda z: z * np.tanh(np.logaddexp(0, z)), derivative)


def _hard_swish() -> Activation:
    def derivative(z: Array) -> Array:
        return np.where(z <= -3, 0.0, np.where(z >= 3, 1.0, (2 * z + 3) / 6))

    return Activation("hard_swish", lambda z: z * np.clip(z + 3, 0, 6) / 6, derivative, (-3.0, 3.0))


def _clip(low: float, high: float, name: str, slope: float = 1.0, shift: float = 0.0) -> Activation:
    kinks = tuple((bound - shift) / slope for bound in (low, high) if math.isfinite(bound))
    return Activation(
        name,
        lambda z: np.clip(slope * z + shift, low, high),
        lambda z: np.where((slope * z + shift > low) & (slope * z + shift < high), slope, 0.0),
        kinks,
    )


def _soft_shrink(bound: float) -> Activation:
    return Activation(
        "softshrink",
        lambda z: np.sign(z) * np.maximum(np.abs(z) - bound, 0),
        lambda z: (np.abs(z) > bound).astype(np.float64),
        (-bound, bound),
    )


def _hard_shrink(bound: float) -> Activation:
    return Activation(
        "hardshrink",
        lambda z: np.where(np.abs(z) > bound, z, 0.0),
        lambda z: (np.abs(z) > bound).astype(np.float64),
        (-bound, bound),
    )


def _thresholded(alpha: float) -> Activation:
    return Activation(
        "thresholded_relu",
        lambda z: np.where(z > alpha, z, 0.0),
        lambda z: (z > alpha).astype(np.float64),
        (alpha,),
    )


def _softplus(beta: float) -> Activation:
    return Activation(
        "softplus", lambda z: np.logaddexp(0, beta * z) / beta, lambda z: sigmoid(beta * z)
    )


def _snake(alpha: float) -> Activation:
    return Activation(
        "snake",
        lambda z: z + np.sin(alpha * z) ** 2 / alpha,
        lambda z: 1 + np.sin(2 * alpha * z),
    )


def _number(attrs: Mapping[str, Any], name: str, default: float) -> float:
    value = attrs.get(name)
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return number if math.isfinite(number) else default


_PLAIN: dict[Op, Callable[[], Activation]] = {
    Op.IDENTITY: lambda: _piecewise("linear", 1.0, 1.0),
    Op.RELU: lambda: _piecewise("relu", 0.0, 1.0),
    Op.ABS: lambda: _piecewise("abs", -1.0, 1.0),
    Op.NEG: lambda: _piecewise("negative", -1.0, -1.0),
    Op.RELU6: lambda: _clip(0.0, 6.0, "relu6"),
    Op.MISH: _mish,
    Op.HARD_SWISH: _hard_swish,
    Op.SIGMOID: lambda: Activation(
        "sigmoid", sigmoid, lambda z: sigmoid(z) * sigmoid(-np.asarray(z))
    ),
    Op.LOG_SIGMOID: lambda: Activation(
        "log_sigmoid", lambda z: -np.logaddexp(0, -z), lambda z: sigmoid(-z)
    ),
    Op.TANH: lambda: Activation("tanh", np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    Op.SOFTSIGN: lambda: Activation(
        "softsign", lambda z: z / (1 + np.abs(z)), lambda z: (1 + np.abs(z)) ** -2
    ),
    Op.ERF: lambda: Activation(
        "erf", erf, lambda z: 2 / math.sqrt(math.pi) * np.exp(-np.minimum(z * z, 700))
    ),
    Op.ATAN: lambda: Activation("atan", np.arctan, lambda z: 1 / (1 + z * z)),
    Op.SIN: lambda: Activation("sin", np.sin, np.cos, frequency=1.0),
    Op.COS: lambda: Activation("cos", np.cos, lambda z: -np.sin(z)),
    Op.GAUSSIAN: lambda: Activation(
        "gaussian",
        lambda z: np.exp(-np.minimum(z * z, 700)),
        lambda z: -2 * z * np.exp(-np.minimum(z * z, 700)),
    ),
    Op.SQUARED_RELU: lambda: Activation(
        "squared_relu", lambda z: np.maximum(z, 0) ** 2, lambda z: 2 * np.maximum(z, 0)
    ),
    Op.SQUARE: lambda: Activation("square", lambda z: z * z, lambda z: 2 * z),
}


@lru_cache(maxsize=256)
def _build(op: Op, a: float, b: float, word: str) -> Activation | None:
    if op in (Op.LEAKY_RELU, Op.PRELU):
        return _piecewise("leaky_relu", a, 1.0)
    if op is Op.GELU:
        return _gelu_tanh() if word == "tanh" else _gelu_erf()
    if op in (Op.SILU, Op.QUICK_GELU):
        return _swish(a, str(op))
    if op is Op.ELU:
        return _elu(a, 1.0, 1.0, "elu")
    if op is Op.CELU:
        return _elu(a, 1.0, a, "celu") if a > 0 else None
    if op is Op.SELU:
        return _elu(_SELU_ALPHA, _SELU_SCALE, 1.0, "selu")
    if op is Op.SOFTPLUS:
        return _softplus(a) if a > 0 else None
    if op is Op.SNAKE:
        return _snake(a) if a > 0 else None
    if op is Op.SOFTSHRINK:
        return _soft_shrink(a)
    if op is Op.HARDSHRINK:
        return _hard_shrink(a)
    if op is Op.THRESHOLDED_RELU:
        return _thresholded(a)
    if op in (Op.HARD_TANH, Op.CLIP):
        return _clip(a, b, str(op)) if a < b else None
    if op is Op.HARD_SIGMOID:
        return _clip(0.0, 1.0, "hard_sigmoid", a, b) if a > 0 else None
    make = _PLAIN.get(op)
    return make() if make else None


_NAMES: dict[Op, tuple[tuple[str, ...], float, tuple[str, ...], float]] = {
    Op.LEAKY_RELU: (("negative_slope", "alpha"), 0.01, (), 0.0),
    Op.PRELU: (("negative_slope",), 0.25, (), 0.0),
    Op.ELU: (("alpha",), 1.0, (), 0.0),
    Op.CELU: (("alpha",), 1.0, (), 0.0),
    Op.SILU: (("beta",), 1.0, (), 0.0),
    Op.QUICK_GELU: (("alpha",), 1.702, (), 0.0),
    Op.SOFTPLUS: (("beta",), 1.0, (), 0.0),
    Op.SNAKE: (("alpha",), 1.0, (), 0.0),
    Op.SOFTSHRINK: (("lambd", "bound"), 0.5, (), 0.0),
    Op.HARDSHRINK: (("lambd", "bound"), 0.5, (), 0.0),
    Op.THRESHOLDED_RELU: (("alpha", "threshold"), 1.0, (), 0.0),
    Op.HARD_TANH: (("min", "min_val"), -1.0, ("max", "max_val"), 1.0),
    Op.CLIP: (("min", "min_val"), -math.inf, ("max", "max_val"), math.inf),
    Op.HARD_SIGMOID: (("alpha", "slope"), 1 / 6, ("beta", "offset"), 0.5),
}


def activation(op: Op, attrs: Mapping[str, Any] | None = None) -> Activation | None:
    """The element-wise function of an operator; None when theory does not know it.

    Attributes that are missing take the framework's default (PyTorch's where they differ: a
    PReLU starts at 0.25, HardSigmoid at z/6 + 1/2).
    """
    attrs = attrs or {}
    first, a, second, b = _NAMES.get(op, ((), 0.0, (), 0.0))
    for name in reversed(first):
        a = _number(attrs, name, a)
    for name in reversed(second):
        b = _number(attrs, name, b)
    word = str(attrs.get("approximate", "")) if op is Op.GELU else ""
    return _build(op, a, b, word)
