import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from initlint.model import ACTIVATIONS, Op
from initlint.theory.activations import (
    activation,
    backward_gain,
    correlation_map,
    derivative_moment,
    first_moment,
    forward_gain,
    kurtosis,
    moments,
    second_moment,
    slope,
    standardised_gain,
)
from initlint.theory.functions import _piecewise

# E[φ], E[φ²], E[φ'²], g_f, g_b, g_NF, slope, κ at q = 1: integrated independently on a grid of
# 200,001 points
TABLE = [
    (Op.IDENTITY, {}, 0, 1, 1, 1, 1, 1, 1, 2),
    (Op.RELU, {}, 0.3989, 0.5, 0.5, 1.4142, 1.4142, 1.7129, 1, 5),
    (Op.LEAKY_RELU, {}, 0.3949, 0.50005, 0.50005, 1.4141, 1.4141, 1.7048, 1, 5),
    (Op.LEAKY_RELU, {"negative_slope": 0.2}, 0.3192, 0.52, 0.52, 1.3868, 1.3868, 1.5465, 1, 4.56),
    (Op.PRELU, {}, 0.2992, 0.53125, 0.53125, 1.3720, 1.3720, 1.5046, 1, None),
    (Op.RELU6, {}, 0.3989, 0.5, 0.5, 1.4142, 1.4142, 1.7129, 1, 5),
    (Op.SQUARED_RELU, {}, 0.5, 1.5, 2, 0.8165, 0.7071, 0.8944, 2, 22.3),
    (Op.ELU, {}, 0.1605, 0.6450, 0.6681, 1.2452, 1.2234, 1.2708, 0.891, 2.78),
    (Op.CELU, {}, 0.1605, 0.6450, 0.6681, 1.2452, 1.2234, 1.2708, 0.891, 2.78),
    (Op.SELU, {}, 0, 1, 1.0716, 1, 0.9660, 1, 0.783, 1.50),
    (Op.GELU, {}, 0.2821, 0.42522, 0.45585, 1.5335, 1.4811, 1.7009, 1.144, 6.22),
    (
        Op.GELU,
        {"approximate": "tanh"},
        0.2820,
        0.42519,
        0.45582,
        1.5336,
        1.4812,
        1.7009,
        1.144,
        6.2,
    ),
    (Op.QUICK_GELU, {}, 0.2823, 0.42195, 0.44955, 1.5395, 1.4915, 1.7094, 1.137, None),
    (Op.SILU, {}, 0.2066, 0.35578, 0.37948, 1.6765, 1.6233, 1.7872, 1.173, 6.26),
    (Op.MISH, {}, 0.2404, 0.45234, 0.47908, 1.4869, 1.4448, 1.5920, 1.076, 5.35),
    (Op.HARD_SWISH, {}, 0.1662, 0.33157, 0.35853, 1.7367, 1.6701, 1.8139, 1.224, 6.67),
    (Op.SOFTPLUS, {}, 0.8061, 0.92125, 0.29338, 1.0419, 1.8462, 1.9191, 0.492, 1.76),
    (Op.SIGMOID, {}, 0.5, 0.29338, 0.04484, 1.8462, 4.7227, 4.8013, 0.106, 0.53),
    (Op.HARD_SIGMOID, {}, 0.5, 0.27764, 0.02770, 1.8978, 6.0081, 6.0150, 0.097, None),
    (Op.TANH, {}, 0, 0.39429, 0.46440, 1.5925, 1.4674, 1.5925, 0.461, 0.63),
    (Op.HARD_TANH, {}, 0, 0.51606, 0.68269, 1.3920, 1.2103, 1.3920, 0.385, None),
    (Op.ERF, {}, 0, 0.46456, 0.56941, 1.4672, 1.3252, 1.4672, 0.409, 0.56),
    (Op.SOFTSIGN, {}, 0, 0.18301, 0.22767, 2.3375, 2.0958, 2.3375, 0.477, None),
    (Op.ATAN, {}, 0, 0.44970, 0.5, 1.4912, 1.4142, 1.4912, 0.561, None),
    (Op.SIN, {}, 0, 0.43233, 0.56767, 1.5209, 1.3273, 1.5209, 0.313, 0.64),
    (Op.GAUSSIAN, {}, 0.5774, 0.44721, 0.35777, 1.4954, 1.6719, 2.9633, -0.4, None),
    (Op.SNAKE, {}, 0.4323, 1.30737, 1.49983, 0.8746, 0.8165, 0.9447, 0.868, None),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row[0]))
def test_gains_agree_with_the_table_to_its_digits(row):
    op, attrs, mean, second, derivative, forward, backward, standard, lam, kappa = row
    assert first_moment(op, attrs) == pytest.approx(mean, abs=6e-5)
    assert second_moment(op, attrs) == pytest.approx(second, abs=6e-5)
    assert derivative_moment(op, attrs) == pytest.approx(derivative, abs=6e-5)
    assert forward_gain(op, attrs) == pytest.approx(forward, abs=1e-4)
    assert backward_gain(op, attrs) == pytest.approx(backward, abs=1e-4)
    assert standardised_gain(op, attrs) == pytest.approx(standard, abs=1e-4)
    assert slope(op, attrs) == pytest.approx(lam, abs=1e-3)
    if kappa is not None:
        assert kurtosis(op, attrs) == pytest.approx(kappa, rel=1e-2)


SAMPLE = np.random.default_rng(0).standard_normal((2, 400_000))


@pytest.mark.parametrize("op", sorted(ACTIVATIONS, key=str), ids=str)
@pytest.mark.parametrize(("q", "mean"), [(0.09, 0.0), (4.0, 0.0), (2.0, 0.8)])
def test_moments_agree_with_monte_carlo(op, q, mean):
    function = activation(op)
    assert function is not None
    z = mean + math.sqrt(q - mean * mean) * SAMPLE[0]
    y, slopes = function.function(z), function.derivative(z)
    error = 5 / math.sqrt(z.size)
    second = float(np.mean(y * y))
    assert second_moment(op, None, q, mean) == pytest.approx(
        second, abs=error * float(np.std(y * y)) + 1e-9
    )
    assert first_moment(op, None, q, mean) == pytest.approx(
        float(np.mean(y)), abs=error * float(np.std(y)) + 1e-9
    )
    assert derivative_moment(op, None, q, mean) == pytest.approx(
        float(np.mean(slopes**2)), abs=error * float(np.std(slopes**2)) + 1e-9
    )


@pytest.mark.parametrize("op", sorted(ACTIVATIONS, key=str), ids=str)
@pytest.mark.parametrize("c", [0.0, 0.6, 0.95])
def test_correlation_map_agrees_with_monte_carlo(op, c):
    function = activation(op)
    assert function is not None
    first = SAMPLE[0]
    second = c * first + math.sqrt(1 - c * c) * SAMPLE[1]
    a, b = function.function(first), function.function(second)
    product = a * b / second_moment(op)
    error = 5 * float(np.std(product)) / math.sqrt(first.size)
    assert correlation_map(op, None, c) == pytest.approx(float(np.mean(product)), abs=error + 3e-3)


@pytest.mark.parametrize("op", sorted(ACTIVATIONS, key=str), ids=str)
def test_derivative_is_the_derivative(op):
    function = activation(op)
    assert function is not None
    z = np.linspace(-4.013, 4.017, 101)
    step = 1e-5
    difference = (function.function(z + step) - function.function(z - step)) / (2 * step)
    # erf is fitted to 1.2e-7, which the difference quotient multiplies by 1 / step
    np.testing.assert_allclose(function.derivative(z), difference, atol=0.02)


@pytest.mark.parametrize("op", sorted(ACTIVATIONS, key=str), ids=str)
@pytest.mark.parametrize("log_q", [-700.0, -60.0, 60.0, 700.0])
def test_moments_stay_finite_far_from_one(op, log_q):
    function = activation(op)
    assert function is not None
    found = moments(function, log_q)
    assert found is not None
    silent = {Op.HARDSHRINK, Op.SOFTSHRINK, Op.THRESHOLDED_RELU}
    assert math.isfinite(found.log_second) or (log_q < 0 and op in silent)
    assert -1e-9 <= found.cosine(0.5) <= 1


def test_asymptotes_are_those_of_the_function():
    tanh, gelu = activation(Op.TANH), activation(Op.GELU)
    assert tanh is not None
    assert gelu is not None
    small, large = moments(tanh, -100.0), moments(tanh, 100.0)
    assert small is not None
    assert large is not None
    assert small.log_second == pytest.approx(-100, abs=0.01)
    assert large.log_second == pytest.approx(0, abs=0.01)
    # E[sech⁴(√q z)] = 4/3 · φ(0)/√q
    assert large.log_derivative == pytest.approx(
        math.log(4 / 3 / math.sqrt(2 * math.pi)) - 50, abs=0.05
    )
    half = moments(gelu, -100.0)
    assert half is not None
    assert half.log_second == pytest.approx(-100 + math.log(0.25), abs=0.01)


def test_sine_of_a_wide_input_is_exact():
    assert second_moment(Op.SIN, None, 900.0) == pytest.approx(0.5)
    assert correlation_map(Op.SIN, None, 0.5, 900.0) == pytest.approx(0, abs=1e-12)
    assert correlation_map(Op.SIN, None, 1.0, 900.0) == pytest.approx(1)


@given(st.floats(-1, 1))
def test_relu_map_is_the_arc_cosine_kernel(c):
    expected = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
    assert correlation_map(Op.RELU, None, c) == pytest.approx(expected, abs=1e-9)


def test_a_tensor_of_zeros_gives_the_value_at_zero():
    sigmoid, relu = activation(Op.SIGMOID), activation(Op.RELU)
    assert sigmoid is not None
    assert relu is not None
    found, none = moments(sigmoid, -math.inf), moments(relu, -math.inf)
    assert found is not None
    assert none is not None
    assert math.exp(found.log_second) == pytest.approx(0.25)
    assert none.log_second == -math.inf


def test_an_operator_without_a_function_is_refused():
    assert activation(Op.LINEAR) is None
    with pytest.raises(ValueError, match="no moments are known"):
        second_moment(Op.LINEAR)
    with pytest.raises(ValueError, match="positive"):
        second_moment(Op.RELU, None, 0.0)


@pytest.mark.parametrize("bad", ["x", None, float("nan"), [1, 2]])
def test_attributes_that_are_no_numbers_fall_back_to_the_default(bad):
    assert second_moment(Op.ELU, {"alpha": bad}) == pytest.approx(second_moment(Op.ELU))


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.2, 1.0), (-1.0, 1.0), (0.25, -0.5)])
@pytest.mark.parametrize("mean", [-0.9, -0.3, 0.002, 0.6, 0.98])
def test_piecewise_linear_functions_off_centre_have_the_moments_of_the_integral(
    slopes: tuple[float, float], mean: float
) -> None:
    left, right = slopes
    spread = math.sqrt(1 - mean * mean)
    x = np.linspace(-12.0, 12.0, 400_001)
    weight = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    z = mean + spread * x
    y, slope = np.where(z > 0, right * z, left * z), np.where(z > 0, right, left)
    second = float(weight @ y**2)
    found = moments(_piecewise("piecewise", left, right), 0.0, mean)
    assert found is not None
    assert found.log_second == pytest.approx(math.log(second), abs=1e-6)
    assert found.mean == pytest.approx(float(weight @ y) / math.sqrt(second), abs=1e-6)
    assert found.kurtosis == pytest.approx(float(weight @ y**4) / second**2 - 1, rel=1e-5)
    assert found.log_derivative == pytest.approx(math.log(weight @ slope**2), abs=1e-4)
    assert found.cosine(1.0) == pytest.approx(1.0)
    # Price's theorem: the cosine's slope at correlation 0 is (E φ'(z) s)² / E φ².
    step = (found.cosine(1e-5) - found.cosine(-1e-5)) / 2e-5
    assert step == pytest.approx((spread * float(weight @ slope)) ** 2 / second, abs=1e-4)
