"""Symmetric units: found where training keeps them equal, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import initlint
from benchmarks.unseen.collection import FAULTS
from initlint.model import Op
from initlint.testing import Network, full, he_normal, normal, ones, zeros
from initlint.theory.partition import symmetric_units


class Exact:
    """Equal rows and values, without tolerance."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def duplicates(self, param):
        rows: dict[bytes, list[int]] = {}
        for index, row in enumerate(param.tensor.read()):
            rows.setdefault((row + 0.0).tobytes(), []).append(index)
        return tuple(tuple(group) for group in rows.values() if len(group) > 1)

    def read(self, param):
        self.asked.append(param.name)
        return None if param.tensor is None else param.tensor.read()


def found(net: Network):
    return symmetric_units(net.model(), Exact())


def summary(net: Network):
    return [(group.layer, group.units, group.symmetric) for group in found(net)]


def twin_rows(array, *groups):
    for first, *rest in groups:
        array[list(rest)] = array[first]
    return array


def twin_columns(array, *groups):
    for first, *rest in groups:
        array[:, list(rest)] = array[:, [first]]
    return array


def mlp(rows=(), columns=(), bias=None, middle=None, labels=None):
    net = Network(seed=2)
    h = net.linear(net.input(6), twin_rows(normal(net.rng, 8, 6), *rows), bias, name="fc1")
    if middle is not None:
        h = middle(net, h)
    h = net.relu(h)
    net.output(net.linear(h, twin_columns(normal(net.rng, 3, 8), *columns), name="fc2"))
    return net


def test_random_weights_have_no_groups_and_are_not_read():
    net = mlp()
    weights = Exact()
    assert symmetric_units(net.model(), weights) == ()
    assert weights.asked == []


def test_equal_rows_and_columns_are_symmetric():
    (group,) = found(mlp(rows=[(1, 4, 6)], columns=[(1, 4, 6)]))
    assert (group.layer, group.units, group.symmetric) == ("fc1", (1, 4, 6), True)
    assert (group.lost, group.size, group.consumers[-1]) == (2, 8, "fc2")
    assert not group.zero


def test_equal_rows_alone_are_incoming_equal():
    assert summary(mlp(rows=[(1, 4, 6)])) == [("fc1", (1, 4, 6), False)]


def test_columns_split_a_group():
    assert summary(mlp(rows=[(1, 4, 6)], columns=[(1, 6)])) == [
        ("fc1", (1, 6), True),
        ("fc1", (1, 4, 6), False),
    ]


def test_equal_columns_alone_are_nothing():
    assert summary(mlp(columns=[(1, 4)])) == []


def test_biases_separate():
    bias = np.arange(8, dtype=np.float32)
    assert summary(mlp([(1, 4)], [(1, 4)], bias)) == [("fc1", (1, 4), False)]
    bias[4] = bias[1]
    assert summary(mlp([(1, 4)], [(1, 4)], bias)) == [("fc1", (1, 4), True)]


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("kind", ["norm gain", "norm shift", "scale", "slope", "constant"])
def test_numbers_per_unit_separate(kind, equal):
    values = normal(np.random.default_rng(0), 8)
    if equal:
        values[4] = values[1]

    def middle(net, h):
        if kind == "norm gain":
            return net.layer_norm(h, gain=values)
        if kind == "norm shift":
            return net.batch_norm(h, shift=values)
        if kind == "scale":
            return net.layer_scale(h, values)
        if kind == "slope":
            return net.prelu(h, values)
        return net.mul(h, values)

    result = summary(mlp([(1, 4)], [(1, 4)], middle=middle))
    assert result == [("fc1", (1, 4), equal)]


def test_dropout_is_noted():
    (group,) = found(mlp([(1, 4)], [(1, 4)], middle=lambda net, h: net.dropout(h, 0.1)))
    assert group.symmetric
    assert group.noise


def constant_mlp(depth=3):
    net = Network()
    h = net.input(6)
    for index in range(depth):
        h = net.tanh(net.linear(h, full(0.1, 8, h.shape[-1]), full(0.0, 8), name=f"fc{index}"))
    net.output(net.linear(h, normal(net.rng, 3, 8) if depth else h, name="head"))
    return net


def test_a_constant_network_is_symmetric_up_to_its_head():
    """The last hidden layer's columns differ; below it whole layers collapse to one unit."""
    everything = tuple(range(8))
    assert summary(constant_mlp()) == [
        ("fc0", everything, True),
        ("fc1", everything, True),
        ("fc2", everything, False),
    ]


def trained_rnn(w, r, head, steps=20):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module, last = torch.nn.RNN(4, len(r), bias=False, batch_first=True), torch.nn.Linear(len(r), 2)
    with torch.no_grad():
        module.weight_ih_l0.copy_(torch.tensor(w))
        module.weight_hh_l0.copy_(torch.tensor(r))
        last.weight.copy_(torch.tensor(head))
    optimizer = torch.optim.SGD([*module.parameters(), *last.parameters()], lr=0.1)
    x, y = torch.randn(32, 7, 4), torch.randn(32, 7, 2)
    for _ in range(steps):
        optimizer.zero_grad()
        ((last(module(x)[0]) - y) ** 2).mean().backward()
        optimizer.step()
    return module.weight_ih_l0.detach().numpy()


@pytest.mark.parametrize("columns", [True, False])
def test_an_identity_state_matrix_separates_nothing(columns):
    rng = np.random.default_rng(5)
    w = twin_rows(normal(rng, 5, 4), (1, 3))
    r = 0.5 * np.eye(5, dtype=np.float32)
    head = normal(rng, 2, 5)
    if columns:
        head = twin_columns(head, (1, 3))
    net = Network()
    h = net.rnn(net.input(7, 4), w, r, name="rnn")
    net.output(net.linear(h, head, name="head"))
    assert summary(net) == ([("rnn", (1, 3), True)] if columns else [])
    trained = trained_rnn(w, r, head)
    assert np.allclose(trained[1], trained[3], atol=1e-6) is columns


def test_a_gated_product_ties_its_two_layers():
    def build(pair):
        net = Network(seed=1)
        x = net.input(8)
        up = net.linear(x, twin_rows(normal(net.rng, 6, 8), (0, 2)), name="up")
        gate = net.linear(x, twin_rows(normal(net.rng, 6, 8), pair), name="gate")
        down = twin_columns(normal(net.rng, 3, 6), (0, 2))
        net.output(net.linear(net.mul(up, net.silu(gate)), down, name="down"))
        return [(group.units, group.layers) for group in found(net) if group.symmetric]

    assert build((0, 2)) == [((0, 2), ("up", "gate"))]
    assert build((1, 3)) == []


def stays_equal(build, steps=20):
    """Distinct rows of each hidden weight after training in torch, from the same arrays."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = build()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    x, y = torch.randn(32, 6), torch.randn(32, 3)
    for _ in range(steps):
        optimizer.zero_grad()
        ((module(x) - y) ** 2).mean().backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("columns", [True, False])
def test_training_agrees(columns):
    torch = pytest.importorskip("torch")
    net = mlp([(1, 4, 6)], [(1, 4, 6)] if columns else [])
    arrays = [param.tensor.read() for _, param in net.graph.params]

    def build():
        module = torch.nn.Sequential(
            torch.nn.Linear(6, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3, bias=False)
        )
        with torch.no_grad():
            module[0].weight.copy_(torch.tensor(arrays[0]))
            module[2].weight.copy_(torch.tensor(arrays[1]))
        return module

    weight = stays_equal(build)[0].weight.detach()
    equal = torch.equal(weight[1], weight[4]) and torch.equal(weight[1], weight[6])
    assert equal is columns
    assert [group.symmetric for group in found(net)] == [columns]


def conv_net(rows, columns, tail, out=None, seed=3):
    net = Network(seed=seed)
    weight = twin_rows(normal(net.rng, 6, 2, 3, 3), *rows)
    h = net.relu(net.batch_norm(net.conv(net.input(2, 5, 5), weight, padding=1, name="conv")))
    return net, tail(net, h, columns)


def flat_tail(net, h, columns):
    area = h.shape[2] * h.shape[3]
    head = normal(net.rng, 3, 6 * area).reshape(3, 6, area)
    net.output(net.linear(net.flatten(h), twin_columns(head, *columns).reshape(3, -1), name="fc"))


def pooled_tail(net, h, columns):
    head = twin_columns(normal(net.rng, 3, 6), *columns)
    net.output(net.linear(net.flatten(net.pool(net.pool(h, "max", 2), "mean")), head, name="fc"))


def mean_tail(net, h, columns):
    head = twin_columns(normal(net.rng, 3, 6), *columns)
    net.output(net.linear(net.reduce(h, "mean", (2, 3)), head, name="fc"))


def last_tail(net, h, columns):
    """Channels last before flattening: columns of a channel lie apart."""
    head = normal(net.rng, 3, 25 * 6).reshape(3, 25, 6)
    for first, *rest in columns:
        head[:, :, rest] = head[:, :, [first]]
    flat = net.flatten(net.transpose(h, 0, 2, 3, 1))
    net.output(net.linear(flat, head.reshape(3, -1), name="fc"))


def conv_tail(net, h, columns):
    weight = twin_columns(normal(net.rng, 4, 6, 3, 3), *columns)
    net.output(net.pool(net.conv(h, weight, name="fc"), "mean"))


@pytest.mark.parametrize("tail", [flat_tail, pooled_tail, mean_tail, last_tail, conv_tail])
@pytest.mark.parametrize("columns", [True, False])
def test_channels_are_followed(tail, columns):
    net, _ = conv_net([(0, 3)], [(0, 3)] if columns else [], tail)
    assert summary(net) == [("conv", (0, 3), columns)]


def test_group_norm_separates_groups():
    def build(pair):
        net = Network(seed=1)
        weight = twin_rows(normal(net.rng, 6, 2, 3, 3), pair)
        h = net.group_norm(net.conv(net.input(2, 5, 5), weight, name="conv"), 2)
        head = twin_columns(normal(net.rng, 3, 6), pair)
        net.output(net.linear(net.flatten(net.pool(net.relu(h), "mean")), head, name="fc"))
        return summary(net)

    assert build((0, 1)) == [("conv", (0, 1), True)]
    assert build((0, 3)) == [("conv", (0, 3), False)]


def test_concatenation_keeps_offsets():
    def build(pair):
        net = Network(seed=1)
        x = net.input(6)
        a = net.relu(net.linear(x, normal(net.rng, 4, 6), name="a"))
        b = net.relu(net.linear(x, twin_rows(normal(net.rng, 5, 6), (0, 2)), name="b"))
        head = twin_columns(normal(net.rng, 3, 9), pair)
        net.output(net.linear(net.concat(a, b, axis=-1), head, name="head"))
        return summary(net)

    assert build((4, 6)) == [("b", (0, 2), True)]
    assert build((0, 2)) == [("b", (0, 2), False)]


@pytest.mark.parametrize("both", [True, False])
def test_units_of_a_residual_stream_belong_to_all_its_writers(both):
    net = Network(seed=1)
    x = net.linear(net.input(6), twin_rows(normal(net.rng, 8, 6), (2, 5)), name="stem")
    inner = net.relu(net.linear(x, twin_columns(normal(net.rng, 10, 8), (2, 5)), name="up"))
    down = normal(net.rng, 8, 10)
    x = net.add(x, net.linear(inner, twin_rows(down, (2, 5)) if both else down, name="down"))
    net.output(net.linear(x, twin_columns(normal(net.rng, 3, 8), (2, 5)), name="head"))
    groups = found(net)
    assert [group.symmetric for group in groups if group.layer == "stem"] == [both]
    if both:
        assert groups[0].layers == ("stem", "down")
        assert len(groups) == 1


def test_a_stream_with_an_input_has_no_symmetry():
    net = Network(seed=1)
    x = net.input(8)
    h = net.relu(net.linear(x, full(0.1, 8, 8), name="up"))
    x = net.add(x, net.linear(h, full(0.1, 8, 8), name="down"))
    net.output(net.linear(x, full(0.1, 3, 8), name="head"))
    symmetric = {group.layer for group in found(net) if group.symmetric}
    assert symmetric == {"up"}


@pytest.mark.parametrize("recurrent", ["equal", "rows only", "none"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_recurrent_units_need_equal_rows_and_columns(kind, recurrent):
    net = Network(seed=1)
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    w = normal(net.rng, gates, 5, 4)
    r = normal(net.rng, gates, 5, 5)
    w[:, 3] = w[:, 1]
    if recurrent != "none":
        r[:, 3] = r[:, 1]
    if recurrent == "equal":
        r[:, :, 3] = r[:, :, 1]
    h = getattr(net, kind)(net.input(7, 4), w.reshape(-1, 4), r.reshape(-1, 5), name="rnn")
    net.output(net.linear(h, twin_columns(normal(net.rng, 2, 5), (1, 3)), name="head"))
    expected = {"equal": [("rnn", (1, 3), True)], "rows only": [("rnn", (1, 3), False)], "none": []}
    assert summary(net) == expected[recurrent]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("directions", [1, 2])
def test_a_constant_recurrent_layer_is_fresh_and_one_unit_per_direction(kind, directions):
    torch.manual_seed(0)
    rnn = kind(10, 20, bidirectional=directions == 2)
    for parameter in rnn.parameters():
        nn.init.constant_(parameter, 0.1)
    net = nn.Sequential(Last(rnn), nn.Linear(20 * directions, 3))
    (found,) = initlint.check(net, torch.randn(6, 2, 10), select="identical-incoming").findings
    assert found["severity"] == "warning"
    assert found["evidence"]["distinct"] == directions


def test_a_second_direction_with_equal_rows_alone():
    torch.manual_seed(0)
    net = nn.Sequential(Last(nn.GRU(6, 8, bidirectional=True)), nn.Linear(16, 3))
    rnn = net[0].rnn
    with torch.no_grad():
        for name, parameter in rnn.named_parameters():
            if name.endswith("_reverse"):
                parts = parameter.view(3, 8, -1)
                parts[:, 2:5] = parts[:, 2:3].clone()
    (found,) = initlint.check(net, torch.randn(6, 2, 6), select="identical-incoming").findings
    assert found["severity"] == "warning"
    assert found["evidence"]["first_group"] == [10, 11, 12]


class Last(nn.Module):
    """The states of the last step."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)[0][-1]


def test_depthwise_kernels_are_equal_without_harm():
    net = Network(seed=1)
    h = net.conv(net.input(3, 6, 6), normal(net.rng, 4, 3, 1, 1), name="a")
    h = net.conv(h, full(1 / 9, 4, 1, 3, 3), groups=4, padding=1, name="blur")
    net.output(net.pool(net.conv(h, normal(net.rng, 2, 4, 1, 1), name="b"), "mean"))
    assert summary(net) == []


def test_depthwise_copies_of_twins_are_twins():
    net = Network(seed=1)
    h = net.conv(net.input(3, 6, 6), twin_rows(normal(net.rng, 4, 3, 1, 1), (0, 2)), name="a")
    kernel = twin_rows(normal(net.rng, 4, 1, 3, 3), (0, 2))
    h = net.relu(net.conv(h, kernel, groups=4, padding=1, name="depthwise"))
    last = twin_columns(normal(net.rng, 2, 4, 1, 1), (0, 2))
    net.output(net.pool(net.conv(h, last, name="b"), "mean"))
    assert summary(net) == [("a", (0, 2), True), ("depthwise", (0, 2), True)]


def test_rows_of_different_convolution_groups_read_different_inputs():
    net = Network(seed=1)
    weight = twin_rows(normal(net.rng, 4, 2, 3, 3), (0, 2))
    h = net.relu(net.conv(net.input(4, 6, 6), weight, groups=2, name="grouped"))
    head = twin_columns(normal(net.rng, 3, 4), (0, 2))
    net.output(net.linear(net.flatten(net.pool(h, "mean")), head, name="head"))
    assert summary(net) == []


def test_sub_pixel_kernels_are_equal_on_purpose():
    net = Network(seed=1)
    kernels = np.repeat(normal(net.rng, 3, 2, 3, 3), 4, axis=0)
    h = net.conv(net.input(2, 5, 5), kernels, padding=1, name="up")
    net.output(net.layer(Op.PIXEL_SHUFFLE, h, factor=2))
    assert summary(net) == []


def test_zero_rows_that_outgoing_weights_tell_apart_are_healthy():
    net = Network(seed=1)
    x = net.input(8)
    low = net.linear(x, zeros(2, 8), name="A")
    net.output(
        net.add(net.linear(x, normal(net.rng, 8, 8)), net.linear(low, normal(net.rng, 8, 2)))
    )
    assert summary(net) == []


def test_zero_heads_are_told_apart_by_labels():
    net = Network(seed=1)
    net.output(net.linear(net.input(8), zeros(3, 8), name="head"))
    assert summary(net) == []
    net = Network(seed=1)
    net.output(net.linear(net.input(8), ones(3, 8), name="head"))
    (group,) = found(net)
    assert (group.symmetric, group.output) == (False, True)


def test_all_zero_hidden_layers_are_marked_as_zero():
    net = Network(seed=1)
    h = net.sigmoid(net.linear(net.input(8), zeros(4, 8), name="a"))
    net.output(net.linear(h, zeros(3, 4), name="b"))
    (group,) = found(net)
    assert (group.layer, group.symmetric, group.zero) == ("a", True, True)


def test_frozen_layers_are_left_alone():
    net = Network(seed=1)
    h = net.relu(net.linear(net.input(8), ones(4, 8), name="a", trainable=False))
    net.output(net.linear(h, ones(3, 4), name="b", trainable=False))
    assert summary(net) == []


def test_equal_rows_of_an_embedding_are_tokens():
    net = Network(seed=1)
    x = net.embedding(net.tokens(5, 7), ones(7, 4), name="e")
    net.output(net.linear(x, he_normal(net.rng, 3, 4), name="head"))
    assert summary(net) == []


def test_what_cannot_be_followed_is_not_claimed():
    net = Network(seed=1)
    h = net.other(net.linear(net.input(8), ones(4, 8), name="a"))
    net.output(net.linear(h, ones(3, 4), name="b"))
    (first, _) = found(net)
    assert (first.layer, first.symmetric, first.followed) == ("a", False, False)


def test_heads_are_not_followed():
    net = Network(seed=1)
    x = net.input(5, 8)
    q, k, v = (net.linear(x, full(0.1, 8, 8), name=name) for name in "qkv")
    split = [net.transpose(net.reshape(item, 5, 2, 4), 0, 2, 1, 3) for item in (q, k, v)]
    mixed = net.reshape(net.transpose(net.attention(*split), 0, 2, 1, 3), 5, 8)
    net.output(net.linear(mixed, full(0.1, 8, 8), name="o"))
    assert not any(group.symmetric for group in found(net))


def test_halves_of_one_packed_layer_are_not_tied_to_each_other():
    net = Network(seed=1)
    weight = twin_rows(normal(net.rng, 12, 8), (0, 2), (6, 8))
    up, gate = net.split(net.linear(net.input(8), weight, name="fc"), 2)
    h = net.mul(up, net.silu(gate))
    net.output(net.linear(h, twin_columns(normal(net.rng, 3, 6), (0, 2)), name="down"))
    assert [(group.units, group.followed) for group in found(net)] == [
        ((0, 2), False),
        ((6, 8), False),
    ]


def test_heads_copied_within_a_packed_projection_are_found():
    torch.manual_seed(0)
    module, inputs = FAULTS["heads_copied_in_a_packed_projection"].build()
    report = initlint.check(module, *inputs)
    (found,) = [item for item in report.findings if item["severity"] != "info"]
    assert (found["name"], found["layers"]) == ("identical-incoming", ["attention.in_proj"])
    assert (found["evidence"]["copies"], found["evidence"]["units"]) == (72, 96)
    assert len(found["fix"]["params"]) == 3
