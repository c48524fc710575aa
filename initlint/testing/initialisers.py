"""Random weights for hand-made networks: each takes a generator and a canonical shape."""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from initlint.model.tensor import Array


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    kernel = prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def normal(rng: np.random.Generator, *shape: int, std: float = 1.0) -> Array:
    """Independent draws from N(0, std^2)."""
    return (rng.standard_normal(shape) * std).astype(np.float32)


def uniform(rng: np.random.Generator, *shape: int, bound: float = 1.0) -> Array:
    """Independent draws from U(-bound, bound)."""
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def he_normal(rng: np.random.Generator, *shape: int, gain: float = sqrt(2.0)) -> Array:
    """N(0, gain^2 / fan_in) (He et al. 2015, equation 10); gain sqrt(2) is ReLU's."""
    return normal(rng, *shape, std=gain / sqrt(_fans(shape)[0]))


def he_uniform(rng: np.random.Generator, *shape: int, gain: float = sqrt(2.0)) -> Array:
    """U(-b, b) with variance gain^2 / fan_in."""
    return uniform(rng, *shape, bound=gain * sqrt(3.0 / _fans(shape)[0]))


def lecun_normal(rng: np.random.Generator, *shape: int) -> Array:
    """N(0, 1 / fan_in) (LeCun et al. 1998)."""
    return he_normal(rng, *shape, gain=1.0)


def xavier_normal(rng: np.random.Generator, *shape: int, gain: float = 1.0) -> Array:
    """N(0, 2 gain^2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal(rng, *shape, std=gain * sqrt(2.0 / sum(_fans(shape))))


def xavier_uniform(rng: np.random.Generator, *shape: int, gain: float = 1.0) -> Array:
    """U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, equation 16)."""
    return uniform(rng, *shape, bound=gain * sqrt(6.0 / sum(_fans(shape))))


def torch_default(rng: np.random.Generator, *shape: int) -> Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what torch.nn.Linear and Conv draw."""
    return uniform(rng, *shape, bound=1.0 / sqrt(_fans(shape)[0]))


def orthogonal(rng: np.random.Generator, *shape: int, gain: float = 1.0) -> Array:
    """A Haar-distributed (semi-)orthogonal matrix times ``gain`` (Saxe et al. 2014)."""
    rows, columns = shape[0], prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    matrix = q if rows >= columns else q.T
    return (gain * matrix).reshape(shape).astype(np.float32)


def zeros(*shape: int) -> Array:
    """All zeros."""
    return np.zeros(shape, dtype=np.float32)


def ones(*shape: int) -> Array:
    """All ones."""
    return np.ones(shape, dtype=np.float32)


def full(value: float, *shape: int) -> Array:
    """One repeated value."""
    return np.full(shape, value, dtype=np.float32)
