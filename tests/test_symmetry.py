from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initlint.measure.symmetry import (
    SMALL,
    content_key,
    duplicate_units,
    same_stream,
    surely_differ,
)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_distinct_units_have_no_groups() -> None:
    assert duplicate_units(weights(500, 64)) == ()
    assert duplicate_units(weights(1, 64)) == ()
    assert duplicate_units(np.zeros((4, 0), np.float32)) == ()


def test_half_of_the_units_copied() -> None:
    half = weights(32, 100)
    groups = duplicate_units(np.concatenate((half, half)))
    assert groups == tuple((unit, unit + 32) for unit in range(32))


def test_kernels_and_zero_rows() -> None:
    kernel = weights(6, 3, 3, 3)
    kernel[[1, 4]] = 0.0
    kernel[5] = kernel[0]
    assert duplicate_units(kernel) == ((0, 5), (1, 4))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(1, 20))
def test_groups_are_exactly_the_classes_of_equal_rows(labels: list[int], width: int) -> None:
    rows = weights(6, width)[labels]
    classes: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        classes.setdefault(label, []).append(index)
    expected = sorted(tuple(members) for members in classes.values() if len(members) > 1)
    assert duplicate_units(rows) == tuple(expected)


def test_rounding_of_a_folded_scale_is_tolerated() -> None:
    row = weights(1, 256)
    scaled = np.concatenate((row * np.float32(0.3), row * np.float32(0.3) * np.float32(1 + 2**-23)))
    assert duplicate_units(scaled) == ((0, 1),)
    different = np.concatenate((row, row * np.float32(1 + 1e-4)))
    assert duplicate_units(different) == ()


def test_half_precision_units_must_agree_bit_by_bit() -> None:
    row = weights(1, 64).astype(np.float16).astype(np.float32)
    other = row.copy()
    other[0, 3] += 2.0**-10
    assert duplicate_units(np.concatenate((row, row, other)), "float16") == ((0, 1),)


def test_nearly_equal_sums_are_not_equal_units() -> None:
    permuted = weights(1, 64)
    assert duplicate_units(np.concatenate((permuted, permuted[:, ::-1]))) == ()


def test_non_finite_rows_equal_nothing() -> None:
    matrix = weights(6, 16)
    matrix[3] = matrix[2]
    matrix[0, 0] = np.nan
    matrix[1, 0] = np.nan
    assert duplicate_units(matrix) == ((2, 3),)


@given(
    st.integers(2, 12), st.integers(1, 9), st.sampled_from([1.0, -1.0]), st.integers(0, 2**32 - 1)
)
def test_equal_rows_are_never_sure_to_differ(rows, factor, sign, seed) -> None:
    draw = np.random.default_rng(seed).standard_normal((rows, SMALL), np.float32)
    assert surely_differ(draw, None)
    draw[-1] = sign * draw[0]
    assert not surely_differ(np.repeat(draw, factor, axis=1), None)


def test_rows_that_single_precision_does_not_hold_are_not_sure_to_differ() -> None:
    for value in (np.inf, np.nan, 1e30):
        matrix = weights(64, 128)
        matrix[3, 5] = value
        assert not surely_differ(matrix, None)


def test_many_equal_units_stay_cheap() -> None:
    matrix = np.repeat(weights(3, 8), 20_000, axis=0)
    assert [len(group) for group in duplicate_units(matrix)] == [20_000] * 3


def test_one_stream_scaled_differently_is_recognised() -> None:
    draws = np.random.default_rng(0).uniform(-1, 1, 8192).astype(np.float32)
    a = (draws * np.float32(64**-0.5)).reshape(128, 64)
    b = (draws[:2048] * np.float32(32**-0.5)).reshape(64, 32)
    found = same_stream(a, b)
    assert found is not None
    assert found.ratio == pytest.approx((32 / 64) ** 0.5, rel=1e-5)
    assert found.spread < 1e-6
    assert found.count == 2048


def test_independent_streams_and_trivial_ones_are_not() -> None:
    assert same_stream(weights(64, 64), weights(64, 64, seed=1)) is None
    assert same_stream(np.ones(100), 2 * np.ones(100)) is None
    assert same_stream(np.zeros(100), weights(100)) is None
    assert same_stream(weights(63), weights(63)) is None


def test_content_keys_follow_values_and_shape() -> None:
    array = weights(4, 4)
    assert content_key(array) == content_key(array.copy())
    assert content_key(array) != content_key(array.reshape(2, 8))
    assert content_key(np.float32([0.0, 1.0])) == content_key(np.float32([-0.0, 1.0]))
    assert content_key(array) == content_key(np.asfortranarray(array))
