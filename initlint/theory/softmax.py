"""Softmax of random logits: how peaked it is, and how much gradient it lets through."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

DRAWS = 1 << 15
"""Logits drawn per estimate: at least 16 rows; relative error of E[Σ a²] a few per cent, which is
a hundredth of a decade of rms."""

MAX_KEYS = 4096
"""Keys drawn per row; longer rows scale as 1/T, which holds away from the frozen phase."""

GRID = 2.0
"""Grid points per unit of ln s²; between them ln S and ln K are interpolated."""

FLAT = 1e-3
"""Below this variance of the logits the softmax is uniform to 0.1 %: closed form."""


@lru_cache(maxsize=512)
def _sample(step: int, keys: int) -> tuple[float, float]:
    """Ln E[Σ a²] and ln E[Σ a² - 2 Σ a³ + (Σ a²)²] at ln s² = step / `GRID`."""
    deviation = math.exp(0.5 * step / GRID)
    drawn = min(keys, MAX_KEYS)
    rng = np.random.default_rng(0)
    z = deviation * rng.standard_normal((max(DRAWS // drawn, 16), drawn))
    a = np.exp(z - z.max(axis=1, keepdims=True))
    a /= a.sum(axis=1, keepdims=True)
    squares = (a * a).sum(axis=1)
    response = squares - 2 * (a**3).sum(axis=1) + squares**2
    scale = math.log(drawn / keys)
    return (
        math.log(float(squares.mean())) + scale,
        math.log(max(float(response.mean()), 1e-300)) + scale,
    )


def concentration(variance: float, keys: int) -> tuple[float, float]:
    """S = E[Σ a²] and K = E[Σ a² - 2 Σ a³ + (Σ a²)²] for softmax weights a over ``keys`` entries.

    S is 1/T for equal logits and 1 for a frozen softmax; K is the squared Frobenius norm of the
    softmax's Jacobian.

    Args:
        variance: variance s² of the logits of one row.
        keys: T.
    """
    if keys <= 1:
        return 1.0, 0.0
    if variance < FLAT:
        return (1 + variance) / keys, (1 - 1 / keys) / keys
    position = GRID * math.log(min(variance, 1e8))
    low = math.floor(position)
    (s0, k0), (s1, k1) = _sample(low, keys), _sample(low + 1, keys)
    part = position - low
    return math.exp(s0 + part * (s1 - s0)), math.exp(k0 + part * (k1 - k0))


def causal(concentrated: float) -> float:
    """Mean over rows of E[Σ a²] when row t sees t keys.

    Row t has min(1, S T/t); the mean over t = 1 … T is S (1 + ln 1/S), H_T/T for equal logits.
    """
    return min(concentrated * (1 - math.log(max(concentrated, 1e-300))), 1.0)
