"""Schemes against `torch.nn.init` or the formula of their paper."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest

from initlint.fix.schemes import (
    SCHEMES,
    UnknownSchemeError,
    fill,
    find,
    layer_scale_value,
    random_walk_gain,
)
from initlint.fix.slot import Slot, slot_of
from initlint.model import Layer, LayerGraph, Op, Param, Role

torch = pytest.importorskip("torch")
init = torch.nn.init


def slot(*shape: int, op: Op = Op.LINEAR, **changes: object) -> Slot:
    kernel = int(np.prod(shape[2:]))
    fan_in = shape[1] * kernel if len(shape) > 1 else shape[0]
    given = {"role": Role.WEIGHT, "fan_in": fan_in, "fan_out": shape[0] * kernel, **changes}
    return Slot("layer", op, shape=shape, **given)  # type: ignore[arg-type]


def drawn(name: str, place: Slot, seed: int = 0, **arguments: object) -> np.ndarray:
    return fill(name, place, np.random.default_rng(seed), **arguments)


def same_law(ours: np.ndarray, theirs: object) -> None:
    """Moments and quantiles agree within five standard errors of two samples."""
    other = theirs.detach().double().numpy().ravel()  # type: ignore[attr-defined]
    mine = ours.ravel()
    error = 5 * sqrt(2 / mine.size)
    assert abs(mine.mean() - other.mean()) < error * other.std()
    assert mine.std() == pytest.approx(other.std(), rel=error)
    levels = np.linspace(0.05, 0.95, 19)
    gap = np.abs(np.searchsorted(np.sort(mine), np.quantile(other, levels)) / mine.size - levels)
    assert gap.max() < error


@pytest.mark.parametrize("shape", [(300, 200), (64, 32, 3, 3)])
@pytest.mark.parametrize(
    ("name", "reference", "arguments"),
    [
        ("xavier_normal", lambda w: init.xavier_normal_(w, gain=1.5), {"gain": 1.5}),
        ("xavier_uniform", lambda w: init.xavier_uniform_(w), {}),
        ("he_normal", lambda w: init.kaiming_normal_(w, nonlinearity="relu"), {}),
        ("he_uniform", lambda w: init.kaiming_uniform_(w, nonlinearity="relu"), {}),
        (
            "he_normal",
            lambda w: init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
            {"fan": "fan_out"},
        ),
        ("lecun_normal", lambda w: init.kaiming_normal_(w, nonlinearity="linear"), {}),
        (
            "xavier_normal",
            lambda w: init.kaiming_normal_(w, nonlinearity="linear"),
            {"fan": "fan_in"},
        ),
        (
            "xavier_uniform",
            lambda w: init.kaiming_uniform_(w, mode="fan_out", nonlinearity="linear"),
            {"fan": "fan_out"},
        ),
        (
            "he_uniform",
            lambda w: init.xavier_uniform_(w, gain=1.5),
            {"fan": "fan_avg", "gain": 1.5},
        ),
        ("lecun_normal", lambda w: init.xavier_normal_(w, gain=2), {"fan": "fan_avg", "gain": 2}),
        (
            "lecun_uniform",
            lambda w: init.kaiming_uniform_(w, mode="fan_out", nonlinearity="linear"),
            {"fan": "fan_out"},
        ),
        ("lecun_uniform", lambda w: init.kaiming_uniform_(w, nonlinearity="linear"), {}),
        ("selu", lambda w: init.kaiming_normal_(w, nonlinearity="linear"), {}),
        ("torch_default", lambda w: init.kaiming_uniform_(w, a=sqrt(5)), {}),
        ("lora_a", lambda w: init.kaiming_uniform_(w, a=sqrt(5)), {}),
        ("normal", lambda w: init.normal_(w, mean=0.1, std=0.3), {"mean": 0.1, "std": 0.3}),
        ("uniform", lambda w: init.uniform_(w, -0.2, 0.2), {"bound": 0.2}),
    ],
)
def test_same_law_as_torch(name, reference, arguments, shape):
    torch.manual_seed(1)
    same_law(drawn(name, slot(*shape), **arguments), reference(torch.empty(*shape)))


def test_truncated_normal_has_the_std_asked_for_and_torchs_shape():
    ours = drawn("truncated_normal", slot(400, 400), std=0.5)
    assert ours.std() == pytest.approx(0.5, rel=0.01)
    torch.manual_seed(1)
    theirs = init.trunc_normal_(torch.empty(400, 400), std=1.0, a=-2.0, b=2.0)
    same_law(ours, theirs * (0.5 / 0.87962566103423978))
    assert np.abs(ours).max() <= 2 * 0.5 / 0.87962566103423978


@pytest.mark.parametrize("shape", [(48, 48), (96, 24), (24, 96), (32, 8, 3, 3)])
def test_orthogonal_rows_or_columns(shape):
    weight = drawn("orthogonal", slot(*shape), gain=1.3).reshape(shape[0], -1)
    small = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    np.testing.assert_allclose(small, 1.69 * np.eye(len(small)), atol=1e-12)


def test_orthogonal_is_haar():
    """For Haar O(n), E[trace] = 0, E[trace²] = 1, and the first entry has variance 1/n."""
    rng = np.random.default_rng(0)
    place = slot(6, 6)
    found = np.stack([fill("orthogonal", place, rng) for _ in range(4000)])
    traces = np.trace(found, axis1=1, axis2=2)
    assert abs(traces.mean()) < 5 / sqrt(4000)
    assert traces.var() == pytest.approx(1, abs=5 * sqrt(2 / 4000))
    assert found[:, 0, 0].var() == pytest.approx(1 / 6, rel=0.12)
    assert abs(found[:, 0, 0].mean()) < 5 / sqrt(6 * 4000)


def test_orthogonal_of_a_grouped_convolution_is_orthogonal_in_each_group():
    weight = drawn("orthogonal", slot(32, 4, 3, 3, op=Op.CONV, groups=4)).reshape(4, 8, 36)
    for block in weight:
        np.testing.assert_allclose(block @ block.T, np.eye(8), atol=1e-12)


def test_delta_orthogonal_keeps_norms_through_a_hundred_layers():
    rng = np.random.default_rng(0)
    x = torch.randn(4, 16, 12, 12, dtype=torch.float64)
    before = x.norm()
    for _ in range(100):
        kernel = fill("delta_orthogonal", slot(16, 16, 3, 3, op=Op.CONV), rng)
        x = torch.nn.functional.conv2d(x, torch.from_numpy(kernel), padding=1)
    assert float(x.norm() / before) == pytest.approx(1, abs=0.01)


def test_delta_orthogonal_refuses_to_lose_channels():
    with pytest.raises(ValueError, match="as many outputs as inputs"):
        drawn("delta_orthogonal", slot(8, 16, 3, 3))


def test_identity_and_dirac_are_torchs():
    np.testing.assert_array_equal(
        drawn("identity", slot(5, 7)), init.eye_(torch.empty(5, 7)).numpy()
    )
    for groups in (1, 3):
        ours = drawn("dirac", slot(6, 4, 3, 3, op=Op.CONV, groups=groups))
        np.testing.assert_array_equal(ours, init.dirac_(torch.empty(6, 4, 3, 3), groups).numpy())


def test_sparse_columns_are_torchs():
    ours = drawn("sparse", slot(200, 50), sparsity=0.31, std=0.2)
    theirs = init.sparse_(torch.empty(200, 50), 0.31, 0.2).numpy()
    assert ((ours == 0).sum(0) == (theirs == 0).sum(0)).all()
    assert ours[ours != 0].std() == pytest.approx(0.2, rel=0.05)


def test_irnn():
    square = slot(8, 8, op=Op.RNN, role=Role.RECURRENT_WEIGHT)
    np.testing.assert_array_equal(drawn("irnn", square), np.eye(8))
    assert drawn("irnn", slot(100, 100, op=Op.RNN)).std() == pytest.approx(1e-3, rel=0.05)


def test_random_walk_gain_keeps_the_log_norm():
    """The mean of ln |W x| over draws is zero: linear N=20, ReLU N=100 (paper's figure)."""
    rng = np.random.default_rng(0)
    for width, relu in ((20, False), (100, True)):
        logs = []
        for _ in range(3000):
            x = rng.standard_normal(width)
            x /= np.linalg.norm(x)
            weight = rng.standard_normal((width, width)) / sqrt(width)
            y = random_walk_gain(width, relu=relu) * weight @ x
            logs.append(log(np.linalg.norm(np.maximum(y, 0) if relu else y)))
        assert abs(np.mean(logs)) < 5 * np.std(logs) / sqrt(3000)


def test_siren_settles_where_its_own_map_does():
    """Var(30 W x) = 30² n (6/n)/30²/3 E[sin²] = 1 - exp(-2v), whose fixed point is v = 0.797."""
    rng = np.random.default_rng(0)
    x = np.sin(30 * rng.uniform(-1, 1, (500, 64)) @ fill("siren_first", slot(256, 64), rng).T)
    for _ in range(8):
        z = 30 * x @ fill("siren", slot(256, 256), rng).T
        x = np.sin(z)
    assert z.var() == pytest.approx(0.797, rel=0.1)


def test_biases():
    bias = slot(4, role=Role.BIAS, gate="forget", op=Op.LSTM)
    np.testing.assert_array_equal(drawn("forget_gate_bias", bias), np.ones(4))
    other = slot(4, role=Role.RECURRENT_BIAS, gate="forget", op=Op.LSTM)
    np.testing.assert_array_equal(drawn("forget_gate_bias", other), np.zeros(4))
    chrono = drawn("chrono", slot(4000, role=Role.BIAS, gate="forget", op=Op.LSTM), steps=101)
    assert np.exp(chrono).mean() == pytest.approx(50.5, rel=0.05)
    entering = drawn("chrono", slot(9, role=Role.BIAS, gate="input", op=Op.LSTM), steps=101)
    assert (entering <= 0).all()
    head = slot(3, role=Role.BIAS)
    assert 1 / (1 + np.exp(-drawn("focal_prior", head, prior=0.01))) == pytest.approx([0.01] * 3)
    priors = drawn("class_prior", head, priors=[70, 20, 10])
    assert np.exp(priors) / np.exp(priors).sum() == pytest.approx([0.7, 0.2, 0.1])
    with pytest.raises(ValueError, match="positive frequencies"):
        drawn("class_prior", head, priors=[1, 0, 1])


def test_constants():
    gamma = slot(3, role=Role.GAIN, op=Op.BATCH_NORM)
    for name in ("zeros", "zero_gamma", "rezero", "lora_b"):
        assert not drawn(name, gamma).any()
    assert (drawn("ones", gamma) == 1).all()
    assert (drawn("layer_scale", gamma) == 1e-4).all()
    assert (drawn("constant", gamma, value=3) == 3).all()
    assert [layer_scale_value(depth) for depth in (12, 24, 36)] == [0.1, 1e-5, 1e-6]


def test_embedding_rows_have_the_length_asked_for():
    rows = drawn("embedding_scaled", slot(500, 256, op=Op.EMBEDDING), scale=2.0)
    assert np.linalg.norm(rows, axis=1).mean() == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    ("op", "shape", "attrs", "fan_in"),
    [
        (Op.LINEAR, (8, 32), {}, 32),
        (Op.CONV, (8, 4, 3, 3), {"groups": 4, "stride": (1, 1)}, 36),
        (Op.CONV_TRANSPOSE, (8, 16, 4, 4), {"groups": 1, "stride": (2, 2)}, 64),
    ],
)
def test_scale_preserving_uses_true_fans_and_the_activation(op, shape, attrs, fan_in):
    from initlint.model import Edge

    weight = Param(Role.WEIGHT, "w", shape, "float32")
    graph = LayerGraph(
        [Layer("w", op, (weight,), attrs), Layer("relu", Op.RELU)], [Edge("w", "relu")]
    )
    place = slot_of(graph, graph["w"], weight)
    assert place.gain == pytest.approx(sqrt(2))
    assert place.fan_in == fan_in
    many = np.concatenate([drawn("scale_preserving", place, seed).ravel() for seed in range(40)])
    assert many.std() == pytest.approx(sqrt(2 / fan_in), rel=0.05)


def test_the_registry():
    assert find("kaiming-uniform").name == "he_uniform"
    with pytest.raises(UnknownSchemeError, match="did you mean orthogonal"):
        find("ortogonal")
    with pytest.raises(ValueError, match="its arguments: gain"):
        drawn("orthogonal", slot(4, 4), gian=2)
    for name in SCHEMES:
        assert SCHEMES[name].summary


def test_same_seed_same_numbers():
    place = slot(9, 9)
    assert (drawn("orthogonal", place, 3) == drawn("orthogonal", place, 3)).all()
    assert (drawn("orthogonal", place, 3) != drawn("orthogonal", place, 4)).any()
