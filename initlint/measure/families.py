"""Shape of a distribution: maximum likelihood between families, then tests of independence.

A tensor fits a family when nothing that training does to weights is visible in it: the shape of
the histogram, the mean, the homogeneity of rows, columns and kernel positions, and the largest
singular value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import erf, exp, inf, log, pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure.result import Family, Moments
from initlint.measure.spectrum import (
    leading_singular_value,
    marchenko_pastur_edge,
    singular_values,
)

Array = NDArray[Any]

LEAST = 64
"""Below this many values no random family is named: maximum likelihood is right for 98 % of
uniforms but only 60 % of normals at n = 64 and 37 % at n = 32 (measured)."""

SIGMAS = 4.0
"""Standard errors allowed in every test: 6e-5 of fresh tensors fail a two-sided one by chance."""

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a normal cut at ±2σ, in units of σ."""

ORDERED = 1 << 16
"""Values that the distribution test looks at: enough to see a CDF gap of 0.01."""


def _truncated_moments(cut: float, order: int) -> list[float]:
    """E[z^k] for even k of a unit normal cut at ±cut: E_k = (k-1) E_{k-2} - cut^(k-1) h."""
    h = 2.0 * exp(-cut * cut / 2.0) / sqrt(2.0 * pi) / erf(cut / sqrt(2.0))
    values = [1.0]
    for k in range(2, order + 1, 2):
        values.append((k - 1) * values[-1] - cut ** (k - 1) * h)
    return values


@dataclass(frozen=True, slots=True)
class Reference:
    """Moments of a symmetric family in units of its own standard deviation, and their scatter.

    Attributes:
        kurtosis: fourth standardised moment.
        kurtosis_scatter: √n times the standard deviation of the sample kurtosis, and
        skew_scatter: likewise of the sample skew: delta method on even moments m_k,
            Var k̂/k² = [(m8-m4²)/m4² + 4(m4-1) - 4(m6-m4)/m4]/n, Var skew = [m6 - 6m4 + 9]/n.
    """

    kurtosis: float
    kurtosis_scatter: float
    skew_scatter: float


def _reference(even: list[float]) -> Reference:
    _, m2, m4, m6, m8 = even
    m4, m6, m8 = m4 / m2**2, m6 / m2**3, m8 / m2**4
    relative = (m8 - m4 * m4) / m4**2 + 4.0 * (m4 - 1.0) - 4.0 * (m6 - m4) / m4
    return Reference(m4, m4 * sqrt(relative), sqrt(m6 - 6.0 * m4 + 9.0))


REFERENCES = {
    Family.UNIFORM: _reference([1.0, 1 / 3, 1 / 5, 1 / 7, 1 / 9]),
    Family.TRUNCATED_NORMAL: _reference(_truncated_moments(2.0, 8)),
    Family.NORMAL: _reference([1.0, 1.0, 3.0, 15.0, 105.0]),
}

RARE_CUTS = (3.0, 2.5, 1.5, 1.0)
"""Cuts, in σ, that some code uses instead of 2 (3 in language-model trainers)."""


def shape_reference(family: Family, cut: float) -> Reference:
    """The reference of a family; of the normal cut at ±cut where that is not 2σ."""
    if family is Family.TRUNCATED_NORMAL and cut != 2.0:
        return _reference(_truncated_moments(cut, 8))
    return REFERENCES[family]


def cut_std(cut: float) -> float:
    """Standard deviation of a unit normal cut at ±cut."""
    return sqrt(_truncated_moments(cut, 2)[1])


@dataclass(frozen=True, slots=True)
class Fit:
    """How a tensor fits its likeliest family.

    Attributes:
        family: the likeliest family, UNKNOWN when it fails a test.
        alternatives: families whose likelihood is within a factor e⁵ of the best.
        centre: location: 0, or the mean for a distribution that is not centred.
        cut: where a truncated normal is cut, in σ.
        failed: the test that refused it, for explanations; empty when it fits.
    """

    family: Family
    alternatives: tuple[Family, ...] = ()
    centre: float = 0.0
    cut: float = 2.0
    failed: str = ""


def log_likelihoods(n: int, second_moment: float, largest: float) -> dict[Family, float]:
    """Maximised log-likelihood of each zero-centred family, from three numbers.

    A uniform's bound is estimated by ``max|w| (n+1)/n``; a cut normal's σ by the larger of half of
    that and ``s / 0.8796``.
    """
    bound = largest * (n + 1) / n
    sigma = max(bound / 2.0, sqrt(second_moment) / TRUNCATED_STD)
    kept = erf(sqrt(2.0))
    return {
        Family.UNIFORM: -n * log(2.0 * bound),
        Family.TRUNCATED_NORMAL: -n
        * (log(sigma * sqrt(2.0 * pi) * kept) + second_moment / (2.0 * sigma * sigma)),
        Family.NORMAL: -n / 2.0 * (log(2.0 * pi * second_moment) + 1.0),
    }


SHIFTED_LEAST = 4096
"""A drawn distribution is centred or visibly off centre, a small shift is usually learned. Only
from this size on do the tests of independence show that nothing but the mean is unusual."""

BOUNDED_KURTOSIS = 2.1
"""Half-way between a uniform (1.8) and a normal cut at 2σ (2.37)."""

LIKELIHOOD_MARGIN = 5.0
"""Log-likelihood by which a family must win to stand alone: odds of 150 to 1."""


def fit(array: Array, moments: Moments, matrix: bool, grid: float = 2.0**-23) -> Fit:
    """Fit a finite array of at least `LEAST` elements.

    Args:
        array: the weight in canonical orientation.
        moments: its moments.
        matrix: False for vectors of parameters, where rows and spectrum mean nothing.
        grid: relative spacing of the stored numbers.
    """
    n, std = moments.count, moments.std
    if n < LEAST or std <= 0.0:
        return Fit(Family.UNKNOWN, failed="too few values")
    centre = moments.mean if abs(moments.mean) * sqrt(n) > SIGMAS * std else 0.0
    if centre and matrix and abs(moments.mean) < 0.5 * std and n < SHIFTED_LEAST:
        return Fit(Family.UNKNOWN, centre=centre, failed="mean")
    if abs(moments.skew) * sqrt(n) > SIGMAS * _skew_limit(moments):
        return Fit(Family.UNKNOWN, centre=centre, failed="skew")
    if centre and moments.kurtosis < BOUNDED_KURTOSIS:
        # The middle of the range of n uniform values is right to 1/n, their mean only to 1/√n.
        centre = (moments.min + moments.max) / 2.0
    largest = max(moments.max - centre, centre - moments.min)
    second = moments.std**2 if centre else moments.second_moment
    scores = log_likelihoods(n, second, largest)
    ranked = sorted(scores, key=lambda family: -scores[family])
    alternatives = tuple(
        family for family in ranked if scores[ranked[0]] - scores[family] < LIKELIHOOD_MARGIN
    )
    cut = 2.0
    kept, failed = _shapes(alternatives, array, moments, largest, centre, cut, grid)
    if not kept:
        for cut in RARE_CUTS:
            shape = (Family.TRUNCATED_NORMAL,)
            if _cut_agrees(cut, largest, sqrt(second), n):
                kept, _ = _shapes(shape, array, moments, largest, centre, cut, grid)
            if kept:
                break
        else:
            return Fit(Family.UNKNOWN, alternatives, centre, failed=failed)
    best = kept[0]
    if matrix and array.ndim >= 2:
        failed = next(dependence(array, centre, std, shape_reference(best, cut).kurtosis), "")
        if failed:
            return Fit(Family.UNKNOWN, kept, centre, failed=failed)
    return Fit(best, kept, centre, cut)


def _shapes(
    families: tuple[Family, ...],
    array: Array,
    moments: Moments,
    largest: float,
    centre: float,
    cut: float,
    grid: float,
) -> tuple[tuple[Family, ...], str]:
    """The families whose shape the values have, and the first test that left none."""
    tests: tuple[tuple[str, Callable[[Family], bool]], ...] = (
        ("kurtosis", lambda family: _kurtosis_fits(family, moments.kurtosis, moments.count, cut)),
        ("distribution", lambda family: _distribution_fits(family, array, moments, centre, cut)),
        ("edge", lambda family: _edge_is_hard(family, array, largest, centre, cut, grid)),
    )
    for name, test in tests:
        families = tuple(family for family in families if test(family))
        if not families:
            return (), name
    return families, ""


def _cut_agrees(cut: float, largest: float, std: float, n: int) -> bool:
    """Whether the largest value sits at the cut that the standard deviation implies."""
    density = n * _edge_density(cut)
    if density < EDGE_LEAST:
        return False
    slack = SIGMAS * sqrt(0.5 / n) + 0.005
    ratio = largest / cut / (std / cut_std(cut))
    return exp(-slack) - 12.0 / density <= ratio <= exp(slack)


def _skew_limit(moments: Moments) -> float:
    """Scatter of the skew for the family that the kurtosis suggests (interpolated)."""
    low, high = REFERENCES[Family.UNIFORM], REFERENCES[Family.NORMAL]
    share = (moments.kurtosis - low.kurtosis) / (high.kurtosis - low.kurtosis)
    share = min(max(share, 0.0), 1.0)
    return low.skew_scatter + share * (high.skew_scatter - low.skew_scatter)


def _kurtosis_fits(family: Family, kurtosis: float, n: int, cut: float) -> bool:
    reference = shape_reference(family, cut)
    if family is Family.NORMAL:
        return abs(_anscombe_glynn(kurtosis, n)) <= SIGMAS
    # The sample kurtosis of a bounded family is close to normal; 3/n covers its bias.
    limit = SIGMAS * reference.kurtosis_scatter / sqrt(n) + 3.0 / n
    return abs(kurtosis - reference.kurtosis) <= limit


def _anscombe_glynn(kurtosis: float, n: int) -> float:
    """z-score of a normal sample's kurtosis, whose own distribution is skewed for years.

    The transformation of Anscombe & Glynn (1983), Biometrika 70:227.
    """
    expected = 3.0 * (n - 1) / (n + 1)
    variance = 24.0 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    x = (kurtosis - expected) / sqrt(variance)
    skew = 6.0 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9))
    skew *= sqrt(6.0 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6.0 + 8.0 / skew * (2.0 / skew + sqrt(1.0 + 4.0 / skew**2))
    denominator = 1.0 + x * sqrt(2.0 / (a - 4.0))
    if denominator <= 0.0:
        return -inf
    root = float(((1.0 - 2.0 / a) / denominator) ** (1.0 / 3.0))
    return float((1.0 - 2.0 / (9.0 * a) - root) / sqrt(2.0 / (9.0 * a)))


KS_LIMIT = 2.23
"""√n times the greatest distance: exceeded with probability 1e-4 (Kolmogorov)."""

KS_BINS = 1 << 12
"""Many values are counted in bins first. Between two edges of a bin both functions rise, so that
the distance there is at most the one at an edge and the bin's probability (1e-3 of a normal whose
largest value is at 4σ) more: that seldom leaves the question open."""


def _distribution_fits(
    family: Family, array: Array, moments: Moments, centre: float, cut: float
) -> bool:
    """Kolmogorov-Smirnov distance on at most `ORDERED` values, scale estimated.

    √n D exceeds 1.95 with probability 1e-3 and 2.23 with 1e-4 for a known scale (Kolmogorov), and
    rarer when it is estimated. The same bound holds for the sub-sample.
    """
    flat = array.reshape(-1)
    sample = np.ascontiguousarray(flat[:: max(1, flat.size // ORDERED)])
    n = sample.size
    bound = max(moments.max - centre, centre - moments.min)

    def cdf(values: Array) -> Array:
        if family is Family.UNIFORM:
            return (values / bound + 1.0) / 2.0
        if family is Family.NORMAL:
            return _normal_cdf(values / moments.std)
        low = _normal_cdf(np.array([-cut]))[0]
        scaled = np.clip(values * cut_std(cut) / moments.std, -cut, cut)
        return np.asarray((_normal_cdf(scaled) - low) / (1.0 - 2.0 * low))

    if n > KS_BINS:
        expected = cdf(np.linspace(-bound, bound, KS_BINS + 1))
        places = (sample - sample.dtype.type(centre - bound)) * (KS_BINS / (2.0 * bound))
        counts = np.bincount(places.astype(np.int32), minlength=KS_BINS)[:KS_BINS]
        gap = float(np.abs(np.cumsum(counts) / n - expected[1:]).max())
        if gap * sqrt(n) >= KS_LIMIT:
            return False
        if (gap + float(np.diff(expected).max())) * sqrt(n) < KS_LIMIT:
            return True
    expected = cdf(np.sort(sample).astype(np.float64) - centre)
    ranks = np.arange(n)
    gap = max(float(np.max((ranks + 1) / n - expected)), float(np.max(expected - ranks / n)))
    return gap * sqrt(n) < KS_LIMIT


EDGE_LEAST = 100.0
"""Values per relative unit of distance from the edge that make an edge visible at all."""


def _edge_density(cut: float) -> float:
    """Probability of ``|w| > (1 - e) max|w|`` per small e: ``cut · 2φ(cut) / erf(cut/√2)``."""
    return cut * 2.0 * exp(-cut * cut / 2.0) / sqrt(2.0 * pi) / erf(cut / sqrt(2.0))


def _edge_is_hard(
    family: Family, array: Array, largest: float, centre: float, cut: float, grid: float
) -> bool:
    """Whether a bounded family ends as abruptly as it must.

    Training moves weights across the bound long before it changes the shape: one Adam step of 1e-4
    pushes 47 of 65,536 weights outside, and then the outermost slice of the range, which should
    hold k of n values, is nearly empty. Slices narrower than the grid say nothing.
    """
    if family is Family.NORMAL or largest <= 0.0:
        return True
    density = 1.0 if family is Family.UNIFORM else _edge_density(cut)
    n = array.size
    magnitudes = np.abs(array.reshape(-1) - centre if centre else array.reshape(-1))
    slices = (expected for expected in (25.0, 100.0, 400.0, 1600.0) if expected < 0.1 * density * n)
    for expected in slices:
        width = expected / (density * n)
        if width < 16.0 * grid:
            continue
        found = int(np.count_nonzero(magnitudes > largest * (1.0 - width)))
        if expected - found > SIGMAS * sqrt(expected):
            return False
    return True


def _normal_cdf(z: Array) -> Array:
    """Φ by Abramowitz & Stegun 7.1.26; absolute error below 1e-7."""
    x = np.abs(z)
    x /= sqrt(2.0)
    t = 0.3275911 * x
    t += 1.0
    np.divide(1.0, t, out=t)
    tail = 1.061405429 * t  # in place: new arrays cost more than the arithmetic
    for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail += term
        tail *= t
    tail *= 0.5
    x *= x
    np.negative(x, out=x)
    tail *= np.exp(x, out=x)
    return np.asarray(np.where(z < 0.0, tail, 1.0 - tail))


EQUAL_POWERS = 1e-5
"""Spread of the rows' squared norms, relative to their mean, that rounding to float32 explains: a
hundred times its grid. One step of any size parts gains by more."""

ROUGH_POWERS = 1e-2
"""Spread that sums in single precision do not make up: they err by √f 2⁻²⁴ of themselves, 1e-3 for
2²⁸ features."""

INDEPENDENT_LEAST, INDEPENDENT_SIDE = 4096, 16
"""Size from which training leaves a trace that the tests of independence see: of the 856 tensors
this large in the trained files of the corpus that fit no family, they refuse 819, and 33 of the
rest are uniforms of two models whose edge training has only blurred."""


def is_independent(array: Array, moments: Moments) -> bool:
    """True when a matrix of no known family still looks like independent draws from one.

    A Laplace draw, a sum of a uniform and a normal, a product of draws: nobody has to have trained
    them. False for small matrices, which cannot tell, and next to a uniform (kurtosis below
    `BOUNDED_KURTOSIS`), where a few steps of training leave just such a shape, and so does the
    normalisation of rows, which shows in their norms.

    Args:
        array: the weight in canonical orientation, finite, or evenly spaced rows of it.
        moments: its moments.
    """
    sides = (array.shape[0], array.size // max(array.shape[0], 1))
    if array.size < INDEPENDENT_LEAST or min(sides) < INDEPENDENT_SIDE or moments.std <= 0.0:
        return False
    if not moments.kurtosis > BOUNDED_KURTOSIS and not has_equal_rows(array):
        return False
    return next(dependence(array, moments.mean, moments.std, moments.kurtosis), None) is None


def has_equal_rows(array: Array) -> bool:
    """True when all rows have one norm: weight normalisation whose gains no step has parted."""
    rows = array.reshape(len(array), -1)
    rough = np.einsum("ij,ij->i", rows, rows)
    if np.ptp(rough) > ROUGH_POWERS * rough.mean():
        return False
    rows = rows.astype(np.float64)
    powers = np.einsum("ij,ij->i", rows, rows)
    return bool(np.ptp(powers) < EQUAL_POWERS * powers.mean())


def dependence(array: Array, centre: float, std: float, kurtosis: float) -> Iterator[str]:
    """Names of the tests of identical, independent entries that fail, cheapest first."""
    rows = array.shape[0]
    inner = array.shape[1]
    matrix = array.reshape(rows, -1)  # no copy: it would cost more than what is summed
    if centre or not SQUARABLE < std < 1.0 / SQUARABLE:
        matrix = (matrix - np.asarray(centre, array.dtype)) / np.asarray(std, array.dtype)
        std = 1.0
    columns = matrix.shape[1]
    row_power = np.einsum("ij,ij->i", matrix, matrix) / (columns * std**2)
    column_power = np.einsum("ij,ij->j", matrix, matrix) / (rows * std**2)
    row_mean, column_mean = _mean(matrix, 1) / std, _mean(matrix, 0) / std
    groups = [("rows", row_power, row_mean, columns), ("columns", column_power, column_mean, rows)]
    positions = columns // max(inner, 1)
    if positions > 1 and inner > 1:
        by_position = (
            _mean(column_power.reshape(inner, positions), 0),
            _mean(column_mean.reshape(inner, positions), 0),
        )
        groups.append(("kernel positions", *by_position, rows * inner))
        by_input = (
            _mean(column_power.reshape(inner, positions), 1),
            _mean(column_mean.reshape(inner, positions), 1),
        )
        groups.append(("input channels", *by_input, rows * positions))
    for name, power, mean, size in groups:
        if _scatter_score(power, size, kurtosis) > SIGMAS:
            yield f"norms of {name}"
        if _mean_score(mean, size) > SIGMAS:
            yield f"means of {name}"
    if min(rows, columns) >= 8 and _edge_excess(matrix, std) > 0.0:
        yield "largest singular value"


def _mean(array: Array, axis: int) -> Array:
    """`numpy.mean`, without the three quarters of its time that go into choosing types."""
    total: Array = np.add.reduce(array, axis=axis)
    total /= array.shape[axis]
    return total


def _scatter_score(power: Array, size: int, kurtosis: float) -> float:
    """z-score of the spread of group powers against that of independent entries, upwards.

    For m groups of ``size`` iid entries each, ``T = Σ (p_i/p̄ - 1)² size/(κ-1)`` is about χ²_{m-1};
    its variance is m(2 + c/size) with c the excess kurtosis of w² (12 for a normal, below for the
    bounded families). Wilson & Hilferty's cube root makes it normal; equal norms are no evidence.
    """
    groups = power.size
    if groups < 2:
        return 0.0
    relative = power / _mean(power, 0) - 1.0
    total = float(relative @ relative) * size / (kurtosis - 1.0)
    return _chi_square_score(total, (groups - 1) / (1.0 + 6.0 / size), 1.0 + 6.0 / size)


def _mean_score(mean: Array, size: int) -> float:
    """z-score of the spread of group means (entries of unit variance) against χ²."""
    groups = mean.size
    if groups < 2:
        return 0.0
    centred = mean - _mean(mean, 0)
    return _chi_square_score(float(centred @ centred) * size, groups - 1, 1.0)


def _chi_square_score(total: float, freedom: float, scale: float) -> float:
    """z-score of ``total ~ scale χ²_freedom`` (Wilson & Hilferty 1931)."""
    spread = 2.0 / (9.0 * freedom)
    return float(((total / scale / freedom) ** (1.0 / 3.0) - (1.0 - spread)) / sqrt(spread))


SQUARABLE = 1e-12
"""Scale down to which squares keep their digits in float32, which ends at 1e-38; likewise up."""

EDGE_EXACT = 32
"""Shorter side up to which all singular values cost less than a few steps (15 and 76 μs at 16)."""

EDGE_STEPS = 10
"""Enough for an outlier: from one at the limit of 1.03 to 1.08 times the edge, at most 0.04 % is
missed (Gaussian matrices of 1,000 by 768 to 4,096 by 1,024 with one planted direction)."""


def _edge_excess(matrix: Array, std: float) -> float:
    """How far the largest singular value is above the Marchenko-Pastur edge and its scatter.

    The scatter of the largest singular value is ``edge · min(r,c)^(-2/3)`` times a Tracy-Widom
    variable of standard deviation 1.27/2; three of them (rules' 1 + 3 m^(-2/3)) are never reached.
    """
    rows, columns = matrix.shape
    edge = marchenko_pastur_edge(std, rows, columns)
    allowed = edge * (1.0 + 3.0 * min(rows, columns) ** (-2.0 / 3.0))
    if min(rows, columns) <= EDGE_EXACT:
        return float(singular_values(matrix)[0] - allowed)
    return float(leading_singular_value(matrix, EDGE_STEPS) - allowed)
