"""Canonical values written back through every kind of view, and elements encoded exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initlint.fix.canonical import NotInvertible, encode, read_stored, rounded, write_through
from initlint.load.decode import decode
from initlint.model import Tensor, View, from_array


def stored(*shape: int) -> np.ndarray:
    return np.arange(1, 1 + int(np.prod(shape)), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    "see",
    [
        lambda t: t,
        lambda t: t.transpose(),
        lambda t: t.take(0, 2, 4),
        lambda t: t.take(1, 1, 5),
        lambda t: t.reshape(4, 9),
        lambda t: t.transpose().reshape(4, 9),
        lambda t: t.take(0, 0, 4).transpose().reshape(12, 2).take(0, 3, 7),
        lambda t: t.scale(2.0),
        lambda t: t.scale(np.arange(1, 7, dtype=np.float32)).transpose().take(0, 1, 2),
        lambda t: t.shift(3.0).scale(0.5),
    ],
)
def test_what_is_written_is_seen_and_the_rest_keeps_its_bits(see):
    original = stored(6, 6)
    tensor: Tensor = see(from_array("w", original))
    array = read_stored(tensor)
    values = -np.round(tensor.read() * 4).astype(np.float32)
    write_through(array, tensor.views, values)
    after: Tensor = see(from_array("w", array))
    np.testing.assert_allclose(after.read(), values, rtol=1e-6)
    assert np.count_nonzero(array != original) == values.size
    assert (original == stored(6, 6)).all()


def test_a_factor_of_zero_cannot_be_undone():
    tensor = from_array("w", stored(2, 2)).scale(0.0)
    with pytest.raises(NotInvertible, match="zero"):
        write_through(read_stored(tensor), tensor.views, np.ones((2, 2), np.float32))


def test_an_exponential_is_written_as_its_logarithm():
    tensor = replace(from_array("w", np.log(np.array([2.0, 8.0]))), views=(View("exp", None),))
    array = read_stored(tensor)
    write_through(array, tensor.views, np.array([4.0, 8.0]))
    np.testing.assert_allclose(array, np.log([4.0, 8.0]))
    with pytest.raises(NotInvertible, match="exponential"):
        write_through(array, tensor.views, np.array([0.0, 8.0]))


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30))
def test_bfloat16_rounds_as_torch_does(values):
    torch = pytest.importorskip("torch")
    array = np.array(values, np.float32)
    theirs = torch.from_numpy(array).to(torch.bfloat16).view(torch.int16).numpy().tobytes()
    assert encode("bfloat16", array) == theirs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_stored_elements_survive_decoding_and_encoding(dtype):
    width = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[dtype]
    raw = np.random.default_rng(0).integers(0, 255, 64 * width, dtype=np.uint8)
    raw[width - 1 :: width] &= 0x3B  # no exponent of all ones
    values = decode(dtype, raw.tobytes(), 64)
    assert encode(dtype, values) == raw.tobytes()
    assert (rounded(dtype, values) == values).all()


def test_nan_stays_nan_and_quantised_types_are_refused():
    assert np.isnan(rounded("bfloat16", np.array([np.nan], np.float32))).all()
    with pytest.raises(NotInvertible, match="int8"):
        encode("int8", np.zeros(3))
