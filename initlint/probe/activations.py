"""Statistics of one layer's output, from one array or accumulated over several runs."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, erfc, exp, log, pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.probe.result import OutputStats

Array = NDArray[Any]

ELEMENTS = 1 << 18
"""Elements looked at per array, drawn over positions (every sample and unit is kept).

The relative sampling error of an rms is √((κ−1)/4n) with kurtosis κ: below 0.5 % at 2^18 even for
κ = 30, which is far below any threshold of a rule, and the cost stays below that of the run.
"""

DEAD_ELEMENTS = 1 << 20
"""The same for ReLU-like outputs, where rare activity decides whether a unit is dead."""

SAMPLE_ELEMENTS = 1 << 13
"""Elements per sample that enter the comparison of samples: 1−c is then known to about 2 %."""

SATURATED_DERIVATIVE = 0.06
"""Share of the greatest derivative below which a unit counts as saturated.

For tanh this is |z| > 2.09. Where a share f of the units is saturated the others carry the
gradient, so the backward gain falls to about 1−f of the unsaturated one.
"""

BINS = 32
HISTOGRAM_ELEMENTS = 1 << 15
"""A thousand elements per bin: the shape of a histogram needs no more."""

_RELU_LIKE = frozenset({"relu", "relu6", "thresholded_relu"})
"""Values of `initlint.model.Op`, which is not imported: the probe's child process starts faster."""


def output_stats(
    array: Array,
    op: str,
    *,
    samples: int,
    channel_axis: int = -1,
    attrs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> OutputStats:
    """Statistics of one output array.

    Args:
        array: the output, any shape, real numbers.
        op: what the layer computes (an `initlint.model.Op`); decides what dead and saturated mean.
        samples: distinct inputs in the batch. Their axis is found by its size: the first axis when
            its size is a multiple of it (rows of one sample are adjacent), else the first axis of
            that very size.
        channel_axis: axis that holds the units; all other axes are rows.
        attrs: the layer's attributes (bounds of a hard tanh).
        seed: seeds the choice of positions in large arrays.
    """
    accumulator = OutputAccumulator(op, channel_axis=channel_axis, attrs=attrs, seed=seed)
    accumulator.update(array, samples)
    return accumulator.finish()


class OutputAccumulator:
    """Collects `OutputStats` of one layer over one or several runs on different samples."""

    def __init__(
        self,
        op: str,
        *,
        channel_axis: int = -1,
        attrs: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self._op = op
        self._channel_axis = channel_axis
        self._attrs = attrs or {}
        self._seed = seed
        self._count = 0
        self._rows = 0
        self._sum = 0.0
        self._square = 0.0
        self._zeros = 0
        self._saturated = 0
        self._non_finite = 0
        self._min = np.inf
        self._max = -np.inf
        self._unit_min: Array | None = None
        self._unit_max: Array | None = None
        self._unit_sum: Array | None = None
        self._unit_square: Array | None = None
        self._samples = _SampleMoments()
        self._values: list[Array] = []

    def update(self, array: Array, samples: int, sample_axis: int | None = None) -> None:
        """Add the output of one run on ``samples`` distinct inputs.

        ``sample_axis`` is the axis that holds them, alone or folded with others behind it; None:
        it is guessed from its size.
        """
        if array.size == 0:
            return
        if array.dtype not in (np.float32, np.float64):
            array = array.astype(np.float32)
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = np.isfinite(array)
            self._non_finite += array.size - int(finite.sum())
            if not finite.any():
                self._count += array.size
                return
            array = np.where(finite, array, 0)
            low, high = float(array[finite].min()), float(array[finite].max())
        self._min, self._max = min(self._min, low), max(self._max, high)
        cap = DEAD_ELEMENTS if self._op in _RELU_LIKE else ELEMENTS
        block, split = _blocks(array, samples, sample_axis, self._channel_axis, cap, self._seed)
        self._add_elements(block)
        self._add_units(block)
        self._samples.update(block.reshape(block.shape[0], -1), split, self._seed)

    def _add_elements(self, block: Array) -> None:
        flat = block.reshape(-1).astype(np.float64)
        self._count += flat.size
        self._sum += float(flat.sum())
        self._square += float(np.dot(flat, flat))
        self._zeros += flat.size - int(np.count_nonzero(flat))
        self._saturated += _saturated(flat, self._op, self._attrs)
        step = ceil(flat.size / HISTOGRAM_ELEMENTS)
        self._values.append(flat[::step].astype(np.float32))

    def _add_units(self, block: Array) -> None:
        axes = (0, 1, 3)
        low, high = block.min(axis=axes), block.max(axis=axes)
        total = block.sum(axis=axes, dtype=np.float64)
        square = np.einsum("saub,saub->u", block, block, dtype=np.float64, casting="safe")
        self._rows += block.size // block.shape[2]
        if self._unit_min is None or self._unit_min.shape != low.shape:
            self._unit_min, self._unit_max = low, high
            self._unit_sum, self._unit_square = total, square
            return
        assert self._unit_max is not None
        assert self._unit_sum is not None
        assert self._unit_square is not None
        self._unit_min = np.minimum(self._unit_min, low)
        self._unit_max = np.maximum(self._unit_max, high)
        self._unit_sum = self._unit_sum + total
        self._unit_square = self._unit_square + square

    def finish(self) -> OutputStats:
        """The statistics of everything added so far."""
        if self._unit_min is None or self._unit_max is None:
            nan = float("nan")
            return OutputStats(
                self._count, 0, 0, 0, nan, nan, nan, nan, nan, non_finite=self._non_finite
            )
        mean = self._sum / self._count
        square = self._square / self._count
        units = int(self._unit_min.size)
        several = self._rows > 1
        silent = (self._unit_max <= 0) & (
            (self._unit_min == 0) | (self._op in _RELU_LIKE)  # zero throughout, or never positive
        )
        correlation, row_std = self._samples.finish()
        histogram, span = _histogram(self._values, self._min, self._max)
        return OutputStats(
            count=self._count,
            rows=self._rows,
            samples=self._samples.count,
            units=units,
            rms=sqrt(square),
            mean=mean,
            std=sqrt(max(square - mean * mean, 0.0)),
            min=self._min,
            max=self._max,
            non_finite=self._non_finite,
            zero_share=self._zeros / self._count,
            dead_units=int(silent.sum()),
            dead_chance=self._dead_chance(),
            saturated_share=self._saturated / self._count,
            correlation=correlation,
            constant_units=int((self._unit_min == self._unit_max).sum()) if several else 0,
            row_std=row_std,
            histogram=histogram,
            histogram_range=span,
        )

    def _dead_chance(self) -> float:
        if self._op not in _RELU_LIKE or self._rows < 2 or self._unit_sum is None:
            return float("nan")
        assert self._unit_square is not None
        square = float(self._unit_square.sum())
        if square <= 0.0:
            return float("nan")
        rows = self._rows
        pairs = float((self._unit_sum**2).sum()) - square  # sum over pairs of different rows
        return dead_chance(relu_correlation_before(pairs / (rows - 1) / square), rows)


def dead_chance(correlation: float, rows: int) -> float:
    """Share of ReLU units expected to be silent on all of ``rows`` inputs by chance.

    Pre-activations of one unit on N inputs whose pairwise cosine is c are modelled as
    z_k = √c·t + √(1−c)·ε_k with independent standard normal t and ε_k; the unit is silent with
    probability ∫ φ(t) Φ(−t·√(c/(1−c)))^N dt. Measured on He-initialised MLPs of 9, 19 and 29
    layers: 0.104, 0.231, 0.342 against 0.112, 0.244, 0.310 by the formula.
    """
    if correlation >= 1.0:
        return 0.5
    slope = sqrt(max(correlation, 0.0) / (1.0 - correlation))
    step = 0.02
    total = 0.0
    for k in range(-400, 401):
        t = k * step
        below = 0.5 * erfc(t * slope / sqrt(2.0))
        if below > 0.0:
            total += exp(-0.5 * t * t + rows * log(below))
    return min(total * step / sqrt(2.0 * pi), 1.0)


def relu_correlation_before(after: float) -> float:
    """Cosine c of two Gaussian pre-activations from the cosine after ReLU.

    Inverts the arc-cosine kernel of degree one (Cho & Saul 2009):
    ĉ = (sin θ + (π−θ)·cos θ)/π with θ = arccos c, which increases in c.
    """
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        theta = float(np.arccos(middle))
        if (np.sin(theta) + (pi - theta) * middle) / pi < after:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


class _SampleMoments:
    """How outputs differ between samples: mean cosine, and spread at each position."""

    def __init__(self) -> None:
        self.count = 0
        self._directions = 0
        self._sum: Array | None = None
        self._square: Array | None = None
        self._direction: Array | None = None
        self._comparable = True

    def update(self, rows: Array, split: bool, seed: int) -> None:
        """Add samples as rows; ``split`` is False when the samples could not be told apart."""
        self._comparable &= split
        width = rows.shape[1]
        if width > SAMPLE_ELEMENTS:
            chosen = np.random.default_rng(seed).choice(width, SAMPLE_ELEMENTS, replace=False)
            chosen.sort()
            rows = rows[:, chosen]
        data = rows.astype(np.float64)
        scale = np.abs(data).max(axis=1, keepdims=True)
        moving = scale[:, 0] > 0
        unit = data[moving] / scale[moving]
        unit /= np.sqrt((unit * unit).sum(axis=1, keepdims=True))
        total, square = data.sum(axis=0), (data * data).sum(axis=0)
        if self._sum is None or self._sum.shape != total.shape:
            self._comparable &= self._sum is None  # another shape: nothing to compare with
            self._sum, self._square, self._direction = total, square, unit.sum(axis=0)
        else:
            self._sum = self._sum + total
            self._square = self._square + square
            self._direction = self._direction + unit.sum(axis=0)
        self.count += len(data)
        self._directions += len(unit)

    def finish(self) -> tuple[float, float]:
        """Mean cosine over pairs of different samples, and the spread across samples.

        With unit vectors u_s, Σ_{s≠t} u_s·u_t = ‖Σu_s‖² − n, so no pair is formed.
        """
        nan = float("nan")
        if self.count < 2 or not self._comparable or self._sum is None:
            return nan, nan
        assert self._square is not None
        assert self._direction is not None
        n, moving = self.count, self._directions
        correlation = nan
        if moving > 1:
            pairs = float(np.dot(self._direction, self._direction)) - moving
            correlation = min(max(pairs / (moving * (moving - 1)), -1.0), 1.0)
        variance = (self._square - self._sum * self._sum / n) / (n - 1)
        return correlation, sqrt(max(float(variance.mean()), 0.0))


def _blocks(
    array: Array,
    samples: int,
    sample_axis: int | None,
    channel_axis: int,
    cap: int,
    seed: int,
) -> tuple[Array, bool]:
    """``array`` as ``(samples, before, units, after)``, and whether samples were told apart.

    Positions are dropped until at most ``cap`` elements are left; samples and units never are.
    """
    shape = array.shape
    rank = len(shape)
    unit = channel_axis % rank if -rank <= channel_axis < rank else rank - 1
    axis = _sample_axis(shape, samples, unit) if sample_axis is None else sample_axis
    if samples < 2 or axis is None:
        array, unit = array[None], unit + 1
    else:
        inner = shape[axis] // samples
        array = np.moveaxis(
            array.reshape(*shape[:axis], samples, inner, *shape[axis + 1 :]), axis, 0
        )
        unit = -1 if unit == axis else unit + 1
    count = array.shape[0]
    if unit < 1:  # the samples are the only axis: one unit
        array = array.reshape(count, -1, 1, 1)
    else:
        after = int(np.prod(array.shape[unit + 1 :]))
        array = array.reshape(count, -1, array.shape[unit], after)
    _, before, units, after = array.shape
    keep = max(cap // (count * units), 1)
    if before * after > keep:
        generator = np.random.default_rng(seed)
        if before >= after:
            array = array[:, _choose(generator, before, max(keep // after, 1))]
        else:
            array = array[..., _choose(generator, after, max(keep // before, 1))]
    return array, samples < 2 or axis is not None


def _sample_axis(shape: tuple[int, ...], samples: int, unit: int) -> int | None:
    if samples < 2 or not shape:
        return None
    if shape[0] % samples == 0 and shape[0] > 0:
        return 0
    return next((axis for axis, side in enumerate(shape) if side == samples and axis != unit), None)


def _choose(generator: np.random.Generator, size: int, count: int) -> Array:
    chosen = generator.choice(size, min(count, size), replace=False)
    chosen.sort()
    return chosen


def _saturated(flat: Array, op: str, attrs: Mapping[str, Any]) -> int:
    """Elements whose derivative, computed from the output, is under the limit.

    sigmoid' = y(1−y) ≤ 1/4; tanh' = 1−y²; softsign' = (1−|y|)²; erf' ∝ exp(−x²), so the limit is
    |y| > erf(√ln(1/0.06)); the hard ones are flat exactly at their bounds.
    """
    limit = SATURATED_DERIVATIVE
    if op == "sigmoid":
        return int(np.count_nonzero(flat * (1.0 - flat) < 0.25 * limit))
    if op == "tanh":
        return int(np.count_nonzero(flat * flat > 1.0 - limit))
    if op == "softsign":
        return int(np.count_nonzero(np.abs(flat) > 1.0 - sqrt(limit)))
    if op == "erf":
        return int(np.count_nonzero(np.abs(flat) > 1.0 - erfc(sqrt(log(1.0 / limit)))))
    if op == "hard_sigmoid":
        return int(np.count_nonzero((flat <= 0.0) | (flat >= 1.0)))
    if op == "hard_tanh":
        low, high = float(attrs.get("min", -1.0)), float(attrs.get("max", 1.0))
        return int(np.count_nonzero((flat <= low) | (flat >= high)))
    return 0


def _histogram(
    values: list[Array], low: float, high: float
) -> tuple[tuple[int, ...], tuple[float, float]]:
    width = high - low
    if not np.isfinite(width):  # the span of float64 extremes overflows
        return (), (low, high)
    upper = high if width > 0 else low + 1.0
    counts = np.zeros(BINS, dtype=np.int64)
    for part in values:
        clipped = np.clip(part.astype(np.float64), low, upper)
        counts += np.histogram(clipped, bins=BINS, range=(low, upper))[0]
    return tuple(int(count) for count in counts), (low, high)
