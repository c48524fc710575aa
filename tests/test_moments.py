from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from initlint.measure.moments import (
    EMPTY,
    PIECE,
    SHAPE_ALL,
    SHAPE_STEP,
    SMALL,
    SPAN,
    array_moments,
    merge,
    moments,
    smallest_normal,
)
from initlint.measure.result import Moments
from initlint.model import ConstantSource, Tensor, from_array

finite = hnp.arrays(
    np.float64,
    st.integers(1, 60),
    elements=st.floats(-1e6, 1e6, allow_subnormal=False),
)


def reference(array: np.ndarray) -> tuple[float, float, float, float]:
    x = array.reshape(-1).astype(np.longdouble)
    mean = x.mean()
    d = x - mean
    variance = (d**2).mean()
    if variance == 0:
        return float(mean), 0.0, 0.0, 0.0
    return (
        float(mean),
        float(np.sqrt(variance)),
        float((d**3).mean() / variance**1.5),
        float((d**4).mean() / variance**2),
    )


def assert_close(found: Moments, array: np.ndarray, tolerance: float) -> None:
    mean, std, skew, kurtosis = reference(array)
    scale = float(np.abs(array).max()) or 1.0
    assert found.mean == pytest.approx(mean, abs=tolerance * scale)
    assert found.std == pytest.approx(std, rel=tolerance, abs=1e-12 * scale)
    if std > 1e-6 * scale:
        assert found.skew == pytest.approx(skew, rel=tolerance, abs=100 * tolerance)
        assert found.kurtosis == pytest.approx(kurtosis, rel=100 * tolerance)


def assert_same(a: Moments, b: Moments, scale: float) -> None:
    assert (a.count, a.zeros, a.min, a.max) == (b.count, b.zeros, b.min, b.max)
    assert a.mean == pytest.approx(b.mean, abs=1e-12 * scale)
    assert a.std == pytest.approx(b.std, rel=1e-7, abs=1e-10 * scale)
    if a.std > 1e-6 * scale:
        assert a.skew == pytest.approx(b.skew, rel=1e-6, abs=1e-6)
        assert a.kurtosis == pytest.approx(b.kurtosis, rel=1e-6)


@given(finite)
def test_agrees_with_extended_precision(array: np.ndarray) -> None:
    assert_close(array_moments(array), array, 1e-7)


@given(finite, finite, finite)
def test_merge_is_associative_and_commutative(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    x, y, z = map(array_moments, (a, b, c))
    scale = max(float(np.abs(part).max()) for part in (a, b, c)) or 1.0
    assert_same(merge(merge(x, y), z), merge(x, merge(y, z)), scale)
    assert_same(merge(x, y), merge(y, x), scale)
    assert_same(merge(merge(x, y), z), array_moments(np.concatenate((a, b, c))), scale)


@given(finite, st.randoms(use_true_random=False))
def test_order_does_not_matter(array: np.ndarray, random) -> None:
    shuffled = array.copy()
    random.shuffle(shuffled)
    scale = float(np.abs(array).max()) or 1.0
    assert_same(array_moments(array), array_moments(shuffled), scale)


@given(finite)
def test_nothing_is_the_neutral_element(array: np.ndarray) -> None:
    found = array_moments(array)
    assert merge(found, EMPTY) == found
    assert merge(EMPTY, found) == found


@pytest.mark.parametrize(
    ("mean", "std"),
    [(0.0, 0.02), (0.02, 0.02), (1.0, 0.02), (-50.0, 1e-3), (0.0, 1e-12), (3e4, 1.0)],
)
def test_fast_road_is_sound_for_any_location_and_scale(mean: float, std: float) -> None:
    rng = np.random.default_rng(1)
    array = (mean + std * rng.standard_normal(PIECE + 12345)).astype(np.float32)
    found = moments(from_array("w", array))
    exact_mean, exact_std, skew, kurtosis = reference(array)
    assert found.mean == pytest.approx(exact_mean, abs=2e-6 * (std + abs(mean) * 1e-2))
    assert found.std == pytest.approx(exact_std, rel=2e-5)
    assert found.skew == pytest.approx(skew, abs=1e-3)
    assert found.kurtosis == pytest.approx(kurtosis, rel=1e-3)
    assert (found.min, found.max) == (float(array.min()), float(array.max()))


def test_threads_give_the_moments_of_one_pass() -> None:
    rng = np.random.default_rng(2)
    array = rng.uniform(-1.0, 1.0, SPAN + PIECE // 2).astype(np.float32)
    array[[5, 77_777, SPAN + 3]] = 0.0
    array[SPAN + 9] = 1e-40
    found = moments(from_array("w", array))
    assert found == array_moments(array)
    assert found.count == array.size
    assert (found.zeros, found.subnormals, found.non_finite) == (3, 1, 0)
    assert found.kurtosis == pytest.approx(1.8, abs=0.01)
    assert (found.min, found.max) == (float(array.min()), float(array.max()))


@pytest.mark.parametrize("size", [7, 10_000])
def test_non_finite_values_are_counted_and_left_out(size: int) -> None:
    rng = np.random.default_rng(3)
    clean = rng.standard_normal(size).astype(np.float32)
    dirty = np.concatenate((clean, np.float32([np.nan, np.inf, -np.inf, np.nan])))
    found = array_moments(dirty)
    assert (found.count, found.nan, found.inf, found.non_finite) == (size + 4, 2, 2, 4)
    assert_close(found, clean, 1e-5)


def test_only_non_finite_values_leave_no_statistics() -> None:
    found = array_moments(np.float32([np.nan, np.inf]))
    assert math.isnan(found.mean)
    assert not found.constant
    assert merge(found, array_moments(np.float32([1.0, 3.0]))).mean == 2.0


@pytest.mark.parametrize("magnitude", [1e-30, 1e30, 3e38])
def test_fourth_powers_neither_overflow_nor_vanish(magnitude: float) -> None:
    signs = np.random.default_rng(4).choice([-1.0, 1.0], 8192)
    array = (magnitude * signs).astype(np.float32)
    found = array_moments(array)
    assert found.std == pytest.approx(magnitude, rel=1e-3)
    assert found.kurtosis == pytest.approx(1.0, rel=1e-2)


def test_subnormals_are_those_of_the_storage_dtype() -> None:
    array = np.float32([3e-5, 1.0, 0.0, 1e-39] * 2000)
    assert array_moments(array, "float16").subnormals == 4000
    assert array_moments(array, "bfloat16").subnormals == 2000
    assert array_moments(array, "float32").subnormals == 2000
    assert array_moments(array, "int8").subnormals == 0
    assert array_moments(array, "float16").zeros == 2000
    assert smallest_normal("float8_e4m3fn") == 2.0**-6


def test_a_constant_is_exact() -> None:
    tensor = Tensor("c", "float32", (300_000,), ConstantSource(0.1))
    found = moments(tensor)
    assert found.constant
    assert (found.std, found.skew, found.kurtosis) == (0.0, 0.0, 0.0)
    assert found.mean == float(np.float32(0.1))


def test_views_are_measured_as_the_operator_sees_them() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensor = from_array("w", array).transpose().take(0, 1, 3).scale(2.0)
    assert_close(moments(tensor), 2.0 * array.T[1:3], 1e-6)
    assert moments(from_array("e", np.zeros((0, 4), np.float32))).count == 0


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(0, 2**31))
def test_streaming_equals_the_whole(pieces: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.standard_normal(5000 * pieces).astype(np.float32)
    total = EMPTY
    for part in np.array_split(array, pieces):
        total = merge(total, array_moments(part))
    whole = array_moments(array)
    assert total.std == pytest.approx(whole.std, rel=1e-5)
    assert total.kurtosis == pytest.approx(whole.kurtosis, rel=1e-4)


signs = st.sampled_from(["mixed", "positive", "negative"])
planted = st.lists(
    st.sampled_from([0.0, -0.0, 1e-40, -1e-40, 2e-38, -2e-38, 7.0, -7.0, 1e-3]), max_size=4
)


@given(signs, planted, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_fast_extremes_and_counts_are_exact(sign: str, values: list[float], random) -> None:
    x = np.random.default_rng(1).uniform(0.1, 1.0, SMALL + 37).astype(np.float32)
    if sign == "mixed":
        x[::3] *= -1
    elif sign == "negative":
        x = -x
    for value in values:
        x[random.randrange(x.size)] = value
    found = array_moments(x)
    assert (found.min, found.max) == (x.min(), x.max())
    assert found.zeros == np.count_nonzero(x == 0)
    assert found.subnormals == np.count_nonzero((np.abs(x) < 2.0**-126) & (x != 0))
    assert_close(found, x, 2e-5)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_non_finite_value_in_a_large_piece_is_seen(value: float) -> None:
    x = np.random.default_rng(2).standard_normal(PIECE + SMALL).astype(np.float32)
    x[PIECE // 2] = value
    found = array_moments(x)
    kept = x[np.isfinite(x)]
    assert (found.nan, found.inf) == (int(np.isnan(value)), int(np.isinf(value)))
    assert (found.count, found.min, found.max) == (x.size, kept.min(), kept.max())


def test_the_shape_of_a_large_tensor_is_that_of_every_fourth_piece() -> None:
    x = np.random.default_rng(3).standard_exponential(SHAPE_ALL + PIECE, dtype=np.float32)
    found = array_moments(x)
    pieces = [x[start : start + PIECE] for start in range(0, x.size, PIECE)][::SHAPE_STEP]
    sampled = array_moments(np.concatenate(pieces)[:SHAPE_ALL])
    assert found.shape_count == sampled.count < found.count
    assert (found.skew, found.kurtosis) == pytest.approx((sampled.skew, sampled.kurtosis), rel=1e-5)
    assert found.mean == pytest.approx(x.mean(dtype=np.float64), rel=1e-6)
    assert found.std == pytest.approx(x.std(dtype=np.float64), rel=1e-6)
    assert (found.min, found.max) == (x.min(), x.max())


def test_up_to_a_size_the_shape_is_that_of_all() -> None:
    x = np.random.default_rng(4).standard_normal(SHAPE_ALL, dtype=np.float32)
    assert array_moments(x).shape_count == 0


def test_a_large_tensor_that_varies_only_between_sampled_pieces_has_its_true_shape() -> None:
    x = np.zeros(SHAPE_ALL + PIECE, np.float32)
    x[PIECE : 2 * PIECE] = 1.0
    found = array_moments(x)
    share = PIECE / x.size
    assert found.shape_count == 0
    assert found.std == pytest.approx(math.sqrt(share * (1 - share)))
    assert found.kurtosis == pytest.approx(found.skew**2 + 1)
