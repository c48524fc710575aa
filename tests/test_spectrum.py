from __future__ import annotations

import numpy as np
import pytest

from initlint.measure.spectrum import (
    leading_singular_value,
    marchenko_pastur_edge,
    orthogonality,
    singular_values,
    spectral_norm,
    spectral_radius,
)

RNG = np.random.default_rng(0)


def orthogonal(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    long, short = max(rows, columns), min(rows, columns)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((long, short)))
    return (q if rows >= columns else q.T).astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 8), (64, 200), (200, 64), (150, 150)])
@pytest.mark.parametrize("gain", [0.01, 1.0, 2.0**0.5])
def test_orthogonal_matrices_are_recognised_with_their_gain(shape, gain) -> None:
    found = orthogonality(gain * orthogonal(*shape))
    assert found.residual < 5e-6
    assert found.gain == pytest.approx(gain, rel=1e-5)


def test_random_matrices_are_far_from_orthogonal() -> None:
    assert orthogonality(RNG.standard_normal((128, 128))).residual > 0.1


def test_one_bad_row_beyond_the_sample_is_seen() -> None:
    matrix = orthogonal(200, 200)
    matrix[180] = matrix[181]
    assert orthogonality(matrix).residual == pytest.approx(1.0, abs=1e-3)


def test_packed_gates_are_not_orthogonal_one_by_one() -> None:
    packed = orthogonal(128, 32)
    assert orthogonality(packed).residual < 1e-5
    assert orthogonality(packed[:32]).residual > 0.1


def test_kernels_are_flattened_output_first() -> None:
    kernel = orthogonal(16, 8 * 9).reshape(16, 8, 3, 3)
    assert orthogonality(kernel).residual < 1e-5


def test_degenerate_matrices() -> None:
    assert orthogonality(np.zeros((4, 4))).residual == float("inf")
    assert orthogonality(np.zeros((0, 4))).gain == 0.0
    assert spectral_norm(np.zeros((3, 0))) == 0.0


def test_exact_spectra_agree_with_numpy() -> None:
    matrix = RNG.standard_normal((40, 90))
    assert singular_values(matrix) == pytest.approx(
        np.linalg.svd(matrix, compute_uv=False), rel=1e-8
    )
    assert spectral_norm(matrix.T) == pytest.approx(np.linalg.norm(matrix, 2))
    square = RNG.standard_normal((60, 60))
    assert spectral_radius(square) == pytest.approx(np.abs(np.linalg.eigvals(square)).max())


def test_norm_of_a_large_matrix_is_a_close_lower_bound() -> None:
    matrix = RNG.standard_normal((700, 500)).astype(np.float32)
    exact = float(np.linalg.norm(matrix, 2))
    found = spectral_norm(matrix)
    assert 0.998 * exact < found <= exact * (1 + 1e-5)
    assert spectral_norm(matrix) == found


def test_an_outlier_is_found_within_few_steps() -> None:
    matrix = RNG.standard_normal((400, 300))
    spike = 1.2 * marchenko_pastur_edge(1.0, 400, 300)
    u, v = (
        np.linalg.qr(RNG.standard_normal((400, 1)))[0],
        np.linalg.qr(RNG.standard_normal((300, 1)))[0],
    )
    spiked = matrix + spike * u @ v.T
    assert leading_singular_value(spiked, 10) == pytest.approx(np.linalg.norm(spiked, 2), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1.0, 1e30])
def test_leading_value_has_no_scale_of_its_own(scale: float) -> None:
    matrix = RNG.standard_normal((64, 300))
    found = leading_singular_value(scale * matrix, 24)
    assert found == pytest.approx(scale * np.linalg.norm(matrix, 2), rel=1e-3)


def test_leading_value_where_few_steps_span_everything() -> None:
    orthogonal = np.linalg.qr(RNG.standard_normal((200, 200)))[0]
    assert leading_singular_value(3.0 * orthogonal[:100], 24) == pytest.approx(3.0)
    assert leading_singular_value(np.ones((50, 70)), 24) == pytest.approx(3500**0.5)
    assert leading_singular_value(np.zeros((50, 70)), 24) == 0.0
    assert np.isnan(leading_singular_value(np.full((50, 70), np.inf), 24))


def test_radius_of_a_large_matrix_follows_the_circular_law() -> None:
    size = 500
    matrix = RNG.uniform(-1.0, 1.0, (size, size)) / size**0.5
    exact = np.abs(np.linalg.eigvals(matrix)).max()
    assert spectral_radius(matrix) == pytest.approx(exact, rel=0.03)
    assert spectral_radius(matrix) == pytest.approx(3**-0.5, rel=0.1)


def test_radius_of_a_large_low_rank_matrix_is_exact() -> None:
    matrix = np.zeros((600, 600))
    matrix[:2, :2] = [[0.0, 2.0], [2.0, 0.0]]
    assert spectral_radius(matrix) == pytest.approx(2.0, rel=1e-6)
    assert spectral_radius(np.eye(500)) == pytest.approx(1.0)


def test_radius_needs_a_square() -> None:
    with pytest.raises(ValueError, match="square"):
        spectral_radius(np.ones((2, 3)))


@pytest.mark.parametrize("shape", [(256, 256), (512, 128)])
def test_edge_bounds_the_spectrum_of_iid_matrices(shape: tuple[int, int]) -> None:
    rows, columns = shape
    largest = np.linalg.norm(0.02 * RNG.standard_normal(shape), 2)
    edge = marchenko_pastur_edge(0.02, rows, columns)
    assert largest == pytest.approx(edge, rel=3 * min(shape) ** (-2 / 3))
