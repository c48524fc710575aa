"""Theory against real passes of networks made by hand, and its behaviour at the edges."""

import math

import numpy as np
import pytest

from initlint.measure.measures import Measures
from initlint.model import Op, Role
from initlint.testing.network import Network
from initlint.theory.propagation import predict
from initlint.theory.result import Prediction

WIDTH = 192


def normal(net, out, fan_in, gain=2.0):
    return net.rng.normal(size=(out, fan_in)) * math.sqrt(gain / fan_in)


def filters(net, out, per_group, kernel, gain=2.0):
    scale = math.sqrt(gain / (per_group * kernel * kernel))
    return net.rng.normal(size=(out, per_group, kernel, kernel)) * scale


def predicted(net) -> Prediction:
    model = net.model(fresh_hint=True)
    return predict(model, Measures(model))


def errors(net, batch=48):
    """log2(predicted rms / measured rms) per layer."""
    prediction = predicted(net)
    values = net.evaluate(net.feeds(batch))
    found = {}
    for layer in net.graph.order:
        signal = prediction.forward.get(layer.id)
        if signal is None or layer.op in (Op.INPUT, Op.CONSTANT):
            continue
        rms = float(np.sqrt(np.mean(values[layer.id][0] ** 2)))
        found[layer.id] = 0.5 * signal.log_q / math.log(2) - math.log2(rms)
    return found


def plain(op, gain, depth=12, bias=0.05, width=WIDTH):
    net = Network(seed=3)
    x = net.input(width)
    for _ in range(depth):
        shift = net.rng.uniform(-bias, bias, width)
        x = net.layer(op, net.linear(x, normal(net, width, width, gain), shift))
    net.output(net.linear(x, normal(net, 64, width, 1.0)))
    return net


@pytest.mark.parametrize(
    ("op", "gain"),
    [
        (Op.RELU, 2.0),
        (Op.RELU, 1 / 3),
        (Op.LEAKY_RELU, 2.0),
        (Op.TANH, 1.0),
        (Op.TANH, 1 / 3),
        (Op.GELU, 2.2),
        (Op.SELU, 1.0),
        (Op.ELU, 1.5),
        (Op.SIGMOID, 1.0),
        (Op.SOFTPLUS, 1.0),
        (Op.RELU6, 2.0),
        (Op.SIN, 2.0),
    ],
)
def test_forward_of_a_plain_network(op, gain):
    worst = max(abs(error) for error in errors(plain(op, gain)).values())
    assert worst < math.log2(1.5)


def convolutional():
    net = Network(seed=1)
    x = net.input(3, 16, 16)
    x = net.relu(net.conv(x, filters(net, 48, 3, 3), padding=1))
    x = net.pool(x, "max", 2, stride=2)
    x = net.relu(net.conv(x, filters(net, 48, 48, 3), padding=1, stride=2))
    x = net.relu(net.conv(x, filters(net, 48, 6, 3), padding=2, dilation=2, groups=8))
    x = net.conv_transpose(x, filters(net, 32, 48, 4), stride=2, padding=1)
    x = net.batch_norm(x)
    x = net.relu(net.conv(x, filters(net, 32, 1, 5), padding=2, groups=32))
    x = net.pool(x, "mean", 2, stride=2)
    net.output(net.linear(net.flatten(net.pool(x, "mean")), normal(net, 32, 32, 1.0)))
    return net


def residual():
    net = Network(seed=1)
    x = net.linear(net.input(WIDTH), normal(net, WIDTH, WIDTH, 1.0))
    for _ in range(6):
        branch = net.relu(net.linear(x, normal(net, WIDTH, WIDTH)))
        x = net.add(x, net.linear(branch, normal(net, WIDTH, WIDTH, 0.5)))
    net.output(x)
    return net


def transformer():
    net = Network(seed=1)
    x = net.embedding(net.tokens(24, 100), net.rng.normal(size=(100, 96)))
    x = net.table(x, 0.3 * net.rng.normal(size=(24, 96)))
    for _ in range(3):
        h = net.layer_norm(x)
        q, k, v = (net.linear(h, normal(net, 96, 96, 2.0)) for _ in range(3))
        attended = net.attention(q, k, v, heads=4, causal=True)
        x = net.add(x, net.linear(attended, normal(net, 96, 96, 1.0)))
        h = net.rms_norm(x)
        gated = net.mul(
            net.silu(net.linear(h, normal(net, 192, 96, 1.0))),
            net.linear(h, normal(net, 192, 96, 1.0)),
        )
        x = net.add(x, net.linear(gated, normal(net, 96, 192, 1.0)))
    net.output(net.softmax(net.linear(net.layer_norm(x), normal(net, 100, 96, 1.0))))
    return net


def written_out_attention():
    net = Network(seed=1)
    x = net.layer_norm(net.input(24, 64))
    q, k, v = (net.linear(x, normal(net, 64, 64, 3.0)) for _ in range(3))
    logits = net.mul(net.matmul(q, net.transpose(k, 0, 2, 1)), 0.125)
    net.output(net.matmul(net.softmax(logits), v))
    return net


def skips():
    net = Network(seed=1)
    x = net.input(8, 8, 8)
    a = net.relu(net.conv(x, filters(net, 24, 8, 3), padding=1))
    b = net.relu(net.conv(net.pool(a, "max", 2, stride=2), filters(net, 48, 24, 3), padding=1))
    up = net.layer(Op.RESIZE, b, factor=2, channel_axis=1)
    joined = net.concat(a, up, axis=1)
    net.output(net.conv(joined, filters(net, 16, 72, 3, 1.0), padding=1))
    return net


def recurrent(op, gates):
    net = Network(seed=1)

    def uniform(*shape):
        return net.rng.uniform(-1 / 8, 1 / 8, shape)

    x = net.embedding(net.tokens(20, 60), net.rng.normal(size=(60, 48)))
    n = gates * 64
    arrays = (uniform(n, 48), uniform(n, 64), uniform(n), uniform(n))
    net.output(getattr(net, op)(x, *arrays))
    return net


@pytest.mark.parametrize(
    "net",
    [
        convolutional(),
        residual(),
        transformer(),
        written_out_attention(),
        skips(),
        recurrent("rnn", 1),
        recurrent("lstm", 4),
        recurrent("gru", 3),
    ],
    ids=["conv", "residual", "transformer", "attention", "skips", "rnn", "lstm", "gru"],
)
def test_forward_of_other_networks(net):
    found = errors(net)
    assert found
    assert not predicted(net).ended_at
    within = [abs(error) < math.log2(1.5) for error in found.values()]
    assert np.mean(within) >= 0.95, found


def jacobian_square(net, source, target, batch=24, draws=4, step=1e-4):
    """‖∂target/∂source‖² per element of the source, by central differences along noise."""
    feeds = net.feeds(batch)
    rng = np.random.default_rng(7)
    total = 0.0
    for _ in range(draws):
        noise = rng.standard_normal(feeds[source].shape)
        up = net.evaluate({**feeds, source: feeds[source] + step * noise})[target][0]
        down = net.evaluate({**feeds, source: feeds[source] - step * noise})[target][0]
        total += float(np.sum(((up - down) / (2 * step)) ** 2))
    return total / draws / feeds[source].size


@pytest.mark.parametrize(
    "net",
    [
        plain(Op.RELU, 2.0),
        plain(Op.RELU, 1.0),
        plain(Op.TANH, 1.0),
        plain(Op.GELU, 2.2),
        plain(Op.SIGMOID, 1.0, depth=4),
        convolutional(),
        residual(),
        written_out_attention(),
        skips(),
    ],
    ids=["relu", "xavier", "tanh", "gelu", "sigmoid", "conv", "residual", "attention", "skips"],
)
def test_backward_to_the_input(net):
    # for a gradient u ~ N(0, I) at the output, E‖Jᵀu‖² = ‖J‖_F²
    measured = jacobian_square(net, "input", "output")
    expected = math.exp(predicted(net).backward["input"])
    assert abs(math.log2(expected / measured)) / 2 < 1


def test_the_mean_of_the_weights_adds_up_over_the_inputs():
    net = Network(seed=0)
    x = net.input(64)
    for _ in range(4):
        x = net.relu(net.linear(x, net.rng.uniform(0, 1, (64, 64))))
    net.output(x)
    found = errors(net)
    assert max(abs(error) for error in found.values()) < 0.3
    # about n²/4 · E[relu]² per layer in q, where n (1/4 + 1/12) alone would give 21
    assert predicted(net).forward["output"].log_q > 4 * math.log(250)


def standardised(net, *shape, gain=1.7139588594436646):
    weight = net.rng.normal(size=shape)
    axes = tuple(range(1, len(shape)))
    weight -= weight.mean(axis=axes, keepdims=True)
    weight /= weight.std(axis=axes, keepdims=True)
    return (gain * weight / math.sqrt(math.prod(shape[1:]))).astype(np.float32)


def standardised_stack(op, gain, depth=10):
    net = Network(seed=2)
    x = net.linear(net.input(WIDTH), normal(net, WIDTH, WIDTH, 1.0))
    for _ in range(depth):
        x = net.linear(net.layer(op, x), standardised(net, WIDTH, WIDTH, gain=gain))
    net.output(x)
    return net


def standardised_filters(depth=6):
    net = Network(seed=2)
    x = net.input(3, 12, 12)
    for index in range(depth):
        weight = standardised(net, 32, 32 if index else 3, 3, 3, gain=1.7139 if index else 1.0)
        x = net.relu(net.conv(x, weight, padding=1))
    net.output(x)
    return net


@pytest.mark.parametrize(
    "net",
    [
        standardised_stack(Op.RELU, 1.7139),
        standardised_stack(Op.RELU, 1.0),
        standardised_stack(Op.SIGMOID, 4.8),
        standardised_stack(Op.SILU, 1.7872),
        standardised_filters(),
    ],
    ids=["relu", "relu-no-gain", "sigmoid", "silu", "filters"],
)
def test_rows_of_sum_zero_do_not_see_what_inputs_share(net):
    assert max(abs(error) for error in errors(net).values()) < 0.3


def test_draws_that_sum_to_zero_as_a_whole_only_are_independent():
    net = Network(seed=4)
    x = net.input(64)
    for _ in range(6):
        weight = net.rng.normal(size=(64, 64)) * math.sqrt(2 / 64)
        x = net.relu(net.linear(x, weight - weight.mean()))
    net.output(x)
    drawn = predicted(net).forward["output"].log_q
    assert abs(drawn) < 0.5  # He's gain keeps q; rows of sum zero would lose ln(1 - 1/pi) a layer


def test_correlation_collapses_as_it_does():
    net = plain(Op.RELU, 2.0, depth=15, bias=0.0)
    prediction = predicted(net)
    values = net.evaluate(net.feeds(64))
    for key in ("relu_5", "relu_15"):
        rows = values[key][0]
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = rows @ rows.T
        measured = (cosines.sum() - 64) / (64 * 63)
        assert prediction.forward[key].correlation == pytest.approx(measured, abs=0.05)


def test_batch_norm_sees_what_differs_between_samples():
    net = Network(seed=0)
    x = net.linear(net.input(64), normal(net, 64, 64, 0.01), 3 * net.rng.standard_normal(64))
    net.output(net.linear(net.batch_norm(x), normal(net, 64, 64, 1.0)))
    prediction = predicted(net)
    assert prediction.forward["linear_1"].correlation > 0.99
    assert prediction.forward["batch_norm_1"].log_q == pytest.approx(0, abs=0.05)
    assert prediction.forward["batch_norm_1"].correlation == pytest.approx(0, abs=1e-6)
    # the gradient is divided by the variance, 0.01, not by the mean square
    gain = prediction.backward["linear_1"] - prediction.backward["batch_norm_1"]
    assert gain == pytest.approx(-math.log(0.01), abs=0.3)


def test_the_same_tensor_twice_doubles_and_its_difference_vanishes():
    net = Network(seed=0)
    x = net.linear(net.input(32), normal(net, 32, 32, 1.0))
    double = net.add(x, x)
    nothing = net.sub(x, x)
    net.output(net.add(double, nothing))
    forward = predicted(net).forward
    assert forward["add_1"].log_q - forward["linear_1"].log_q == pytest.approx(math.log(4))
    assert forward["sub_1"].log_q == -math.inf


def test_an_unknown_operator_ends_the_prediction_and_a_norm_resumes_it():
    net = Network(seed=0)
    x = net.other(net.linear(net.input(32), normal(net, 32, 32)), name="odd")
    y = net.relu(net.linear(x, normal(net, 32, 32)))
    z = net.layer_norm(y)
    net.output(net.linear(z, normal(net, 32, 32, 1.0)))
    prediction = predicted(net)
    assert prediction.ended_at == ("odd",)
    assert "odd" not in prediction.forward
    assert "relu_1" not in prediction.forward
    assert prediction.forward["layer_norm_1"].log_q == pytest.approx(0)
    assert "linear_3" in prediction.forward
    assert "layer_norm_1" in prediction.backward
    assert "linear_1" not in prediction.backward


def test_a_parameter_without_values_is_unknown():
    net = Network(seed=0)
    x = net.input(8)
    weight = net.param(Role.WEIGHT, "meta.weight", np.zeros((8, 8)))
    known = net.layer(Op.LINEAR, x, params=[weight], name="meta")
    net.output(known)
    model = net.model()
    layer = model.graph["meta"]

    class Nothing:
        def moments(self, param):
            return None

        def leading(self, param):
            return None

    prediction = predict(model, Nothing())
    assert layer.id in prediction.ended_at
    assert prediction.segments == ()


def test_zeros_are_followed_as_zeros():
    net = Network(seed=0)
    x = net.relu(net.linear(net.input(32), normal(net, 32, 32)))
    net.output(net.linear(x, np.zeros((10, 32))))
    prediction = predicted(net)
    assert prediction.forward["linear_2"].log_q == -math.inf
    assert prediction.backward["relu_1"] == -math.inf


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_unknown(value):
    net = Network(seed=0)
    weight = normal(net, 32, 32)
    weight[0, 0] = value
    net.output(net.relu(net.linear(net.input(32), weight)))
    prediction = predicted(net)
    assert prediction.ended_at == ("linear_1",)
    assert "relu_1" not in prediction.forward


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_thousand_layers_neither_underflow_nor_overflow(scale):
    net = Network(seed=0)
    x = net.input(4)
    weight = normal(net, 4, 4) * scale
    for _ in range(300):
        x = net.gelu(net.linear(x, weight))
    net.output(x)
    prediction = predicted(net)
    assert math.isfinite(prediction.forward["output"].log_q)
    assert math.isfinite(prediction.backward["input"])


def test_masks_and_indices_are_no_signal():
    net = Network(seed=0)
    ids = net.tokens(8, 20)
    x = net.embedding(ids, net.rng.normal(size=(20, 16)))
    hidden = net.layer(Op.COMPARE, ids, kind="greater", constant=3)
    net.output(net.linear(x, normal(net, 16, 16)))
    net.output(hidden, "mask")
    prediction = predicted(net)
    assert prediction.ended_at == ()
    assert "tokens" not in prediction.forward
    assert hidden.layer not in prediction.forward


def test_finite_width_is_reported():
    narrow, wide = (plain(Op.RELU, 2.0, width=width) for width in (32, 128))
    a = predicted(narrow).forward["relu_12"].log_variance
    b = predicted(wide).forward["relu_12"].log_variance
    assert a == pytest.approx(4 * b, rel=0.05)
    # at most κ/n per layer for one sample (Hanin & Rolnick 2018): 5/32, twelve times
    assert a < 12 * 5 / 32


def test_finite_width_scatters_as_predicted():
    def deep(seed):
        net = Network(seed=seed)
        x = net.input(24)
        for _ in range(12):
            x = net.relu(net.linear(x, normal(net, 24, 24)))
        net.output(x)
        return net

    nets = [deep(seed) for seed in range(60)]
    logs = [math.log(np.mean(net.evaluate(net.feeds(64))["relu_12"][0] ** 2)) for net in nets]
    expected = predicted(nets[0]).forward["relu_12"].log_variance
    assert 0.5 < expected / np.var(logs) < 2


def test_equal_calls_give_equal_predictions():
    net = transformer()
    assert predicted(net) == predicted(net)


def test_a_root_of_squares_is_followed():
    net = Network(seed=0)
    x = net.linear(net.input(WIDTH), normal(net, WIDTH, WIDTH, 3.0))
    magnitude = net.layer(Op.SQRT, net.layer(Op.SQUARE, x))
    net.output(net.linear(magnitude, normal(net, 64, WIDTH, 1.0)))
    assert max(abs(error) for error in errors(net).values()) < 0.2


def test_parts_of_a_packed_projection_keep_their_scale():
    net = Network(seed=0)
    x = net.input(12, 64)
    scales = {"query": 1.0, "key": 4.0, "value": 1e-4}
    params = [
        net.param(
            Role.WEIGHT,
            "qkv.weight",
            normal(net, 64, 64, gain),
            gate=gate,
            stored_name="qkv.weight",
            packed=3,
        )
        for gate, gain in scales.items()
    ]
    weight = np.concatenate([param.tensor.read() for param in params])
    packed = net.linear(x, weight, name="qkv")
    layers = net._layers
    layers[-1] = type(layers[-1])(
        "qkv", Op.LINEAR, tuple(params), output_shape=packed.shape, channel_axis=-1
    )
    parts = net.split(packed, 3)
    for number, part in enumerate(parts):
        net.output(net.layer(Op.IDENTITY, part, name=f"part_{number}"), f"out_{number}")
    forward = predicted(net).forward
    for number, gain in enumerate(scales.values()):
        assert forward[f"part_{number}"].log_q == pytest.approx(math.log(gain), abs=0.1)


@pytest.mark.parametrize(("shared", "readers"), [(False, 1), (True, 5)])
def test_matrices_of_a_stack_share_a_gradient_only_where_they_share_their_input(shared, readers):
    net = Network(seed=0)
    shape = (8, 64) if shared else (5, 8, 64)
    x = net.layer(Op.IDENTITY, net.input(*shape), name="before")
    blocks = [normal(net, 64, 64, 1.0) for _ in range(5)]
    params = [
        net.param(Role.WEIGHT, "w", block, gate=str(index), packed=5)
        for index, block in enumerate(blocks)
    ]
    made = net.linear(x, blocks[0], name="stack")
    net._layers[-1] = type(net._layers[-1])(
        "stack", Op.LINEAR, tuple(params), output_shape=(None, 5, 8, 64), channel_axis=-1
    )
    net.output(made)
    assert predicted(net).backward["before"] == pytest.approx(math.log(readers), abs=0.1)
