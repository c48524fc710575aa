import math
from itertools import pairwise

import numpy as np
import pytest

from initlint.measure.measures import Measures
from initlint.model import Op
from initlint.testing.network import Network
from initlint.theory.harm import Harm, backward_harm, drift_harm
from initlint.theory.propagation import predict
from initlint.theory.result import Sink

WIDTH = 128


def normal(net, out, fan_in, gain=2.0):
    return net.rng.normal(size=(out, fan_in)) * math.sqrt(gain / fan_in)


def predicted(net):
    model = net.model(fresh_hint=True)
    return predict(model, Measures(model))


def plain(gain, depth=30, head=1.0, op=Op.RELU):
    net = Network(seed=0)
    x = net.input(WIDTH)
    for _ in range(depth):
        x = net.layer(op, net.linear(x, normal(net, WIDTH, WIDTH, gain)))
    net.output(net.linear(x, normal(net, 10, WIDTH, head)))
    return net


def only(net):
    (segment,) = predicted(net).segments
    return segment


def test_xavier_before_relu_loses_half_of_q_per_layer():
    segment = only(plain(1.0))
    assert segment.sink is Sink.OUTPUT
    assert segment.drift == pytest.approx(30 * 0.5 * math.log10(0.5), abs=0.15)
    assert segment.backward_drift == pytest.approx(29 * 0.5 * math.log10(0.5), abs=0.15)
    assert drift_harm(segment.drift, segment.band) is Harm.ERROR
    assert len(segment.layers) == 31
    assert not segment.residual
    assert not segment.normalised


def test_contributions_sum_to_the_drift_and_point_at_the_culprit():
    net = Network(seed=0)
    x = net.input(WIDTH)
    for index in range(12):
        gain = 2.0 if index != 5 else 2e-4
        x = net.relu(net.linear(x, normal(net, WIDTH, WIDTH, gain)))
    net.output(net.linear(x, normal(net, 10, WIDTH, 1.0)))
    segment = only(net)
    assert sum(segment.contributions.values()) == pytest.approx(segment.drift)
    assert sum(segment.backward_contributions.values()) == pytest.approx(segment.backward_drift)
    assert min(segment.contributions, key=segment.contributions.__getitem__) == "linear_6"
    assert segment.contributions["linear_6"] == pytest.approx(-2, abs=0.1)


@pytest.mark.parametrize("head", [0.0, 1e-8, 1e-4, 1 / 3, 1.0])
def test_a_small_head_is_forgiven(head):
    segment = only(plain(2.0, depth=10, head=head))
    assert drift_harm(segment.drift, segment.band) is None
    assert backward_harm(segment.backward_drift, segment.band) is None


def test_a_zero_head_does_not_hide_a_lost_signal():
    segment = only(plain(1.0, depth=36, head=0.0))
    assert drift_harm(segment.drift, segment.band) is Harm.ERROR
    assert backward_harm(segment.backward_drift, segment.band) is Harm.ERROR


def test_the_bias_of_the_head_is_no_signal():
    net = plain(1.0, head=1.0)
    biased = Network(seed=0)
    x = biased.input(WIDTH)
    for _ in range(30):
        x = biased.relu(biased.linear(x, normal(biased, WIDTH, WIDTH, 1.0)))
    biased.output(biased.linear(x, normal(biased, 10, WIDTH), biased.rng.normal(size=10)))
    assert only(biased).drift == pytest.approx(only(net).drift, abs=0.3)


def test_a_large_head_explodes():
    segment = only(plain(2.0, depth=4, head=1e4))
    assert segment.drift == pytest.approx(2, abs=0.2)


def test_a_norm_behind_each_layer_resets_the_scale():
    net = Network(seed=0)
    x = net.input(WIDTH)
    for _ in range(10):
        x = net.relu(net.batch_norm(net.linear(x, normal(net, WIDTH, WIDTH, 1e-2))))
    net.output(net.linear(x, normal(net, 10, WIDTH, 1.0)))
    segments = predicted(net).segments
    normalised = [segment for segment in segments if segment.sink is Sink.NORMALISER]
    assert len(normalised) == 10
    assert all(segment.normalised and segment.drift == 0 for segment in normalised)
    assert all(
        drift_harm(segment.drift, segment.band, segment.sink) is None for segment in segments
    )


def test_a_norm_cannot_restore_what_lies_below_its_epsilon():
    net = Network(seed=0)
    x = net.input(WIDTH)
    for _ in range(2):
        x = net.linear(x, normal(net, WIDTH, WIDTH, 1e-7))
    net.output(net.layer_norm(x, eps=1e-5))
    (segment,) = predicted(net).segments
    assert segment.sink is Sink.NORMALISER
    assert segment.drift == pytest.approx(0.5 * math.log10(1e-14 / 1e-5), abs=0.1)


def test_saturating_ends_and_softmax_are_recognised():
    for op, sink in ((Op.SIGMOID, Sink.SATURATION), (Op.SOFTMAX, Sink.SOFTMAX)):
        net = Network(seed=0)
        x = net.relu(net.linear(net.input(WIDTH), normal(net, WIDTH, WIDTH)))
        net.output(net.layer(op, net.linear(x, normal(net, 10, WIDTH, 1.0))))
        segment = only(net)
        assert segment.sink is sink
        assert abs(segment.drift) < 0.2


def test_a_residual_trunk_grows_by_its_branches():
    net = Network(seed=0)
    x = net.linear(net.input(WIDTH), normal(net, WIDTH, WIDTH, 1.0))
    for _ in range(16):
        branch = net.relu(net.linear(x, normal(net, WIDTH, WIDTH)))
        x = net.add(x, net.linear(branch, normal(net, WIDTH, WIDTH, 1.0)))
    net.output(net.linear(x, normal(net, 10, WIDTH, 1.0)))
    prediction = predicted(net)
    (segment,) = prediction.segments
    assert segment.residual
    assert segment.drift == pytest.approx(16 * 0.5 * math.log10(2), abs=0.3)
    assert len(prediction.residuals) == 16
    first = prediction.residuals[0]
    assert (first.add, first.trunk, first.last) == ("add_1", "linear_1", "linear_3")
    assert first.layers == ("linear_2", "linear_3")
    assert first.gain == pytest.approx(1, abs=0.1)
    assert not first.normalised
    assert not first.gated
    assert not first.post_norm


def test_what_closes_a_branch_is_seen():
    net = Network(seed=0)
    x = net.linear(net.input(WIDTH), normal(net, WIDTH, WIDTH, 1.0))
    branch = net.linear(net.relu(x), normal(net, WIDTH, WIDTH))
    x = net.add(x, net.gain(branch, np.full(WIDTH, 0.1)))
    inner = net.linear(net.layer_norm(x), normal(net, WIDTH, WIDTH))
    x = net.add(inner, x)
    x = net.layer_norm(net.add(x, net.linear(x, np.zeros((WIDTH, WIDTH)))))
    net.output(net.linear(x, normal(net, 10, WIDTH, 1.0)))
    gated, before, after = predicted(net).residuals
    assert gated.gated
    assert gated.gain == pytest.approx(0.01, rel=0.2)
    assert before.normalised
    assert not before.post_norm
    assert before.trunk == "add_1"
    assert after.post_norm
    assert after.gain == 0


def test_sums_of_unrelated_tensors_are_not_residual():
    net = Network(seed=0)
    a = net.linear(net.input(WIDTH), normal(net, WIDTH, WIDTH))
    b = net.linear(net.input(WIDTH, name="other"), normal(net, WIDTH, WIDTH))
    net.output(net.add(a, b))
    assert predicted(net).residuals == ()


def test_a_projected_shortcut_is_still_a_shortcut():
    net = Network(seed=0)
    x = net.relu(net.linear(net.input(WIDTH), normal(net, WIDTH, WIDTH)))
    branch = net.linear(x, normal(net, 64, WIDTH))
    branch = net.linear(net.relu(branch), normal(net, 64, 64))
    x = net.add(branch, net.linear(x, normal(net, 64, WIDTH)))
    net.output(net.linear(x, normal(net, 10, 64, 1.0)))
    (found,) = predicted(net).residuals
    assert (found.trunk, found.last) == ("relu_1", "linear_3")


@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_embeddings_and_recurrent_layers_make_no_drift(scale):
    net = Network(seed=0)
    x = net.embedding(net.tokens(30, 50), scale * net.rng.normal(size=(50, 64)))
    bound = 1 / 8

    def uniform(*shape):
        return net.rng.uniform(-bound, bound, shape)

    x = net.lstm(x, uniform(256, 64), uniform(256, 64), uniform(256), uniform(256))
    net.output(net.linear(x, normal(net, 5, 64, 1 / 3)))
    for segment in predicted(net).segments:
        assert drift_harm(segment.drift, segment.band, segment.sink) is None
        assert backward_harm(segment.backward_drift, segment.band) is None


def test_an_autoencoder_with_sigmoid_output_makes_no_drift():
    net = Network(seed=0)
    sizes = (256, 128, 64, 16, 64, 128, 256)
    x = net.input(256)
    for before, after in pairwise(sizes[:-1]):
        x = net.relu(net.linear(x, normal(net, after, before)))
    net.output(net.sigmoid(net.linear(x, normal(net, 256, 128, 1.0))))
    segment = only(net)
    assert drift_harm(segment.drift, segment.band, segment.sink) is None
    assert backward_harm(segment.backward_drift, segment.band) is None


def test_pooling_at_the_end_is_no_loss_of_gradient():
    net = Network(seed=0)
    x, channels = net.input(3, 16, 16), 3
    for _ in range(4):
        weight = net.rng.normal(size=(32, channels, 3, 3)) * math.sqrt(2 / (9 * channels))
        x, channels = net.relu(net.conv(x, weight, padding=1)), 32
    x = net.flatten(net.pool(x, "mean"))
    net.output(net.linear(x, normal(net, 10, 32, 1.0)))
    segment = only(net)
    assert abs(segment.backward_drift) < 0.3
    assert drift_harm(segment.drift, segment.band, segment.sink) is None
