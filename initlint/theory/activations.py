"""Gaussian moments of every element-wise function: what a layer's activation does to a signal.

For a pre-activation z ~ N(mean, q - mean²) this module gives E[φ], E[φ²], E[φ'²], the cosine
between two outputs whose inputs have a given cosine, and the gains derived from them
(Poole et al. 2016, Schoenholz et al. 2017). Positively homogeneous functions have closed forms;
the others are integrated by Gauss-Legendre panels split at their kinks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from initlint.model.op import Op
from initlint.model.record import record
from initlint.theory.functions import Activation, activation
from initlint.theory.gaussian import HERMITE_ORDER, RANGE, hermite_basis, nodes

__all__ = [
    "Activation",
    "ActivationMoments",
    "activation",
    "backward_gain",
    "correlation_map",
    "derivative_moment",
    "first_moment",
    "forward_gain",
    "kurtosis",
    "moments",
    "second_moment",
    "slope",
    "standardised_gain",
]

LOG_RANGE = 18.0
"""Outside |ln q| <= 18 the moments are continued as power laws: there every function of the
vocabulary is its own asymptote (linear, constant, or a power) to better than 1e-3."""


@record(frozen=True, slots=True)
class ActivationMoments:
    """Moments of y = φ(z), z ~ N(mean, q - mean²).

    Attributes:
        log_second: ln E[y²].
        mean: E[y] / sqrt(E[y²]).
        log_derivative: ln E[φ'(z)²].
        derivative_mean: E[φ'(z)]² / E[φ'(z)²].
        linear: correlation between y and z, both centred.
        kurtosis: κ = E[y⁴] / E[y²]² - 1.
        spectrum: Hermite energies a_k² / E[y²] for k = 0 … K, and the remainder.
    """

    log_second: float
    mean: float
    log_derivative: float
    derivative_mean: float
    linear: float
    kurtosis: float
    spectrum: tuple[float, ...]

    def cosine(self, correlation: float) -> float:
        """Cosine of two outputs whose centred inputs have this correlation."""
        c = min(max(correlation, -1.0), 1.0)
        total, power = 0.0, 1.0
        for energy in self.spectrum:
            total += energy * power
            power *= c
        return min(max(total, -1.0), 1.0)


def _homogeneous_moments(left: float, right: float, log_q: float) -> ActivationMoments:
    """Closed form for φ(z) = right·z⁺ + left·z⁻ and a centred z.

    φ(z) = s z + t |z| with s, t half the sum and difference of the slopes, so E[φ²] =
    (s² + t²) q, and the cosine is s² c + t² k(c) over s² + t², where k(c) =
    2/π (sqrt(1-c²) + c asin c) is the cosine map of |z| (Cho & Saul 2009).
    """
    s, t = 0.5 * (right + left), 0.5 * (right - left)
    second = s * s + t * t
    if second == 0:
        return ActivationMoments(-math.inf, 0.0, -math.inf, 0.0, 0.0, 0.0, ())
    fourth = 3 * 0.5 * (right**4 + left**4)
    return ActivationMoments(
        log_second=log_q + math.log(second),
        mean=t * math.sqrt(2 / math.pi) / math.sqrt(second),
        log_derivative=math.log(second),
        derivative_mean=s * s / second,
        linear=s / math.sqrt(second - t * t * 2 / math.pi),
        kurtosis=fourth / (second * second) - 1,
        spectrum=(),
    )


@record(frozen=True, slots=True)
class _Homogeneous(ActivationMoments):
    """Moments of a piecewise linear function: its cosine map has a closed form."""

    odd: float = 1.0

    def cosine(self, correlation: float) -> float:
        c = min(max(correlation, -1.0), 1.0)
        even = 2 / math.pi * (math.sqrt(max(1 - c * c, 0.0)) + c * math.asin(c))
        return self.odd * c + (1 - self.odd) * even


@record(frozen=True, slots=True)
class _Wave(ActivationMoments):
    """Moments of sin(z): E[sin a sin b] = e^-q sinh(qc), exact at any q."""

    log_q: float = 0.0

    def cosine(self, correlation: float) -> float:
        q = math.exp(min(self.log_q, 50.0))
        c = min(max(correlation, -1.0), 1.0)
        upper = math.exp(-q * (1 - c)) - math.exp(-q * (1 + c))
        return upper / -math.expm1(-2 * q) if q > 0 else c


def _wave_moments(log_q: float) -> ActivationMoments:
    q = math.exp(min(log_q, 50.0))
    second = -0.5 * math.expm1(-2 * q)
    derivative = 1 - second
    return _Wave(
        log_second=math.log(second) if q > 1e-300 else log_q,
        mean=0.0,
        log_derivative=math.log(derivative),
        derivative_mean=math.exp(-q) / derivative,
        linear=min(math.sqrt(q * math.exp(-q) / second), 1.0) if q > 1e-300 else 1.0,
        kurtosis=max((3 - 4 * math.exp(-2 * q) + math.exp(-8 * q)) / 8 / second**2 - 1, 0.0)
        if q > 1e-3
        else 2.0,
        spectrum=(),
        log_q=log_q,
    )


def _integrate(function: Activation, scale: float, mean: float) -> ActivationMoments | None:
    """Moments by quadrature for z = mean + scale·x, x ~ N(0, 1)."""
    centre = round(min(max(-mean / scale, -9.0), 9.0), 9)
    breaks = tuple(
        round((kink - mean) / scale, 9) for kink in function.kinks if abs(kink - mean) < 9.0 * scale
    )
    x, weight = nodes(centre, breaks)
    z = mean + scale * x
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        y = function.function(z)
        slope = function.derivative(z)
        first, second = float(weight @ y), float(weight @ (y * y))
        derivative = float(weight @ (slope * slope))
        fourth = float(weight @ (y * y) ** 2)
    if not (math.isfinite(second) and math.isfinite(derivative)):
        return None
    if second <= 0:
        return ActivationMoments(-math.inf, 0.0, _log(derivative), 0.0, 0.0, 0.0, ())
    coefficients = hermite_basis(centre, breaks) @ y
    energies = coefficients**2 / second
    rest = max(1.0 - float(energies.sum()), 0.0)
    variance = max(second - first * first, 1e-300)
    return ActivationMoments(
        log_second=math.log(second),
        mean=first / math.sqrt(second),
        log_derivative=_log(derivative),
        derivative_mean=float(weight @ slope) ** 2 / derivative if derivative > 0 else 0.0,
        linear=min(max(float(coefficients[1]) / math.sqrt(variance), -1.0), 1.0),
        kurtosis=fourth / (second * second) - 1 if math.isfinite(fourth) else math.inf,
        spectrum=(*(float(energy) for energy in energies), rest),
    )


def _off_centre(left: float, right: float, mean: float) -> ActivationMoments:
    """Closed form for φ(z) = right·z⁺ + left·z⁻ and z ~ N(mean, 1 - mean²).

    With z = s(x + h), x ~ N(0, 1), φ = s (right·(x + h)⁺ - left·(-x - h)⁺), and the moments of
    (x + h)⁺ are those of a truncated normal. φ'' is a jump of the slope at x = -h, so that the
    Hermite coefficients from the second on are (right - left) s n(h) he_{k-2}(-h)/√(k(k-1)).
    Beyond `gaussian.RANGE` there is no mass, as in the quadrature of other functions.
    """
    s = math.sqrt(1 - mean * mean)
    h = mean / s
    density = math.exp(-0.5 * h * h) / math.sqrt(2 * math.pi) if abs(h) < RANGE else 0.0
    above = _rectified(h, density)
    below = _rectified(-h, density)
    first = s * (right * above[1] - left * below[1])
    second = s * s * (right * right * above[2] + left * left * below[2])
    derivative = right * right * above[0] + left * left * below[0]
    if second <= 0:
        return ActivationMoments(-math.inf, 0.0, _log(derivative), 0.0, 0.0, 0.0, ())
    fourth = s**4 * (right**4 * above[4] + left**4 * below[4])
    jump = (right - left) * s * density
    linear = s * (right * above[0] + left * below[0])
    coefficients = [first, linear]
    before, current = 0.0, 1.0
    for k in range(2, HERMITE_ORDER + 1):
        coefficients.append(jump * current / math.sqrt(k * (k - 1)))
        step = (-h * current - math.sqrt(k - 2) * before) / math.sqrt(k - 1)
        before, current = current, step
    energies = [coefficient * coefficient / second for coefficient in coefficients]
    variance = max(second - first * first, 1e-300)
    slope = right * above[0] + left * below[0]
    return ActivationMoments(
        log_second=math.log(second),
        mean=first / math.sqrt(second),
        log_derivative=_log(derivative),
        derivative_mean=slope * slope / derivative if derivative > 0 else 0.0,
        linear=min(max(linear / math.sqrt(variance), -1.0), 1.0),
        kurtosis=fourth / (second * second) - 1,
        spectrum=(*energies, max(1.0 - sum(energies), 0.0)),
    )


def _rectified(h: float, density: float) -> tuple[float, float, float, float, float]:
    """P(x > -h) and E[((x + h)⁺)^k] for k = 1 … 4, x ~ N(0, 1) with this density at h."""
    if h <= -RANGE:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    share = 0.5 * math.erfc(-h / math.sqrt(2))
    square = h * h
    return (
        share,
        h * share + density,
        (square + 1) * share + h * density,
        (square + 3) * h * share + (square + 2) * density,
        (square * (square + 6) + 3) * share + h * (square + 5) * density,
    )


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


@lru_cache(maxsize=20_000)
def _moments(function: Activation, log_q: float, mean: float) -> ActivationMoments | None:
    """`moments` at rounded arguments; ``mean`` is the mean in units of the rms."""
    if function.slopes is not None and mean == 0:
        left, right = function.slopes
        plain = _homogeneous_moments(left, right, log_q)
        s, t = 0.5 * (right + left), 0.5 * (right - left)
        odd = s * s / (s * s + t * t) if s or t else 1.0
        return _Homogeneous(
            plain.log_second,
            plain.mean,
            plain.log_derivative,
            plain.derivative_mean,
            plain.linear,
            plain.kurtosis,
            (),
            odd,
        )
    if function.frequency == 1.0 and mean == 0:
        return _wave_moments(log_q)
    if function.slopes is not None:
        return _shift(_off_centre(*function.slopes, mean), log_q, 0.0)
    if abs(log_q) <= LOG_RANGE:
        rms = math.exp(0.5 * log_q)
        return _integrate(function, rms * math.sqrt(1 - mean * mean), rms * mean)
    edge = math.copysign(LOG_RANGE, log_q)
    inner = _moments(function, edge - math.copysign(1.0, log_q), mean)
    outer = _moments(function, edge, mean)
    if inner is None or outer is None or not math.isfinite(outer.log_second):
        return outer
    beyond = abs(log_q) - LOG_RANGE
    return _shift(
        outer,
        beyond * (outer.log_second - inner.log_second),
        beyond * (outer.log_derivative - inner.log_derivative),
    )


def _shift(moments: ActivationMoments, second: float, derivative: float) -> ActivationMoments:
    return ActivationMoments(
        moments.log_second + second,
        moments.mean,
        moments.log_derivative + (0.0 if math.isnan(derivative) else derivative),
        moments.derivative_mean,
        moments.linear,
        moments.kurtosis,
        moments.spectrum,
    )


def moments(function: Activation, log_q: float, mean: float = 0.0) -> ActivationMoments | None:
    """All moments of φ(z) for z with ln E[z²] = ``log_q`` and mean ``mean``·rms.

    None where they do not exist in double precision. A signal that is exactly zero
    (``log_q = -inf``) gives φ(0) and φ'(0).
    """
    if math.isnan(log_q) or math.isnan(mean):
        return None
    if log_q == -math.inf:
        return _at_zero(function)
    if log_q == math.inf:
        return None
    share = min(max(round(mean, 6), -0.999999), 0.999999)
    return _moments(function, round(log_q, 6), share if abs(share) > 1e-3 else 0.0)


def _at_zero(function: Activation) -> ActivationMoments:
    origin = np.zeros(1)
    y = float(function.function(origin)[0])
    slope = float(function.derivative(origin)[0])
    second = _log(y * y)
    return ActivationMoments(
        second,
        math.copysign(1.0, y) if y else 0.0,
        _log(slope * slope),
        1.0 if slope else 0.0,
        0.0,
        0.0,
        (1.0,) if y else (),
    )


def _required(op: Op, attrs: Mapping[str, Any] | None) -> Activation:
    found = activation(op, attrs)
    if found is None:
        raise ValueError(f"no moments are known for the operator {op}")
    return found


def _at(op: Op, attrs: Mapping[str, Any] | None, q: float, mean: float) -> ActivationMoments:
    if q <= 0:
        raise ValueError("q is a second moment and must be positive")
    found = moments(_required(op, attrs), math.log(q), mean / math.sqrt(q))
    if found is None:
        raise ValueError(f"the moments of {op} at q = {q:g} exceed double precision")
    return found


def second_moment(
    op: Op, attrs: Mapping[str, Any] | None = None, q: float = 1.0, mean: float = 0.0
) -> float:
    """E[φ(z)²] for z ~ N(mean, q - mean²).

    Raises:
        ValueError: the operator is not an element-wise function, or q is not positive.
    """
    return math.exp(_at(op, attrs, q, mean).log_second)


def first_moment(
    op: Op, attrs: Mapping[str, Any] | None = None, q: float = 1.0, mean: float = 0.0
) -> float:
    """E[φ(z)] for z ~ N(mean, q - mean²). Raises as `second_moment`."""
    found = _at(op, attrs, q, mean)
    return found.mean * math.exp(0.5 * found.log_second)


def derivative_moment(
    op: Op, attrs: Mapping[str, Any] | None = None, q: float = 1.0, mean: float = 0.0
) -> float:
    """E[φ'(z)²] for z ~ N(mean, q - mean²). Raises as `second_moment`."""
    return math.exp(_at(op, attrs, q, mean).log_derivative)


def correlation_map(
    op: Op, attrs: Mapping[str, Any] | None = None, c: float = 0.0, q: float = 1.0
) -> float:
    """Cosine between φ(z₁) and φ(z₂), centred inputs of cosine c. Raises as `second_moment`."""
    return _at(op, attrs, q, 0.0).cosine(c)


def forward_gain(op: Op, attrs: Mapping[str, Any] | None = None) -> float:
    """g_f = 1/sqrt(E[φ²]) at q = 1: with std = g_f/sqrt(fan_in) a layer keeps q = 1."""
    return 1 / math.sqrt(second_moment(op, attrs))


def backward_gain(op: Op, attrs: Mapping[str, Any] | None = None) -> float:
    """g_b = 1/sqrt(E[φ'²]) at q = 1: with std = g_b/sqrt(fan_out) a layer keeps gradients."""
    return 1 / math.sqrt(derivative_moment(op, attrs))


def standardised_gain(op: Op, attrs: Mapping[str, Any] | None = None) -> float:
    """1/Std[φ] at q = 1: the gain of weight-standardised layers (Brock et al. 2021, NFNet)."""
    found = _at(op, attrs, 1.0, 0.0)
    return 1 / math.sqrt(math.exp(found.log_second) * (1 - found.mean**2))


def slope(op: Op, attrs: Mapping[str, Any] | None = None, q: float = 1.0) -> float:
    """λ = d ln E[φ²] / d ln q: above 1, an error of scale grows from layer to layer."""
    step = 1e-2
    up = _at(op, attrs, q * math.exp(step), 0.0).log_second
    down = _at(op, attrs, q * math.exp(-step), 0.0).log_second
    return (up - down) / (2 * step)


def kurtosis(op: Op, attrs: Mapping[str, Any] | None = None, q: float = 1.0) -> float:
    """κ = E[φ⁴]/E[φ²]² - 1: scatter of ln q over draws of the weights is κ/width per layer."""
    return _at(op, attrs, q, 0.0).kurtosis
