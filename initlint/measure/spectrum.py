"""Spectra of weight matrices: exact while that is cheap, from Krylov spaces beyond."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure.scattered import scattered

Array = NDArray[Any]

EXACT_FLOPS = 1e9
"""Work up to which a decomposition is exact: about 0.1 s of one core. A Gram matrix of an m×n
matrix costs 2m²n and its eigenvalues about 9m³, so a square matrix stays exact up to m = 450;
eigenvalues of a non-symmetric matrix cost about 25m³ (m = 340)."""

STEPS = 24
"""Lanczos steps for a largest singular value. Measured on Gaussian matrices of up to 4,096 rows and
columns, whose edge is as crowded as edges get: right to 0.1 %."""

TINY = 1e-4
"""Largest magnitude below which, and above whose inverse, a matrix is scaled first: squares of
float32 end at 1e-38 and 1e38, and a product sums millions of them."""

EXHAUSTED = 1e-5
"""Rest of a step, relative to the step, that is rounding: a hundred times that of float32."""

KRYLOV = 120
"""Arnoldi steps for the spectral radius of large matrices. Measured on Gaussian matrices of 400
to 2,000 rows, the largest Ritz value is within 3 % of the spectral radius."""

GRAM_SAMPLE = 64
"""Rows whose inner products with all others are looked at before a full Gram matrix is paid for.
A matrix that is far from orthogonal shows it there: 64 rows of an iid matrix hold 64·m products of
standard deviation 1/√n."""


@dataclass(frozen=True, slots=True)
class Orthogonality:
    """Distance of a matrix from a scaled orthogonal one.

    Attributes:
        residual: ``max |W Wᵀ - g² I| / g²`` over the shorter side. 4e-7 for a float32
            orthogonal matrix, 8e-4 for a bfloat16 one, above 0.1 for a random one. When the first
            rows alone show more than 0.5, their residual: a lower bound.
        gain: g, the root mean square of the singular values (of the row norms).
    """

    residual: float
    gain: float


def as_matrix(array: Array) -> Array:
    """A weight as ``(out, everything else)``, the way `torch.nn.init.orthogonal_` flattens."""
    if array.ndim == 2:
        return array
    return array.reshape(array.shape[0], -1) if array.ndim else array.reshape(1, 1)


def _wide(matrix: Array) -> Array:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


@np.errstate(all="ignore")  # extreme values overflow to an infinite residual
def orthogonality(matrix: Array) -> Orthogonality:
    """How far a matrix of any shape ``(r, c)`` is from having orthonormal rows times a gain.

    The shorter side is the one that can be orthonormal; higher ranks are flattened by `as_matrix`.
    Recurrent blocks are judged gate by gate: pass one gate's ``(hidden, hidden)`` block.
    """
    wide = np.ascontiguousarray(_wide(as_matrix(matrix)), dtype=np.float32)
    rows = wide.shape[0]
    if wide.size == 0:
        return Orthogonality(float("inf"), 0.0)
    power = float(np.vdot(wide, wide)) / rows
    if not 0.0 < power < float("inf"):
        return Orthogonality(float("inf"), 0.0 if power == 0.0 else float("nan"))
    gain = sqrt(power)
    head = _gram_residual(wide, 0, min(GRAM_SAMPLE, rows), power)
    if head > 0.5 or rows <= GRAM_SAMPLE:
        return Orthogonality(head, gain)
    worst = head
    for start in range(GRAM_SAMPLE, rows, 1024):
        worst = max(worst, _gram_residual(wide, start, min(start + 1024, rows), power))
        if worst > 0.5:
            break
    return Orthogonality(worst, gain)


def _gram_residual(wide: Array, start: int, stop: int, power: float) -> float:
    gram = wide[start:stop] @ wide.T
    gram[np.arange(stop - start), np.arange(start, stop)] -= power
    return float(np.abs(gram).max()) / power


def singular_values(matrix: Array) -> Array:
    """All singular values, largest first, as float64. Cost 2m²n + 9m³ for the shorter side m.

    They come from the Gram matrix: values below 1e-8 of the largest are rounding. NaN for matrices
    that are not finite.
    """
    wide = np.asarray(_wide(as_matrix(matrix)), dtype=np.float64)
    if wide.size == 0:
        return np.zeros(0)
    largest = float(np.abs(wide).max())
    if largest == 0.0 or not np.isfinite(largest):
        return np.full(wide.shape[0], 0.0 if largest == 0.0 else np.nan)
    wide = wide / largest
    values = np.linalg.eigvalsh(wide @ wide.T)[::-1]
    return np.asarray(largest * np.sqrt(np.maximum(values, 0.0)))


def spectral_norm(matrix: Array) -> float:
    """The largest singular value: exact while cheap, else from below by Lanczos iteration."""
    wide = _wide(as_matrix(matrix))
    if wide.size == 0:
        return 0.0
    rows, columns = wide.shape
    if 2.0 * rows * rows * columns + 9.0 * rows**3 <= EXACT_FLOPS:
        return float(singular_values(wide)[0])
    return leading_singular_value(wide, STEPS)


def leading_singular_value(matrix: Array, steps: int) -> float:
    """A lower bound of the largest singular value after some steps of Lanczos iteration.

    An outlier above the bulk is found within a few steps, the edge of the bulk needs more (Golub &
    Van Loan 2013, §10.1): each costs two products with a vector, which is what memory allows. The
    start is fixed: the same matrix, the same answer.
    """
    wide = np.asarray(_wide(as_matrix(matrix)), dtype=np.float32)
    scale = max(float(wide.max()), -float(wide.min())) if wide.size else 0.0
    if scale == 0.0 or not np.isfinite(scale):
        return 0.0 if scale == 0.0 else float("nan")
    if not TINY < scale < 1.0 / TINY:
        wide = wide / np.float32(scale)
    else:
        scale = 1.0
    rows = wide.shape[0]
    steps = min(steps, rows)
    start = scattered(rows, 1)[:, 0].astype(np.float32)
    basis = np.empty((steps, rows), np.float32)
    basis[0] = start / sqrt(float(start @ start))
    small = np.zeros((steps, steps))
    for step in range(steps):
        vector = wide @ (basis[step] @ wide)
        known = basis[: step + 1]
        for _ in range(2):  # once more: classical Gram-Schmidt alone loses orthogonality
            overlap = known @ vector
            small[: step + 1, step] += overlap
            vector -= overlap @ known
        norm = sqrt(float(vector @ vector))
        if step + 1 == steps or norm <= EXHAUSTED * small[step, step]:
            small = small[: step + 1, : step + 1]
            break
        small[step + 1, step] = norm
        basis[step + 1] = vector / norm
    return scale * sqrt(max(float(np.linalg.eigvalsh(small)[-1]), 0.0))


def spectral_radius(square: Array) -> float:
    """Largest magnitude of an eigenvalue of a square matrix; NaN where that is not finite.

    Exact while 25m³ is cheap; beyond, the largest Ritz value of an Arnoldi iteration, which
    approaches the radius from inside (Saad 2011, ch. 6).

    Raises:
        ValueError: the matrix is not square.
    """
    matrix = np.asarray(square, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a spectral radius needs a square matrix, not {matrix.shape}")
    size = matrix.shape[0]
    if size == 0 or not np.isfinite(matrix).all():
        return 0.0 if size == 0 else float("nan")
    if 25.0 * size**3 > EXACT_FLOPS:
        matrix = _hessenberg(matrix, KRYLOV)
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def _hessenberg(matrix: Array, steps: int) -> Array:
    size = matrix.shape[0]
    basis = np.zeros((steps + 1, size))
    basis[0] = scattered(size, 1)[:, 0]
    basis[0] /= np.linalg.norm(basis[0])
    small = np.zeros((steps + 1, steps))
    for step in range(steps):
        vector = matrix @ basis[step]
        for _ in range(2):  # once more: classical Gram-Schmidt alone loses orthogonality
            overlap = basis[: step + 1] @ vector
            small[: step + 1, step] += overlap
            vector -= overlap @ basis[: step + 1]
        norm = float(np.linalg.norm(vector))
        if norm <= 1e-12 * float(np.abs(small).max()):
            return small[: step + 1, : step + 1]
        small[step + 1, step] = norm
        basis[step + 1] = vector / norm
    return small[:steps, :steps]


def marchenko_pastur_edge(std: float, rows: int, cols: int) -> float:
    """Upper edge ``std (√rows + √cols)`` of the singular values of an iid matrix.

    The largest one scatters around it by a relative ``min(rows, cols)^(-2/3)`` (Tracy-Widom).
    """
    return std * (sqrt(rows) + sqrt(cols))
