"""Exact structures: identity, dirac, orthogonal, delta-orthogonal, Hadamard, sparse."""

from __future__ import annotations

from math import ceil, log2, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure.result import Family, Match, Moments
from initlint.measure.spectrum import as_matrix, orthogonality
from initlint.model import Layer, Op, Param

Array = NDArray[Any]

ORTHOGONAL_RESIDUAL = 5e-3
"""Between what rounding leaves of an orthogonal matrix (4e-7 in float32, 1e-4 in float16, 8e-4 in
bfloat16) and what a random one shows (0.18 and more)."""

LEAST_ROWS = 4
NARROW_RESIDUAL = 1e-5
"""Two or three rows are orthogonal to 5e-3 by chance with probability 3e-3; to float32's rounding
they are not. One row says nothing."""


FIRST_ROWS = 4.0
"""Two rows whose powers are within the limit of the mean are within twice the limit of each other;
twice as much again leaves room for rounding."""


def constant(moments: Moments) -> tuple[Family, Match] | None:
    """Zeros, ones, or one repeated value."""
    if not moments.constant:
        return None
    value = moments.min
    if value == 0.0:
        return Family.ZEROS, Match("zeros")
    if value == 1.0:
        return Family.ONES, Match("ones")
    return Family.CONSTANT, Match(f"constant({value:.6g})")


def structure(layer: Layer, param: Param, array: Array, zeros: int) -> tuple[Family, Match] | None:
    """The exact structure of a weight of two axes or more, or None.

    Args:
        layer: the layer that reads it (its groups matter to a dirac kernel).
        param: the parameter.
        array: its values, finite, in canonical orientation.
        zeros: number of exact zeros, from its moments.
    """
    if array.ndim < 2 or min(array.shape) < 1:
        return None
    if zeros:
        found = _diagonal(layer, array, zeros)
        if found is not None:
            return found
        found = _centred(array, zeros)
        if found is not None:
            return found
    found = _hadamard(array, zeros)
    return found if found is not None else _orthogonal(layer, array)


def _diagonal(layer: Layer, array: Array, zeros: int) -> tuple[Family, Match] | None:
    """Identity (two axes) and dirac (ones at the kernel's centre, group by group)."""
    rows, columns = array.shape[:2]
    kernel = array.shape[2:]
    groups = int(layer.attrs.get("groups", 1)) or 1
    if rows % groups:
        return None
    per_group = rows // groups
    depth = min(per_group, columns)
    if array.size - zeros != groups * depth:
        return None
    index = np.arange(depth)
    centre = tuple(side // 2 for side in kernel)
    gain = float(array[(0, 0, *centre)])
    for group in range(groups):
        values = array[(group * per_group + index, index, *centre)]
        if gain == 0.0 or not np.all(values == array.dtype.type(gain)):
            return None
    family = Family.DIRAC if kernel else Family.IDENTITY
    std = sqrt(gain * gain * (array.size - zeros) / array.size)
    return family, Match(str(family), abs(gain), std)


def _centred(array: Array, zeros: int) -> tuple[Family, Match] | None:
    """Delta-orthogonal: an orthogonal matrix at the kernel's centre, zeros elsewhere."""
    kernel = array.shape[2:]
    if prod(kernel) < 2:
        return None
    core = array[(slice(None), slice(None), *(side // 2 for side in kernel))]
    if zeros < array.size - core.size or min(core.shape) < LEAST_ROWS:
        return None
    found = orthogonality(core)
    if found.residual > ORTHOGONAL_RESIDUAL:
        return None
    std = float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))
    return Family.DELTA_ORTHOGONAL, Match("delta_orthogonal", found.gain, std, "fan_in")


def _orthogonal(layer: Layer, array: Array) -> tuple[Family, Match] | None:
    views = [as_matrix(array)]
    if layer.op is Op.CONV_TRANSPOSE and array.ndim > 2:
        # Frameworks flatten this kernel as it is stored, input channels first.
        views.append(as_matrix(array.swapaxes(0, 1)))
    for view in views:
        short, long = sorted(view.shape)
        if short < 2:
            continue
        limit = ORTHOGONAL_RESIDUAL if short >= LEAST_ROWS else NARROW_RESIDUAL
        if not _equal_norms(view, limit):
            continue
        found = orthogonality(view)
        if found.residual <= limit:
            std = found.gain / sqrt(long)
            return Family.ORTHOGONAL, Match("orthogonal", _round_gain(found.gain), std, "fan_in")
    return None


def _equal_norms(matrix: Array, limit: float) -> bool:
    """The diagonal of the Gram matrix alone, which refuses nearly everything for one pass."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    one, other = float(wide[0].dot(wide[0])), float(wide[1].dot(wide[1]))
    if abs(one - other) > FIRST_ROWS * limit * max(one, other):
        return False  # nearly every matrix is refused by its first two rows
    powers = np.einsum("ij,ij->i", wide, wide)
    mean = float(np.add.reduce(powers)) / powers.size
    return mean > 0.0 and bool(np.abs(powers - mean).max() <= limit * mean)


def _round_gain(gain: float) -> float:
    """The gain as it was typed: known constants and round numbers within rounding."""
    for known in (1.0, sqrt(2.0), 5.0 / 3.0, sqrt(0.5), 0.01, 0.1, 0.5, 2.0):
        if abs(gain / known - 1.0) < 2e-3:
            return known
    return gain


def _hadamard(array: Array, zeros: int) -> tuple[Family, Match] | None:
    """ZerO: rows of a Hadamard matrix scaled by a power of √2 (Zhao et al. 2022, Algorithm 1)."""
    core = array
    if array.ndim > 2:
        core = array[(slice(None), slice(None), *(side // 2 for side in array.shape[2:]))]
        if zeros < array.size - core.size:
            return None
    rows, columns = core.shape
    if min(rows, columns) < LEAST_ROWS:
        return None
    magnitude = abs(float(core[0, 0]))
    if abs(abs(float(core[0, 1])) - magnitude) > 1e-4 * magnitude:
        return None
    for part in (core[0], core):  # nearly every matrix is refused by its first row
        if np.abs(np.abs(part) - magnitude).max() > 1e-5 * magnitude:
            return None
    signs = np.signbit(core)
    order = np.arange(max(rows, columns))
    bits = np.bitwise_and.outer(order[:rows], order[:columns])
    parity = np.zeros(bits.shape, np.bool_)
    while bits.any():
        parity ^= (bits & 1).astype(np.bool_)
        bits >>= 1
    if not (np.array_equal(signs, parity) or np.array_equal(~signs, parity)):
        return None
    size = 2 ** ceil(log2(max(rows, columns)))
    return Family.HADAMARD, Match("zero_hadamard", magnitude * sqrt(size), magnitude)


def sparsity_per_column(array: Array) -> int | None:
    """Zeros per input column when all columns have the same number (`torch.nn.init.sparse_`)."""
    matrix = as_matrix(array)
    zeros = matrix.shape[0] - np.count_nonzero(matrix, axis=0)
    return int(zeros[0]) if zeros.size and zeros[0] > 0 and np.all(zeros == zeros[0]) else None
