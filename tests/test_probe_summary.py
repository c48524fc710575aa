"""The compiled sums of outputs against those that NumPy makes."""

from __future__ import annotations

import numpy as np
import pytest

from initlint.probe import summary

native = pytest.importorskip("initlint.probe._outputs")

SHAPES = [(61, 1, 8, 70), (256, 3, 9, 1), (16, 1, 40, 4), (5, 3, 5, 7), (2, 1, 3, 1), (3, 2, 1, 19)]


def block(shape: tuple[int, ...], scale: float) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(shape) + 0.3
    values[1:, ..., ::2] *= values[1:, ..., ::2] > 0
    values[0] = 0
    return (values * scale).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1.0, 1e37])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways_agree(
    shape: tuple[int, ...], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = block(shape, scale)
    rows = values.reshape(shape[0], -1)
    columns = np.arange(0, rows.shape[1], 2)

    def measured() -> tuple[summary.Summary, list[float]]:
        found = summary.summarise(values)
        ratios = [found.mean, found.rms, found.std, summary.unit_cosine(values)]
        for chosen in (None, columns):
            ratios += summary.contrast(rows, chosen)
        return found, [*ratios, summary.silent_sum(0.7, 20, 0.02)]

    compiled, numbers = measured()
    monkeypatch.setattr(summary, "_native", None)
    plain, expected = measured()
    np.testing.assert_allclose(numbers, expected, rtol=1e-11)
    assert compiled.zeros == plain.zeros
    assert np.array_equal(compiled.unit_low, plain.unit_low)
    assert np.array_equal(compiled.unit_high, plain.unit_high)


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways_count_alike(
    shape: tuple[int, ...], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ends of the range are those of the values, or narrower."""
    values = block(shape, 1.0).reshape(-1)
    for low, high in ((float(values.min()), float(values.max())), (-0.5, 0.25)):
        compiled = summary.histogram(values, step, low, high, 32)
        with monkeypatch.context() as patch:
            patch.setattr(summary, "_native", None)
            assert summary.histogram(values, step, low, high, 32) == compiled
        assert sum(compiled) == len(values[::step])


def test_blocks_that_do_not_lie_in_order_are_read_in_order() -> None:
    values = np.moveaxis(block((7, 4, 5, 6), 1.0), 0, -1)
    ordered = np.ascontiguousarray(values)
    assert repr(summary.summarise(values)) == repr(summary.summarise(ordered))
    assert summary.unit_cosine(values) == summary.unit_cosine(ordered)


def test_rows_without_a_direction_have_no_cosine() -> None:
    rows = np.zeros((4, 6), np.float32)
    rows[0] = 1
    cosine, spread = summary.contrast(rows, None)
    assert np.isnan(cosine)
    assert spread == pytest.approx(0.5)
    assert np.isnan(summary.unit_cosine(rows.reshape(4, 1, 6, 1)))


@pytest.mark.parametrize(
    "call",
    [
        lambda data: native.summary(data, 2, 3, 5, np.empty(3, "f4"), np.empty(3, "f4")),
        lambda data: native.summary(data, 2, 3, 4, np.empty(2, "f4"), np.empty(3, "f4")),
        lambda data: native.summary(data, -2, -3, 4, np.empty(3, "f4"), np.empty(3, "f4")),
        lambda data: native.summary(data, 2**40, 2**40, 3, np.empty(3, "f4"), np.empty(3, "f4")),
        lambda data: native.deviation(data.view(np.uint8)[:-1], 0.0),
        lambda data: native.contrast(data, 1, np.empty(0, "i8")),
        lambda data: native.contrast(data, 7, np.empty(0, "i8")),
        lambda data: native.contrast(data, 2, np.array([12])),
        lambda data: native.contrast(data, 2, np.array([-1])),
        lambda data: native.directions(data, 2, 3, 5),
        lambda data: native.directions(data, 0, 3, 4),
        lambda data: native.histogram(data, 0, 0.0, 1.0, np.empty(3, "i8")),
        lambda data: native.histogram(data, 1, 0.0, 1.0, np.empty(0, "i8")),
        lambda data: native.histogram(data, 1, 0.0, 1.0, np.empty(65, "i8")),
    ],
)
def test_a_wrong_size_is_refused(call: object) -> None:
    with pytest.raises(ValueError, match="size"):
        call(np.zeros(24, np.float32))
