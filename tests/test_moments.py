from __future__ import annotations

import math
import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from initlint.load.decode import BytesSource, FileSource
from initlint.load.files import open_file
from initlint.measure import moments as road
from initlint.measure.moments import (
    EMPTY,
    PIECE,
    SMALL,
    SPAN,
    array_moments,
    merge,
    moments,
    smallest_normal,
)
from initlint.measure.result import Moments
from initlint.model import ConstantSource, LoadError, Tensor, from_array

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


def test_a_large_tensor_that_varies_in_few_pieces_has_its_true_shape() -> None:
    x = np.zeros(SPAN + PIECE, np.float32)
    x[PIECE : 2 * PIECE] = 1.0
    found = array_moments(x)
    share = PIECE / x.size
    assert found.std == pytest.approx(math.sqrt(share * (1 - share)))
    assert found.kurtosis == pytest.approx(found.skew**2 + 1)


native = pytest.mark.skipif(road._native is None, reason="no compiler when initlint was installed")


def as_stored(values: np.ndarray, dtype: str) -> tuple[Tensor, np.ndarray]:
    """A tensor over encoded values, and what they decode to as float64."""
    if dtype == "bfloat16":
        stored = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        decoded = (stored.astype(np.uint32) << 16).view(np.float32)
    else:
        stored = decoded = values.astype(dtype)
    source = BytesSource(stored.tobytes(), dtype, stored.size)
    return Tensor("w", dtype, values.shape, source), decoded.astype(np.float64)


WIDEST = 2
"""AVX-512, where the processor has it."""


@pytest.fixture(params=["compiled", "common vectors", "numpy"])
def each_road(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(road, "_native", None)
    elif road._native is None:
        pytest.skip("no compiler when initlint was installed")
    else:
        road._native.use_vectors(WIDEST if request.param == "compiled" else 0)
    yield request.param
    if road._native is not None:
        road._native.use_vectors(WIDEST)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int8", "uint8"])
@pytest.mark.parametrize("size", [5, SMALL + 19, PIECE + 1031])
def test_every_road_and_dtype_gives_the_moments(each_road: str, dtype: str, size: int) -> None:
    rng = np.random.default_rng(size)
    if dtype in ("int8", "uint8"):
        values = rng.integers(-128 if dtype == "int8" else 0, 128, size)
    else:
        values = rng.gamma(2.0, 0.01, size) - 0.03
        values[::3] = 0.0
        values[1::1000] = 3e-5
    tensor, decoded = as_stored(values, dtype)
    found = moments(tensor)
    mean, std, skew, kurtosis = reference(decoded)
    assert found.mean == pytest.approx(mean, abs=1e-6 * std)
    assert found.std == pytest.approx(std, rel=1e-6)
    assert found.skew == pytest.approx(skew, abs=1e-4)
    assert found.kurtosis == pytest.approx(kurtosis, rel=1e-4)
    assert (found.count, found.min, found.max) == (size, decoded.min(), decoded.max())
    assert found.zeros == np.count_nonzero(decoded == 0)
    below = np.abs(decoded) < smallest_normal(dtype)
    assert found.subnormals == np.count_nonzero(below & (decoded != 0))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("size", [40, SMALL + 19])
def test_every_road_counts_non_finite_elements(each_road: str, dtype: str, size: int) -> None:
    values = np.random.default_rng(5).standard_normal(size)
    values[[3, 17]], values[[5, 6, 7]] = np.nan, (np.inf, -np.inf, np.inf)
    tensor, decoded = as_stored(values, dtype)
    found = moments(tensor)
    kept = decoded[np.isfinite(decoded)]
    assert (found.count, found.nan, found.inf) == (size, 2, 3)
    assert (found.min, found.max) == (kept.min(), kept.max())
    assert found.mean == pytest.approx(kept.mean(), abs=1e-6)
    assert found.std == pytest.approx(kept.std(), rel=1e-6)


@native
def test_vector_widths_give_the_same_bits() -> None:
    x = np.random.default_rng(6).standard_normal(PIECE + 77, dtype=np.float32)
    found = {}
    for dtype, stored in (
        ("float32", x),
        ("float16", x.astype(np.float16)),
        ("bfloat16", (x.view(np.uint32) >> 16).astype(np.uint16)),
        ("int8", (30 * x).clip(-128, 127).astype(np.int8)),
        ("uint8", (30 * x).clip(-128, 127).astype(np.int8).view(np.uint8)),
    ):
        for width in range(WIDEST + 1):
            assert road._native.use_vectors(width) <= width
            found[dtype, width] = road._native.sums(stored, dtype, smallest_normal(dtype))
        assert len({found[dtype, width] for width in range(WIDEST + 1)}) == 1
    road._native.use_vectors(WIDEST)


@native
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("spread", [0.5, 1e-3])
def test_blocks_far_from_the_elements_before_have_their_true_moments(
    dtype: str, spread: float
) -> None:
    """The compiled sums go about the mean of the elements before, far outside of these blocks."""
    rng = np.random.default_rng(5)
    centres = np.repeat([0.0, 50.0, -3.0, 50.0, 1000.0, 0.0, 7.0], 2048)
    values = centres + rng.normal(0.0, spread, centres.size)
    for start in range(0, centres.size, 2048):  # each block by itself, after one at another place
        both = np.concatenate((values[-2048:], values[start : start + 2048], values[:16]))
        tensor, decoded = as_stored(both, dtype)
        found = moments(tensor)
        mean, std, skew, kurtosis = reference(decoded)
        assert found.mean == pytest.approx(mean, abs=1e-6 * std)
        assert found.std == pytest.approx(std, rel=1e-6)
        assert found.skew == pytest.approx(skew, abs=1e-4)
        assert found.kurtosis == pytest.approx(kurtosis, rel=1e-4)
        assert (found.min, found.max) == (decoded.min(), decoded.max())


@native
def test_integers_are_summed_exactly() -> None:
    values = np.random.default_rng(7).integers(-128, 128, (1 << 22) + 999).astype(np.int8)
    n, mean, m2, m3, m4, *_ = road._native.sums(values[: 1 << 22], "int8", 0.0)
    sums = [int((values[:n].astype(np.int64) ** power).sum()) for power in (1, 2, 3, 4)]
    a, b, c, d = sums
    assert mean == a / n
    assert m2 == pytest.approx((n * b - a * a) / n, rel=1e-15)
    assert m3 == pytest.approx((n * n * c - 3 * n * a * b + 2 * a**3) / n**2, rel=1e-15)
    fourth = (n**3 * d - 4 * n * n * a * c + 6 * n * a * a * b - 3 * a**4) / n**3
    assert m4 == pytest.approx(fourth, rel=1e-15)


@native
def test_all_half_precision_numbers_decode(each_road: str) -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    tensor = Tensor("w", "float16", codes.shape, BytesSource(codes.tobytes(), "float16", 1 << 16))
    found, values = moments(tensor), codes.view(np.float16)
    assert found.nan == np.count_nonzero(np.isnan(values))
    assert found.inf == 2
    kept = values[np.isfinite(values)].astype(np.float64)
    assert (found.min, found.max) == (kept.min(), kept.max())
    assert found.std == pytest.approx(kept.std(), rel=1e-6)
    assert (found.zeros, found.subnormals) == (2, 2 * 1023)


@native
def test_the_compiled_sums_refuse_what_they_cannot_read() -> None:
    with pytest.raises(ValueError, match="int3"):
        road._native.sums(b"12", "int3", 0.0)
    with pytest.raises(ValueError, match="float32"):
        road._native.sums(b"12345", "float32", 0.0)


def test_the_number_of_threads_changes_no_bit(monkeypatch) -> None:
    x = np.random.default_rng(8).standard_normal(2 * SPAN + 9, dtype=np.float32)
    several = array_moments(x)
    monkeypatch.setattr(road, "_cores", lambda: 1)
    assert array_moments(x) == several


def test_without_a_compiled_module_numpy_is_used(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "initlint.measure._moments", None)
    assert road._compiled() is None


@pytest.mark.skipif(road._native is None, reason="no compiler was there")
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int8", "uint8"])
@pytest.mark.parametrize("size", [1, 4095, SPAN + 7])
def test_elements_in_a_file_have_the_moments_of_those_in_memory(tmp_path, dtype: str, size: int):
    layout = {"bfloat16": "<u2", "int8": "i1", "uint8": "u1"}.get(dtype, dtype)
    noise = np.random.default_rng(size).integers(0, 256, size * np.dtype(layout).itemsize)
    stored = noise.astype(np.uint8).tobytes()  # every bit pattern: NaN, infinities, subnormals
    path = tmp_path / "weights"
    path.write_bytes(b"odd" + stored)
    with open_file(str(path)) as file:
        placed = Tensor("w", dtype, (size,), FileSource(file, 3, dtype, size))
        held = Tensor("w", dtype, (size,), BytesSource(stored, dtype, size))
        assert repr(moments(placed)) == repr(moments(held))
        os.truncate(path, 2 + len(stored))
        with pytest.raises(LoadError, match="changed while it was read"):
            moments(placed)


@pytest.mark.skipif(road._native is None, reason="no compiler was there")
def test_the_compiled_sums_of_a_file_refuse_what_they_cannot_read(tmp_path) -> None:
    (tmp_path / "short").write_bytes(b"1234")
    descriptor = os.open(tmp_path / "short", os.O_RDONLY)
    try:
        with pytest.raises(EOFError):
            road._native.sums_of_file(descriptor, 0, 2, "float32", 0.0)
        for offset, count, dtype in ((-1, 1, "int8"), (0, -1, "int8"), (0, 1, "int4")):
            with pytest.raises(ValueError, match="no elements"):
                road._native.sums_of_file(descriptor, offset, count, dtype, 0.0)
    finally:
        os.close(descriptor)
    with pytest.raises(OSError, match="descriptor"):
        road._native.sums_of_file(descriptor, 0, 1, "int8", 0.0)
