from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from initlint.model import Op
from initlint.probe.activations import (
    OutputAccumulator,
    dead_chance,
    output_stats,
    relu_correlation_before,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_moments_of_a_small_output_are_exact() -> None:
    array = normal(16, 8, 5, 5)
    stats = output_stats(array, Op.CONV, samples=16, channel_axis=1)
    assert (stats.count, stats.rows, stats.units, stats.samples) == (array.size, 400, 8, 16)
    exact = array.astype(np.float64)
    assert stats.rms == pytest.approx(np.sqrt((exact**2).mean()), rel=1e-12)
    assert stats.mean == pytest.approx(exact.mean(), rel=1e-9)
    assert stats.std == pytest.approx(exact.std(), rel=1e-12)
    assert (stats.min, stats.max) == (array.min(), array.max())


def test_moments_of_a_large_output_are_within_sampling_error() -> None:
    array = 3 * normal(8, 64, 64, 64)
    stats = output_stats(array, Op.CONV, samples=8, channel_axis=1)
    assert stats.count < array.size
    assert stats.units == 64
    assert stats.rms == pytest.approx(3, rel=0.02)


def test_correlation_is_the_mean_cosine_over_pairs() -> None:
    array = normal(5, 7, 11) + 0.8
    flat = array.reshape(5, -1).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    cosines = (flat @ flat.T)[np.triu_indices(5, 1)]
    stats = output_stats(array, Op.OTHER, samples=5)
    assert stats.correlation == pytest.approx(cosines.mean(), rel=1e-9)


def test_correlation_resolves_nearly_equal_samples() -> None:
    base = normal(1, 1000)
    array = base + 1e-3 * normal(16, 1000, seed=1)
    stats = output_stats(array, Op.LINEAR, samples=16)
    assert 1 - stats.correlation == pytest.approx(1e-6, rel=0.1)


def test_identical_samples_have_no_spread() -> None:
    array = np.repeat(normal(1, 30), 8, axis=0)
    stats = output_stats(array, Op.LINEAR, samples=8)
    assert stats.correlation == pytest.approx(1.0, abs=1e-12)
    assert stats.row_std == pytest.approx(0.0, abs=1e-7)
    assert stats.constant_units == 30


def test_row_std_is_the_part_that_depends_on_the_input() -> None:
    array = 100 * normal(1, 400) + normal(64, 400, seed=1)
    stats = output_stats(array, Op.LINEAR, samples=64)
    assert stats.row_std == pytest.approx(1.0, rel=0.05)
    assert stats.rms > 50


def test_one_sample_says_nothing_about_contrast() -> None:
    stats = output_stats(normal(1, 10, 4), Op.LINEAR, samples=1)
    assert math.isnan(stats.correlation)
    assert math.isnan(stats.row_std)


def test_an_output_that_cannot_vary_is_not_called_collapsed() -> None:
    accumulator = OutputAccumulator(Op.EMBEDDING, varies=False)
    accumulator.update(np.repeat(normal(1, 6, 4), 8, axis=0), 8)
    assert math.isnan(accumulator.finish().correlation)


def test_dead_units_are_silent_on_every_row() -> None:
    array = np.maximum(normal(32, 6, 4, 4), 0)
    array[:, 2] = 0
    array[:, 4] = 0
    array[7, 4, 1, 1] = 0.1  # one activity keeps a unit alive
    stats = output_stats(array, Op.RELU, samples=32, channel_axis=1)
    assert stats.dead_units == 1
    assert stats.constant_units == 1
    assert stats.zero_share == pytest.approx((array == 0).mean())


def test_a_negative_leaky_unit_is_not_dead() -> None:
    array = normal(64, 4)
    array[:, 1] = -0.01
    array[:, 2] = 0.0
    assert output_stats(array, Op.LEAKY_RELU, samples=64).dead_units == 1


def test_dead_chance_matches_a_simulation() -> None:
    generator = np.random.default_rng(0)
    rows, units, correlation = 24, 20_000, 0.8
    shared = generator.standard_normal((1, units))
    own = generator.standard_normal((rows, units))
    z = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    observed = (z <= 0).all(axis=0).mean()
    assert dead_chance(correlation, rows) == pytest.approx(observed, abs=0.01)
    stats = output_stats(np.maximum(z, 0).astype(np.float32), Op.RELU, samples=rows)
    assert stats.dead_chance == pytest.approx(observed, abs=0.01)
    assert stats.dead_units / units == pytest.approx(observed)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_dead_chance_does_not_depend_on_the_length_of_rows(scale: float) -> None:
    rows = np.maximum(normal(32, 500) + 2 * normal(1, 500, seed=1), 0)
    lengths = scale * np.exp(normal(32, 1, seed=2))
    even = output_stats(rows, Op.RELU, samples=32).dead_chance
    uneven = output_stats((lengths * rows).astype(np.float32), Op.RELU, samples=32).dead_chance
    assert uneven == pytest.approx(even, rel=1e-3)


def test_dead_chance_at_the_ends() -> None:
    assert dead_chance(0.0, 10) == pytest.approx(2.0**-10, rel=1e-6)
    assert dead_chance(1.0, 10) == 0.5
    assert dead_chance(0.99, 256) == pytest.approx(0.39, abs=0.005)


@given(st.floats(-0.99, 0.99))
@settings(max_examples=20, deadline=None)
def test_correlation_before_relu_inverts_the_kernel(c: float) -> None:
    theta = math.acos(c)
    after = (math.sin(theta) + (math.pi - theta) * c) / math.pi
    assert relu_correlation_before(after) == pytest.approx(c, abs=1e-6)


@pytest.mark.parametrize(
    ("op", "function", "edge"),
    [
        (Op.TANH, np.tanh, math.atanh(math.sqrt(0.94))),
        (Op.SIGMOID, lambda z: 1 / (1 + np.exp(-z)), None),
        (Op.SOFTSIGN, lambda z: z / (1 + np.abs(z)), 1 / math.sqrt(0.06) - 1),
        (Op.ERF, np.vectorize(math.erf), math.sqrt(math.log(1 / 0.06))),
    ],
)
def test_saturation_is_judged_by_the_derivative(op: Op, function: object, edge: object) -> None:
    z = np.linspace(-6, 6, 4001)
    output = function(z)  # type: ignore[operator]
    derivative = np.gradient(output, z)
    expected = (derivative < 0.06 * derivative.max()).mean()
    stats = output_stats(output[:, None].astype(np.float32), op, samples=4001)
    assert stats.saturated_share == pytest.approx(expected, abs=0.002)
    if edge is not None:
        assert stats.saturated_share == pytest.approx((np.abs(z) > edge).mean(), abs=0.002)


def test_hard_tanh_saturates_at_its_own_bounds() -> None:
    array = np.clip(normal(1000, 4), -0.5, 0.5)
    stats = output_stats(array, Op.HARD_TANH, samples=1000, attrs={"min": -0.5, "max": 0.5})
    assert stats.saturated_share == pytest.approx((np.abs(array) >= 0.5).mean())


def test_activations_that_do_not_saturate_have_share_zero() -> None:
    assert output_stats(100 * normal(8, 8), Op.GELU, samples=8).saturated_share == 0


def test_non_finite_values_are_counted_and_left_out() -> None:
    array = normal(16, 10)
    array[3, 2], array[4, 5], array[5, 5] = np.nan, np.inf, -np.inf
    stats = output_stats(array, Op.LINEAR, samples=16)
    assert stats.non_finite == 3
    kept = array[np.isfinite(array)].astype(np.float64)
    assert stats.rms == pytest.approx(np.sqrt((kept**2).mean()))
    assert math.isfinite(stats.max)


def test_huge_finite_values_are_not_called_infinite() -> None:
    stats = output_stats(np.full((4, 4), 1e30, np.float32), Op.LINEAR, samples=4)
    assert stats.non_finite == 0
    assert stats.rms == pytest.approx(1e30, rel=1e-6)


def test_tiny_values_do_not_underflow() -> None:
    stats = output_stats(np.full((4, 4), 1e-30, np.float32), Op.LINEAR, samples=4)
    assert stats.rms == pytest.approx(1e-30, rel=1e-6)


def test_all_nan_and_empty_outputs_have_no_moments() -> None:
    stats = output_stats(np.full((4, 4), np.nan, np.float32), Op.LINEAR, samples=4)
    assert stats.non_finite == 16
    assert math.isnan(stats.rms)
    assert output_stats(np.zeros((0, 4), np.float32), Op.LINEAR, samples=1).count == 0


def test_several_runs_add_up_to_one() -> None:
    array = np.maximum(normal(12, 6), 0)
    whole = output_stats(array, Op.RELU, samples=12)
    accumulator = OutputAccumulator(Op.RELU, runs=3)
    for start in range(0, 12, 4):
        accumulator.update(array[start : start + 4], 4)
    assert accumulator.finish() == whole


def test_samples_folded_into_another_axis_are_unfolded() -> None:
    array = normal(4, 3, 5)  # samples, tokens, units
    folded = output_stats(array.reshape(12, 5), Op.LINEAR, samples=4)
    whole = output_stats(array, Op.LINEAR, samples=4)
    assert folded.correlation == pytest.approx(whole.correlation)


def test_a_stated_sample_axis_wins_over_the_guess() -> None:
    array = normal(4, 2, 7)  # time, samples, units: the first side is a multiple of the samples
    accumulator = OutputAccumulator(Op.LSTM)
    accumulator.update(array, 2, sample_axis=1)
    whole = output_stats(np.moveaxis(array, 1, 0), Op.LSTM, samples=2)
    assert accumulator.finish().correlation == pytest.approx(whole.correlation)


def test_histogram_counts_everything_between_the_extremes() -> None:
    array = normal(50, 20)
    stats = output_stats(array, Op.LINEAR, samples=50)
    expected, _ = np.histogram(array.astype(np.float64), bins=32)
    assert sum(stats.histogram) == 1000
    assert np.abs(np.array(stats.histogram) - expected).max() <= 1


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, max_dims=5, max_side=5),
        elements=st.floats(width=32),
    ),
    st.integers(1, 5),
    st.integers(-6, 6),
    st.sampled_from([Op.RELU, Op.TANH, Op.LINEAR]),
)
@settings(max_examples=60, deadline=None)
def test_any_array_is_described(array: np.ndarray, samples: int, axis: int, op: Op) -> None:
    stats = output_stats(array, op, samples=samples, channel_axis=axis)
    assert stats.non_finite == array.size - np.isfinite(array).sum()
    assert 0 <= stats.dead_units <= max(stats.units, 0)
    assert 0 <= stats.zero_share <= 1
    finite = array[np.isfinite(array)]
    if finite.size:
        assert (stats.min, stats.max) == (finite.min(), finite.max())
