from __future__ import annotations

from math import prod

import numpy as np
import pytest

from initlint.measure.measures import Measures
from initlint.measure.moments import array_moments
from initlint.measure.result import Stage
from initlint.measure.scheme import identify
from initlint.measure.stage import Verdict, is_certain, model_stage, tensor_stage
from initlint.model import Kind, Layer, Model, Op, Param, Role
from initlint.testing import Network, he_normal, normal

FRESH, TRAINED, UNKNOWN = Stage.FRESH, Stage.TRAINED, Stage.UNKNOWN


def judged(
    array: np.ndarray, role: Role = Role.WEIGHT, quantised: bool = False
) -> tuple[Stage, bool]:
    array = array.astype(np.float32)
    param = Param(role, "w", array.shape, "float32", quantised=quantised)
    layer = Layer("l", Op.CONV if array.ndim > 2 else Op.LINEAR, (param,))
    moments = array_moments(array)
    found = identify(layer, param, array, moments)
    return tensor_stage(found, moments, layer, param), is_certain(found, param)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "array",
    [
        RNG.uniform(-0.1, 0.1, (200, 100)),
        RNG.standard_normal((200, 100)) * 0.02,
        RNG.standard_normal((64, 32, 3, 3)) * (2 / 288) ** 0.5,
        np.linalg.qr(RNG.standard_normal((100, 100)))[0],
        np.eye(20),
        RNG.standard_normal((200, 100)) * 100.0,
        RNG.uniform(0, 1, (200, 100)),
    ],
)
def test_drawn_tensors_are_fresh(array: np.ndarray) -> None:
    assert judged(array)[0] is FRESH


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((20, 20)),
        np.full((20, 20), 0.1),
        RNG.standard_normal((7, 7)),
        np.log(np.tile(np.arange(1, 17), (32, 1))),
        np.full((20, 20), np.nan),
        RNG.standard_normal((20, 20)) * 1e-20,
        np.tile(RNG.standard_normal((1, 64)), (64, 1)),
        np.tile(RNG.standard_normal((1, 16)), (64, 1)),
    ],
)
def test_nothing_can_be_told_of_constants_tables_and_small_tensors(array: np.ndarray) -> None:
    assert judged(array)[0] is UNKNOWN


def test_learned_tensors_are_trained_unless_quantised_or_vectors() -> None:
    learned = RNG.standard_t(3, (100, 100)) * np.exp(RNG.standard_normal((100, 1)))
    assert judged(learned)[0] is TRAINED
    assert judged(learned, quantised=True)[0] is UNKNOWN
    assert judged(learned[0], Role.BIAS)[0] is UNKNOWN
    assert judged(RNG.standard_normal(200), Role.BIAS)[0] is UNKNOWN


@pytest.mark.parametrize("shape", [(64, 64), (16, 48), (8, 16, 3, 3)])
@pytest.mark.parametrize("centred", [False, True])
def test_uniforms_whose_rows_were_brought_to_one_norm_are_fresh(
    shape: tuple[int, ...], centred: bool
) -> None:
    rng = np.random.default_rng(3)
    rows = rng.uniform(-1.0, 1.0, (shape[0], prod(shape[1:])))
    rows -= rows.mean(axis=1, keepdims=True) if centred else 0.0
    uniform = 1.4 * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert judged(uniform.reshape(shape))[0] is FRESH
    moved = uniform * rng.uniform(0.8, 1.2, (len(rows), 1))
    assert judged(moved.reshape(shape))[0] is not FRESH


def test_other_rows_of_one_norm_are_no_uniforms() -> None:
    learned = RNG.standard_t(3, (64, 64)) * np.exp(RNG.standard_normal((1, 64)))
    learned /= np.linalg.norm(learned, axis=1, keepdims=True)
    assert judged(learned)[0] is TRAINED


def folded(rng: np.random.Generator, rows: np.ndarray, bias: float) -> Model:
    """Four convolutions into which a batch normaliser with drawn gains was folded."""
    net = Network(seed=0)
    value = net.input(32, 8, 8)
    for _ in range(4):
        gain = rng.normal(1.0, 0.1, (32, 1, 1, 1))
        shift = bias * rng.standard_normal(32) * gain.reshape(-1) if bias else None
        value = net.relu(net.conv(value, rows * gain, shift, padding=1))
    net.output(value)
    return net.model()


@pytest.mark.parametrize("family", ["normal", "uniform"])
def test_draws_behind_folded_gains_are_fresh(family: str) -> None:
    rng = np.random.default_rng(1)
    rows = (
        rng.normal(0.0, 0.02, (32, 32, 3, 3))
        if family == "normal"
        else rng.uniform(-0.06, 0.06, (32, 32, 3, 3))
    )
    assert Measures(folded(rng, rows, 0.0)).model_stage is FRESH
    assert Measures(folded(rng, rows, 0.01)).model_stage is FRESH
    assert Measures(folded(rng, rows, 0.5)).model_stage is TRAINED


def test_learned_rows_behind_folded_gains_are_trained() -> None:
    rng = np.random.default_rng(1)
    learned = rng.normal(0.0, 0.02, (32, 32, 3, 3)) * rng.uniform(0.5, 1.5, (1, 32, 1, 1))
    assert Measures(folded(rng, learned, 0.0)).model_stage is TRAINED


def test_certainty_needs_size_and_a_common_name() -> None:
    assert judged(RNG.uniform(-0.1, 0.1, (200, 100)))[1]
    assert judged(RNG.standard_normal((200, 100)) * 0.02)[1]
    assert not judged(RNG.standard_normal((30, 10)) * 0.02)[1]
    assert not judged(RNG.standard_normal((200, 100)) * 0.0137)[1]
    assert not judged(RNG.uniform(-0.1234, 0.1234, (200, 100)))[1]
    assert judged(np.linalg.qr(RNG.standard_normal((8, 8)))[0])[1]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], UNKNOWN),
        ([Verdict(UNKNOWN, 100)], UNKNOWN),
        ([Verdict(FRESH, 100), Verdict(UNKNOWN, 50)], FRESH),
        ([Verdict(TRAINED, 100)], TRAINED),
        # quantised weights, a few floating-point ones left
        ([Verdict(UNKNOWN, 1000), Verdict(TRAINED, 10)], UNKNOWN),
        # one false alarm among fresh tensors
        ([Verdict(FRESH, 900), Verdict(TRAINED, 100)], FRESH),
        # a fresh head on a trained trunk
        ([Verdict(TRAINED, 100), Verdict(FRESH, 60, certain=True, head=True)], TRAINED),
        # one untouched layer
        ([Verdict(TRAINED, 800), Verdict(FRESH, 200, certain=True)], TRAINED),
        # half of it never loaded
        ([Verdict(TRAINED, 500), Verdict(FRESH, 500, certain=True)], Stage.MIXED),
        # small trained tensors that look Gaussian are not certain
        ([Verdict(TRAINED, 500), Verdict(FRESH, 500)], TRAINED),
        # a small trained trunk under large fresh embeddings
        ([*[Verdict(TRAINED, 50)] * 4, Verdict(FRESH, 800, certain=True)], Stage.MIXED),
    ],
)
def test_model_stage(verdicts: list[Verdict], expected: Stage) -> None:
    assert model_stage(verdicts) is expected


def test_a_matrix_of_rank_one_does_not_make_a_model_trained() -> None:
    net = Network(seed=1)
    left, right = normal(net.rng, 2, 64)
    x = net.relu(net.linear(net.input(64), he_normal(net.rng, 64, 64), name="a"))
    x = net.relu(net.linear(x, np.outer(left, right) / 8, name="b"))
    net.output(net.linear(x, he_normal(net.rng, 10, 64), name="head"))
    model = Model("m.onnx", Kind.ONNX, net.graph)
    (param,) = net.graph["b"].params
    assert Measures(model).model_stage is FRESH
    full = param.tensor.read() + 1e-3 * normal(net.rng, 64, 64)
    assert judged(full)[0] is TRAINED


@pytest.mark.parametrize(("moved", "expected"), [(0.0, FRESH), (0.5, UNKNOWN)])
def test_copied_units_beside_biases_that_never_moved_are_fresh(
    moved: float, expected: Stage
) -> None:
    net = Network(seed=1)
    copies = np.repeat(normal(net.rng, 2, 64), 16, axis=0)
    bias = np.linspace(-moved, moved, 32, dtype=np.float32)
    x = net.relu(net.linear(net.input(64), copies, bias, name="a"))
    twice = np.repeat(np.repeat(normal(net.rng, 2, 2), 16, axis=0), 16, axis=1)
    x = net.relu(net.linear(x, twice, np.zeros(32, dtype=np.float32), name="b"))
    net.output(net.linear(x, np.repeat(normal(net.rng, 3, 2), 16, axis=1), name="head"))
    assert Measures(Model("m.onnx", Kind.ONNX, net.graph)).model_stage is expected
