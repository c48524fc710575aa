"""Random and structured weight arrays: the distributions that initialisation schemes draw from.

NumPy alone, seeded by the generator given, in canonical orientation ``(out, in/groups, *kernel)``.
Everything is drawn in float64 and returned so; rounding to the stored type comes last.
"""

from __future__ import annotations

from math import ceil, erf, exp, pi, prod, sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Shape = tuple[int, ...]


def normal(shape: Shape, std: float, rng: np.random.Generator, mean: float = 0.0) -> Array:
    """N(mean, std²)."""
    return rng.standard_normal(shape) * std + mean


def uniform(shape: Shape, bound: float, rng: np.random.Generator) -> Array:
    """U(-bound, bound)."""
    return rng.uniform(-bound, bound, shape)


def truncated_std(cut: float) -> float:
    """Standard deviation of a unit normal cut at ±``cut``: 0.87962566103423978 for 2.

    Var = 1 - 2c φ(c) / (2Φ(c) - 1) (Johnson, Kotz, Balakrishnan 1994, 10.1).
    """
    density = exp(-cut * cut / 2) / sqrt(2 * pi)
    return sqrt(1 - 2 * cut * density / erf(cut / sqrt(2)))


def truncated_normal(
    shape: Shape, std: float, rng: np.random.Generator, cut: float = 2.0, *, corrected: bool = True
) -> Array:
    """A normal cut at ``cut`` of its own standard deviations.

    Args:
        shape: of the array.
        std: standard deviation of the result when ``corrected`` (as `variance_scaling` of Keras
            and JAX), else of the normal before the cut (as ``torch.nn.init.trunc_normal_`` with
            ``a, b = ±cut·std``).
        rng: generator.
        cut: in standard deviations of the normal before the cut.
        corrected: see ``std``.
    """
    values = rng.standard_normal(shape)
    flat = values.reshape(-1)
    outside = np.flatnonzero(np.abs(flat) > cut)
    while outside.size:
        flat[outside] = rng.standard_normal(outside.size)
        outside = outside[np.abs(flat[outside]) > cut]
    return values * (std / truncated_std(cut) if corrected else std)


def orthogonal(shape: Shape, gain: float, rng: np.random.Generator, groups: int = 1) -> Array:
    """``gain`` times a semi-orthogonal matrix with the Haar law, trailing axes flattened.

    QR of a Gaussian with the signs of R's diagonal made positive: without them the law is that of
    LAPACK's convention, not Haar's (Mezzadri 2007). Each group of a grouped convolution is a
    matrix of its own; `torch.nn.init.orthogonal_` is the case of one group (Saxe et al. 2014).
    """
    if len(shape) < 2:
        raise ValueError("orthogonal needs two axes or more")
    rows, columns = shape[0] // groups, prod(shape[1:])
    blocks = [_haar(rows, columns, rng) for _ in range(groups)]
    return (gain * np.concatenate(blocks)).reshape(shape)


def _haar(rows: int, columns: int, rng: np.random.Generator) -> Array:
    gaussian = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(gaussian)
    signs = np.where(np.diag(r) < 0, -1.0, 1.0)
    matrix: Array = q * signs
    return matrix if rows >= columns else matrix.T


def delta_orthogonal(shape: Shape, gain: float, rng: np.random.Generator, groups: int = 1) -> Array:
    """A convolution that is an orthogonal matrix at its centre and zero elsewhere (Xiao 2018).

    Raises:
        ValueError: fewer output than input channels in a group: no such matrix keeps norms.
    """
    rows, columns = shape[0] // groups, shape[1]
    if len(shape) < 3 or rows < columns:
        raise ValueError("delta-orthogonal needs a kernel with at least as many outputs as inputs")
    kernel = np.zeros(shape)
    kernel[_centre(shape)] = orthogonal((shape[0], columns), gain, rng, groups)
    return kernel


def _centre(shape: Shape) -> tuple[slice | int, ...]:
    return (slice(None), slice(None), *(side // 2 for side in shape[2:]))


def identity(shape: Shape, gain: float = 1.0, groups: int = 1) -> Array:
    """``gain`` on the diagonal, at the kernel's centre (Dirac), group by group."""
    if len(shape) < 2:
        raise ValueError("identity needs two axes or more")
    values = np.zeros(shape)
    rows, columns = shape[0] // groups, shape[1]
    centre = tuple(side // 2 for side in shape[2:])
    for group in range(groups):
        for index in range(min(rows, columns)):
            values[(group * rows + index, index, *centre)] = gain
    return values


def sparse(shape: Shape, sparsity: float, std: float, rng: np.random.Generator) -> Array:
    """N(0, std²) with ⌈sparsity·rows⌉ zeros in every column (Martens 2010)."""
    if len(shape) != 2:
        raise ValueError("sparse needs a matrix")
    rows, columns = shape
    values = rng.standard_normal(shape) * std
    zeros = ceil(sparsity * rows)
    for column in range(columns):
        values[rng.permutation(rows)[:zeros], column] = 0.0
    return values
