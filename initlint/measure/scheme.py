"""Scheme identification: which initialisation a tensor is compatible with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure.candidates import Candidate, Candidates, candidates, round_number
from initlint.measure.families import LEAST, REFERENCES, Fit, cut_std, fit, is_independent
from initlint.measure.moments import array_moments
from initlint.measure.normalised_rows import are_uniform_rows
from initlint.measure.precision import (
    effective_dtype,
    is_float,
    is_quantised,
    median,
    unit_roundoff,
)
from initlint.measure.result import Family, Identification, Match, Moments
from initlint.measure.scattered import scattered
from initlint.measure.structure import constant, sparsity_per_column, structure
from initlint.measure.symmetry import duplicate_units, surely_differ
from initlint.measure.tables import table
from initlint.model import BUFFERS, Layer, Param, Role

Array = NDArray[Any]

SCALE_SIGMAS = 4.0
SCALE_SLACK = {"float64": 0.005, "float32": 0.005, "float16": 0.01, "bfloat16": 0.01}
"""A scheme survives while ``|ln(s/s_pred)| <= 4 SE + slack``. The slack is the disagreement between
implementations (epsilon of a folded normaliser, 0.8796 against 0.88) and, in half precision, the
rounding of the values."""

BOUND_DRAWS = 12.0
"""The largest of n uniform draws is below ``b (1 - 12/n)`` with probability e^-12."""

FOLDED = 6e-4
"""A fresh batch normaliser that an exporter folds into the weights scales them by 1/√(1+ε), which
is 0.9995 for the largest ε in use (1e-3)."""

OUTLIER_SIGMAS = 8.0
"""P(|z| > 8) = 1.2e-15: no draw of a normal is out there."""

IDENTITY_SIDE = 8
"""Elements of a diagonal that must agree before it is taken for an identity's."""

OUTLIER_SHARE = 0.01
"""Share of impossible values that may be set aside before the rest is judged; samplers that clamp
leave 6e-8 (float32) to 2e-3 (bfloat16) of them."""

SAMPLE_ELEMENTS = 1 << 20
SAMPLE_ROWS = 32
"""Size of the sample that a larger matrix must pass first. Nearly all trained tensors fail on it:
scales of 1,024 rows of 1,024 that scatter by 1 % raise the variance of the row powers above its
4σ limit of 2/1024 · 4 √(2/1024)."""

COLLAPSED_LEAST = 1024
"""Distinct values that a tensor of mostly repeated units must leave to be judged: training does not
repeat units, so what is left of a few copied rows says nothing about it."""

SERIES_MOST = 3
"""A scheme with a free integer (GPT-2's depth) that leaves more members than this names none: n is
too small to tell its members apart, so any scale would find some."""

_NO_FAMILY = frozenset({Role.SLOPE, Role.INITIAL_STATE}) | BUFFERS


@np.errstate(all="ignore")  # extreme values make infinities, which no scheme predicts
def identify(layer: Layer, param: Param, array: Array, moments: Moments) -> Identification:
    """Which initialisation schemes a parameter is compatible with.

    Exact structures first, then analytic tables, then the likeliest family (uniform, normal,
    normal cut at ±2σ) if the tensor passes every test of independent identical draws, then the
    named schemes of that family whose scale is within sampling error:
    ``|ln(s/s_pred)| <= 4 sqrt((κ-1)/(4n)) + slack``, and for uniforms ``max|w|`` within
    ``[b(1 - 12/n), b]``. Schemes that n values cannot tell apart are all named. Rare gains are
    looked at only where no common scheme fits, wrong fans and depth-scaled ones only where no
    true fan does.

    Rows of zeros (padding), repeated rows (ICNR, mirrored or cloned units) and impossible outliers
    (a clamping sampler) are set aside before the rest is judged. Fewer than 64 values, quantised
    grids and 8-bit floats have no family; their exact structures are still named.

    Args:
        layer: the layer that reads the parameter.
        param: the parameter; ``shape``, ``role``, ``packed`` and ``module`` decide the candidates.
        array: its values in canonical orientation.
        moments: moments of the same values.
    """
    n = moments.count
    if n == 0 or moments.non_finite == n:
        return Identification(Family.UNKNOWN)
    exact = _exact(layer, param, array, moments)
    if exact is not None:
        family, match = exact
        return Identification(family, (match,), n, 0.0, moments.std)
    error = _std_error(moments.kurtosis, n)
    unknown = Identification(Family.UNKNOWN, (), n, error, moments.std)
    if moments.non_finite or n < LEAST or param.role in _NO_FAMILY:
        return unknown
    if param.quantised or not is_float(param.dtype) or is_quantised(array):
        return replace(unknown, n=0)
    dtype = effective_dtype(array, param.dtype)
    matrix = _has_units(param) and array.ndim >= 2
    sample = _sampled_rows(array) if matrix else None
    if sample is not None:
        of_sample = array_moments(sample)
        judged = _judge(layer, param, sample, of_sample, dtype, matrix)
        if judged.family is Family.UNKNOWN:
            return _unnamed(unknown, sample, of_sample)
    found = _judge(layer, param, array, moments, dtype, matrix)
    if found.family is not Family.UNKNOWN or not matrix:
        return found
    return _unnamed(found, array, moments)


def _unnamed(found: Identification, array: Array, moments: Moments) -> Identification:
    """What can still be said of a matrix that fits no family as a whole."""
    if are_uniform_rows(array, moments):
        return replace(found, family=Family.UNIFORM)
    return replace(found, independent=is_independent(array, moments))


def _sampled_rows(array: Array) -> Array | None:
    """Evenly spaced rows of a large matrix: what refuses them refuses the whole, much sooner."""
    step = array.size // SAMPLE_ELEMENTS
    if step < 2 or array.shape[0] // step < SAMPLE_ROWS:
        return None
    return np.ascontiguousarray(array[::step])


def _judge(
    layer: Layer, param: Param, array: Array, moments: Moments, dtype: str, matrix: bool
) -> Identification:
    """The family and its schemes, on what is left after each special case is set aside."""
    found = _random(layer, param, array, moments, dtype, matrix)
    if found is not None:
        return found
    distinct = moments.count
    for rest in _without_special(array, moments, dtype, matrix):
        if 2 * rest.size <= array.size:
            distinct = rest.size if rest.size >= COLLAPSED_LEAST else 0
        found = _random(layer, param, rest, array_moments(rest), dtype, matrix)
        if found is not None:
            return found
    drawn = _without_identity(array, moments) if matrix else None
    if drawn is not None:
        found = _random(layer, param, drawn, array_moments(drawn), dtype, matrix)
        if found is not None:  # its own scheme says nothing of the whole
            return replace(found, matches=(), std=moments.std, bound=0.0)
    mirrored = _mirrored(array, moments) if matrix else None
    if mirrored is not None:
        found = _random(layer, param, mirrored, array_moments(mirrored), dtype, matrix)
        if found is not None:  # absolute values of a draw, whose scheme is not theirs
            return replace(found, matches=(), std=moments.std, bound=0.0)
    error = _std_error(moments.kurtosis, moments.count)
    return _sparse(layer, param, array, moments, dtype) or Identification(
        Family.UNKNOWN, (), distinct, error, moments.std
    )


def _mirrored(array: Array, moments: Moments) -> Array | None:
    """A matrix of one sign with signs put back at random; None where it has both, or no values."""
    if moments.zeros or moments.count < LEAST or moments.min < 0.0 < moments.max:
        return None
    signs = np.sign(scattered(array.shape[0], array[0].size)).reshape(array.shape)
    return np.asarray(array * signs, dtype=array.dtype)


def _exact(
    layer: Layer, param: Param, array: Array, moments: Moments
) -> tuple[Family, Match] | None:
    found = constant(moments) if not moments.non_finite else None
    if found is None and not moments.non_finite:
        if _has_units(param):
            found = structure(layer, param, array, moments.zeros)
        if found is None and param.role not in BUFFERS:
            match = table(array, moments, unit_roundoff(param.dtype))
            found = (Family.DETERMINISTIC, match) if match else None
    return found


def _has_units(param: Param) -> bool:
    return param.role in (
        Role.WEIGHT,
        Role.RECURRENT_WEIGHT,
        Role.PROJECTION,
        Role.TABLE,
        Role.OTHER,
    )


def _std_error(kurtosis: float, n: int) -> float:
    """Relative standard error of a standard deviation of n values: ``sqrt((κ-1)/(4n))``."""
    return sqrt(max(kurtosis - 1.0, 0.0) / (4.0 * n)) if n and isfinite(kurtosis) else 0.0


def _random(
    layer: Layer, param: Param, array: Array, moments: Moments, dtype: str, matrix: bool
) -> Identification | None:
    if moments.count < LEAST or moments.std == 0.0:
        return None
    fitted = fit(array, moments, matrix, unit_roundoff(dtype))
    if fitted.family is Family.UNKNOWN:
        return None
    n = moments.count
    kurtosis = REFERENCES[fitted.family].kurtosis
    error = _std_error(kurtosis, n)
    uniform = fitted.family is Family.UNIFORM
    bound = max(moments.max - fitted.centre, fitted.centre - moments.min) if uniform else 0.0
    if fitted.centre:
        matches = _off_centre(fitted, moments, error, dtype)
    else:
        matches = _named(layer, param, fitted, moments, dtype)
    return Identification(fitted.family, matches, n, error, moments.std, bound)


def _named(
    layer: Layer, param: Param, fitted: Fit, moments: Moments, dtype: str
) -> tuple[Match, ...]:
    std = sqrt(moments.second_moment)
    limits = {family: _scale_limit(family, moments, dtype) for family in fitted.alternatives}

    def matching(among: Candidates) -> tuple[Match, ...]:
        """The matches of the earliest tier that has any."""
        found: dict[int, dict[tuple[str, str], Match]] = {}
        for candidate, distance in among.near(std, max(limits.values())):
            if _survives(candidate, distance, limits, moments, dtype):
                match = candidate.match
                found.setdefault(candidate.tier, {}).setdefault((match.scheme, match.fan), match)
        return tuple(found[min(found)].values()) if found else ()

    common = matching(candidates(layer, param))
    if common:
        return common
    rare = matching(candidates(layer, param, rare=True))
    series = Counter(match.scheme.partition("=")[0] for match in rare if match.fan == "depth")
    told = tuple(match for match in rare if series[match.scheme.partition("=")[0]] <= SERIES_MOST)
    fans = tuple(match for match in told if match.fan != "depth")
    depths = tuple(match for match in told if match.fan == "depth")
    return (*fans, *_rounded(fitted, moments, dtype), *depths)


def _survives(
    candidate: Candidate,
    distance: float,
    limits: Mapping[Family, float],
    moments: Moments,
    dtype: str,
) -> bool:
    """Whether the scale fits some family that both the values and the scheme have."""
    for family, limit in limits.items():
        if family not in candidate.families or distance > limit:
            continue
        bound = candidate.match.std * sqrt(3.0)
        if family is not Family.UNIFORM or _bound_fits(moments, bound, dtype):
            return True
    return False


def _scale_limit(family: Family, moments: Moments, dtype: str) -> float:
    error = _std_error(REFERENCES[family].kurtosis, moments.count)
    return SCALE_SIGMAS * error + SCALE_SLACK[dtype]


def _bound_fits(moments: Moments, bound: float, dtype: str) -> bool:
    ulp = 4.0 * unit_roundoff(dtype) if dtype in ("float32", "float64") else unit_roundoff(dtype)
    share = moments.max_abs / bound
    return 1.0 - BOUND_DRAWS / moments.count - ulp - FOLDED <= share <= 1.0 + ulp


def _rounded(fitted: Fit, moments: Moments, dtype: str) -> tuple[Match, ...]:
    """``normal(s)`` or ``uniform(b)`` when the scale is a round number."""
    if fitted.family is Family.UNIFORM:
        bound = round_number(moments.max_abs, BOUND_DRAWS / moments.count + unit_roundoff(dtype))
        fits = bound is not None and _bound_fits(moments, bound, dtype)
        return (Match(f"uniform({bound!r})", 1.0, (bound or 0.0) / sqrt(3.0)),) if fits else ()
    error = _std_error(REFERENCES[fitted.family].kurtosis, moments.count)
    factor = 1.0
    name = "normal"
    suffix = ""
    if fitted.family is Family.TRUNCATED_NORMAL:
        factor, name = cut_std(fitted.cut), "truncated_normal"
        suffix = "" if fitted.cut == 2.0 else f", cut={fitted.cut:g}"
    std = round_number(moments.std / factor, SCALE_SIGMAS * error + SCALE_SLACK[dtype])
    return (Match(f"{name}({std!r}{suffix})", 1.0, std * factor),) if std is not None else ()


def _off_centre(fitted: Fit, moments: Moments, error: float, dtype: str) -> tuple[Match, ...]:
    """Named by both parameters: ``uniform(0, b)`` and ``normal(mean, s)`` for round values."""
    n = moments.count
    if fitted.family is Family.UNIFORM:
        width = moments.max - moments.min
        slack = BOUND_DRAWS / n * width
        if abs(moments.min) <= slack:
            high = round_number(moments.max, BOUND_DRAWS / n + unit_roundoff(dtype))
            if high is not None:
                return (Match(f"uniform(0, {high!r})", 1.0, high / sqrt(12.0)),)
        return ()
    mean = round_number(abs(moments.mean), 0.02)
    std = round_number(moments.std, SCALE_SIGMAS * error + SCALE_SLACK[dtype])
    near = mean is not None and abs(abs(moments.mean) - mean) <= SCALE_SIGMAS * moments.std / sqrt(
        n
    )
    if near and std is not None and mean is not None:
        signed = mean if moments.mean > 0 else -mean
        return (Match(f"normal({signed!r}, {std!r})", 1.0, std),)
    return ()


def _without_special(array: Array, moments: Moments, dtype: str, matrix: bool) -> list[Array]:
    """The array without rows of zeros, repeated units, and values that no draw can have."""
    rests: list[Array] = []
    current = array
    if matrix and moments.zeros:
        alive = np.any(array.reshape(array.shape[0], -1) != 0.0, axis=1)
        if not alive.all() and alive.any():
            current = array[alive]
            rests.append(current)
    if matrix:
        distinct = _distinct_units(current, dtype)
        if distinct.size < current.size:
            current = distinct
            rests.append(current)
    inner = _without_outliers(current, moments)
    if inner is not None:
        rests.append(inner)
    return rests


def _without_identity(array: Array, moments: Moments) -> Array | None:
    """What was drawn on top of an identity, a Dirac kernel or a multiple of one; None without one.

    The diagonal must stand out and scatter as the rest does, which training does not leave: it
    moves each element by its own amount.
    """
    side = min(array.shape[:2])
    if side < IDENTITY_SIDE:
        return None
    index = np.arange(side)
    where = (index, index, *(size // 2 for size in array.shape[2:]))
    diagonal = array[where].astype(np.float64)
    height = median(diagonal)
    known = _variance_without(diagonal, height, moments)
    # From moments, which are right to six digits: with three of them left it needs no second pass.
    if known > 1e-3 * moments.std**2 and abs(height) < 0.99 * OUTLIER_SIGMAS * sqrt(known):
        return None
    rest = array.copy()
    rest[where] -= array.dtype.type(height)
    scatter = float(rest.std(dtype=np.float64))
    stands_out = abs(height) > OUTLIER_SIGMAS * scatter
    alike = float(np.abs(diagonal - height).max()) < OUTLIER_SIGMAS * scatter
    return rest if scatter > 0.0 and stands_out and alike else None


def _variance_without(diagonal: Array, height: float, moments: Moments) -> float:
    """Variance of an array when ``height`` is taken from each of the elements ``diagonal``."""
    n = moments.count
    squares = float(np.sum((diagonal - height) ** 2 - diagonal**2))
    mean = moments.mean - diagonal.size * height / n
    return moments.second_moment + squares / n - mean * mean


def _distinct_units(array: Array, dtype: str) -> Array:
    """One of each group of units that are equal, or equal up to sign, along both axes."""
    for axis in (0, 1):
        units = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        if surely_differ(units, dtype):
            continue
        signs = np.sign(units[np.arange(units.shape[0]), np.abs(units).argmax(axis=1)])
        groups = duplicate_units(units * signs[:, None], dtype)
        if groups:
            spare = [index for group in groups for index in group[1:]]
            array = np.delete(array, spare, axis=axis)
    return array


def _without_outliers(array: Array, moments: Moments) -> Array | None:
    """A flat copy without impossible values, when those are few and all of one magnitude."""
    flat = array.reshape(-1)
    sample = flat[:: max(1, flat.size // (1 << 14))]
    low, high = _quartiles(sample)
    robust = (high - low) / 1.349
    outliers = np.abs(flat) > OUTLIER_SIGMAS * robust
    count = int(np.count_nonzero(outliers))
    if robust <= 0.0 or not 0 < count <= OUTLIER_SHARE * flat.size:
        return None
    values = np.abs(flat[outliers])
    if float(values.max()) > float(values.min()) * (1.0 + 1e-2):
        return None
    return flat[~outliers]


def _quartiles(sample: Array) -> tuple[float, float]:
    """Lower and upper quartile; `numpy.percentile` would import `numpy.ma` for them."""
    ranks = (sample.size - 1) // 4, (3 * (sample.size - 1) + 3) // 4
    ordered = np.partition(sample, ranks)
    return float(ordered[ranks[0]]), float(ordered[ranks[1]])


def _sparse(
    layer: Layer, param: Param, array: Array, moments: Moments, dtype: str
) -> Identification | None:
    """A random mask over a random family: zeros set aside, the rest must fit one."""
    if not 0.02 * moments.count < moments.zeros < moments.count - LEAST or array.ndim < 2:
        return None
    kept = array[array != 0.0]
    inner = array_moments(kept)
    fitted = fit(kept, inner, False, unit_roundoff(dtype))
    if fitted.family is Family.UNKNOWN or fitted.centre:
        return None
    per_column = sparsity_per_column(array)
    share = moments.zeros / moments.count
    if per_column is None and not _random_mask(array, share):
        return None
    matches = (Match(f"sparse({share:.2g})", 1.0, inner.std),)
    return Identification(
        Family.SPARSE, matches, inner.count, _std_error(inner.kurtosis, inner.count), moments.std
    )


def _random_mask(array: Array, share: float) -> bool:
    """True when zeros fall on rows and columns as independent coins would."""
    mask = (array.reshape(array.shape[0], -1) == 0.0).astype(np.float64)
    for axis in (0, 1):
        size = mask.shape[axis]
        shares = mask.mean(axis=axis)
        spread = float(np.mean((shares - share) ** 2)) * size / (share * (1.0 - share))
        if spread > 1.0 + 4.0 * sqrt(2.0 / shares.size):
            return False
    return True
